"""The commands ``explain``, ``features``, ``search`` and ``export``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

import zoo
from zoo.command_line import expand_home
from zoo.errors import ConfigError, DataError, ZooError
from zoo.inference.command_predictor import default_device, open_predictor
from zoo.inference.embeddings import video_features, window_features
from zoo.inference.explanation_pictures import check_picture_path
from zoo.inference.explanations import UNTRAINED, explain_video
from zoo.inference.feature_files import FeatureFolder, VideoFeatures, open_features, search
from zoo.inference.inputs import is_url
from zoo.inference.predictor import Predictor
from zoo.inference.source_lists import list_videos
from zoo.inference.vector_index import INDEX_FILE, import_faiss, load_or_build
from zoo.inference.windows import check_window
from zoo.loading import load
from zoo.network_names import resolve_network
from zoo.provenance import fingerprint
from zoo.text import pluralize, printable
from zoo.training_state import is_untrained, untrained_error


def features_command(args: argparse.Namespace) -> None:
    """Write the features of videos."""
    stride = None if args.window is None else check_window(args.window, args.stride)
    network = load(resolve_network(args.network))
    folder = FeatureFolder(expand_home(args.out))
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if args.parquet and processes > 1:
        raise ConfigError("--parquet needs all features: repeat the command with it in one process.")
    folder.start(
        {
            "network": args.network,
            "weights": fingerprint(network.state_dict()),
            "window": args.window,
            "stride": stride,
            "stage": args.stage,
            "views": args.views,
            "protocol": network.protocol.to_dict(),
            "versions": {"tempozoo": zoo.__version__, "torch": torch.__version__},
        }
    )
    videos = list_videos(args.sources)
    own = [video for video in videos[rank::processes] if not folder.has(video)]
    complete = len(videos[rank::processes]) - len(own)
    print(pluralize(len(videos), "video") + (f", {complete} complete" if complete else ""), flush=True)
    failures = 0
    with open_predictor(network, args) as predictor:
        for number, video in enumerate(own, 1):
            try:
                folder.write(_compute_features(predictor, video, args))
            except DataError as error:
                failures += 1
                print(f"Not read: {printable(str(error))}", flush=True)
                continue
            print(f"{number} of {len(own)}: {printable(video)}", flush=True)
    if args.parquet:
        folder.write_parquet(Path(expand_home(args.parquet)))
        print(f"Written to {args.parquet}")
    print(f"Written to {folder.folder}")
    if failures:
        raise ZooError(f"{failures} of {len(own)} videos could not be read; see above.")


def _compute_features(predictor: Predictor, video: str, args: argparse.Namespace) -> VideoFeatures:
    """Return the features of a video: rows of views, or of windows; feature maps are averaged."""
    if args.window is None:
        features = video_features(predictor, video, args.stage)
        times = torch.empty(2, 0)
    else:
        windows = list(window_features(predictor, video, window=args.window, stride=args.stride, stage=args.stage))
        features = torch.stack([window.features for window in windows])
        times = torch.tensor([[window.start for window in windows], [window.end for window in windows]])
    return VideoFeatures(video, features.flatten(2).mean(2) if features.ndim > 2 else features, *times)


def explain_command(args: argparse.Namespace) -> None:
    """Print the score of a class and where its relevance is; write a picture or a video."""
    path = None if args.save is None else Path(expand_home(args.save))
    if path is not None:
        check_picture_path(path)
    network = load(resolve_network(args.network))
    if is_untrained(network) and not args.allow_untrained:
        raise untrained_error(network, printable(args.network))
    video = args.video if is_url(args.video) else expand_home(args.video)
    explanation = explain_video(
        network, video, label=args.label, span=args.span, fps=args.fps, device=args.device or default_device()
    )
    predicted, best = explanation.top[0]
    remark = "" if explanation.label == predicted else f" (most probable: {predicted} {100 * best:.1f} %)"
    print(printable(f"{explanation.label} {100 * explanation.score:.1f} %{remark}"))
    print(printable(explanation.summary()))
    if explanation.untrained:
        print(UNTRAINED)
    if path is not None:
        explanation.save(path)
        print(f"Written to {args.save}")


def search_command(args: argparse.Namespace) -> None:
    """Print the videos that are most similar to a query."""
    if args.top < 1:
        raise ConfigError(f"--top is {args.top}; it must be at least 1.")
    if args.index == "faiss":
        import_faiss()  # before the query is computed
    features = open_features(expand_home(args.features))
    manifest = features.manifest()
    network = load(resolve_network(args.network or str(manifest["network"])))
    if fingerprint(network.state_dict()) != manifest["weights"]:
        raise ConfigError(f"{args.features} was computed with other weights than those of {args.network}.")
    with Predictor(network, views=str(manifest["views"]), device=default_device()) as predictor:
        query = video_features(predictor, expand_home(args.query), manifest["stage"])
    query = query.flatten(2).mean(2) if query.ndim > 2 else query
    if args.index == "faiss":
        path = Path(expand_home(args.features))
        index_path = path / INDEX_FILE if path.is_dir() else path.with_name(f"{path.name}.{INDEX_FILE}")
        matches = load_or_build(index_path, features.digest(), features.read).search(query.mean(0), args.top)
    else:
        matches = search(list(features.read()), query.mean(0), args.top)
    for match in matches:
        window = "" if match.start is None else f"  {match.start:.2f} - {match.end:.2f} s"
        print(f"{match.similarity:7.4f}  {printable(match.video)}{window}")


def export_network_command(args: argparse.Namespace) -> None:
    """Export a network to another runtime."""
    from zoo.inference.exporting import FORMATS, export_network

    network = load(resolve_network(args.network))
    name = Path(args.network).stem if os.sep in args.network else args.network
    path = Path(expand_home(args.out or f"{name}{FORMATS[args.format]}"))
    report = export_network(network, path, args.format)
    print(report)
    print(f"Example: {report.example}")
