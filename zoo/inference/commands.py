"""The commands ``predict --window``, ``features``, ``search`` and ``export``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from zoo.command_line import expand_home, resolve_network
from zoo.errors import ConfigError, DataError, ZooError
from zoo.inference.compute_options import add_compute_options
from zoo.inference.embeddings import video_features, window_features
from zoo.inference.feature_files import FeatureFolder, VideoFeatures, search
from zoo.inference.inputs import is_url
from zoo.inference.predictor import Predictor
from zoo.inference.timeline_files import TimelineFile
from zoo.inference.windows import TimedPrediction, check_window, timeline
from zoo.loading import load
from zoo.models.network import VideoNetwork
from zoo.provenance import fingerprint
from zoo.spec import package_version
from zoo.text import printable
from zoo.training_state import is_untrained, untrained_error
from zoo.video.live import is_live
from zoo.video.source import VIDEO_EXTENSIONS


def list_videos(sources: Sequence[str]) -> list[str]:
    """List the videos of a command: a folder stands for all videos below it, sorted; other sources are unchanged.

    A folder without videos is read as one folder of frames.
    """
    videos: list[str] = []
    for source in sources:
        source = source if is_url(source) or is_live(source) else expand_home(source)
        if not os.path.isdir(source):
            videos.append(source)
            continue
        inside = sorted(
            str(path)
            for path in Path(source).rglob("*")
            if path.name.lower().endswith(VIDEO_EXTENSIONS) and not path.name.startswith(".") and path.is_file()
        )
        videos += inside or [source]
    return videos


def add_predictor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs a ``Predictor``."""
    parser.add_argument("--from", dest="network", required=True, help="network, as of `tempozoo fit --from`")
    add_compute_options(parser)


def open_predictor(network: VideoNetwork, args: argparse.Namespace) -> Predictor:
    """Create a ``Predictor`` with the options of ``add_compute_options``."""
    device = args.device or default_device()
    return Predictor(network, views=args.views, precision=args.precision, batch_size=args.batch_size, device=device)


def default_device() -> str:
    """Return a GPU for each process of this machine, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def predict_windows_command(arguments: Sequence[str]) -> None:
    """Classify every window of videos, cameras or streams."""
    parser = argparse.ArgumentParser(
        "tempozoo predict --window",
        description="Classify a window that moves over each video. The video is decoded once, in constant memory.",
    )
    parser.add_argument("sources", nargs="+", help="video files, folders, URLs, camera numbers (0) or rtsp:// streams")
    add_predictor_options(parser)
    parser.add_argument("--window", type=float, required=True, metavar="SECONDS", help="length of the window")
    parser.add_argument("--stride", type=float, metavar="SECONDS", help="between two windows (default: the window)")
    parser.add_argument("--top", type=int, default=3, help="classes per window (default: 3)")
    parser.add_argument("--threshold", type=float, default=0.0, help="print only windows with a score of at least this")
    parser.add_argument("--csv", metavar="FILE", help="append rows to a CSV file; a repeated command resumes it")
    parser.add_argument("--json", metavar="FILE", help="append rows to a file of JSON lines; resumed likewise")
    parser.add_argument("--save", metavar="FILE.mp4", help="write the video with its labels and scores")
    parser.add_argument("--plot", metavar="FILE.png", help="write a chart of the scores over time")
    parser.add_argument("--allow_untrained", action="store_true", help="also run networks with untrained parts")
    args = parser.parse_args(list(arguments))

    stride = check_window(args.window, args.stride)
    if args.top < 1:
        raise ConfigError(f"--top is {args.top}; it must be at least 1.")
    videos = list_videos(args.sources)
    check_pictures(args, videos)
    network = load(resolve_network(args.network))
    if is_untrained(network) and not args.allow_untrained:
        raise untrained_error(network, printable(args.network))
    settings = {
        "weights": fingerprint(network.state_dict()),
        "window": args.window,
        "stride": stride,
        "views": args.views,
        "top": args.top,
    }
    files = [TimelineFile(Path(expand_home(name)), settings, args.top) for name in (args.csv, args.json) if name]
    failures: list[str] = []
    try:
        with open_predictor(network, args) as predictor:
            for video in videos:
                try:
                    windows = _predict_video(predictor, video, args, stride, files)
                except DataError as error:
                    failures.append(str(error))
                    print(f"Not read: {printable(str(error))}", flush=True)
                    continue
                _draw(video, windows, args)
    finally:
        for file in files:
            file.close()
    for file in files:
        print(f"Written to {file.path}")
    if failures:
        raise ZooError(f"{len(failures)} of {len(videos)} videos could not be read; see above.")


def check_pictures(args: argparse.Namespace, videos: Sequence[str]) -> None:
    """Check ``--save`` and ``--plot`` before the videos are decoded.

    Raises:
        ConfigError: several videos, a live source, or a file name extension that cannot be written.
    """
    if not args.save and not args.plot:
        return
    from zoo.inference.drawing import check_chart_path, check_video_path

    if len(videos) > 1:
        raise ConfigError(f"--save and --plot need one video; there are {len(videos)}.")
    if args.save:
        if is_live(videos[0]):
            raise ConfigError(f"--save needs a video file; {printable(videos[0])} is a camera or stream.")
        check_video_path(Path(args.save))
    if args.plot:
        check_chart_path(Path(args.plot))


def _predict_video(
    predictor: Predictor, video: str, args: argparse.Namespace, stride: float, files: Sequence[TimelineFile]
) -> list[TimedPrediction]:
    """Print and write the windows of a video; returns them if they are drawn later."""
    print(printable(video), flush=True)
    live = is_live(video)  # its times begin at 0 again
    starts = {file: 0.0 if live else file.next_start(printable(video), stride) for file in files}
    start = 0.0 if args.save or args.plot or not files else min(starts.values())
    if start:
        print(f"  resumed at {start:g} s")
    predictions: list[TimedPrediction] = []
    for prediction in timeline(predictor, video, window=args.window, stride=stride, start=start):
        for file in files:
            if prediction.start >= starts[file] - 1e-6:
                file.append([prediction])
        if prediction.scores[0] >= args.threshold:
            print(printable(_line(prediction, args.top)), flush=True)
        if args.save or args.plot:
            predictions.append(prediction)
    return predictions


def _line(prediction: TimedPrediction, top: int) -> str:
    best = ", ".join(f"{label} {100 * score:.1f} %" for label, score in prediction.top(top))
    return f"  {prediction.start:8.2f} - {prediction.end:8.2f} s  {best}"


def _draw(video: str, windows: Sequence[TimedPrediction], args: argparse.Namespace) -> None:
    if args.save:
        from zoo.inference.drawing import annotate_video

        annotate_video(video, windows, Path(expand_home(args.save)), args.top)
        print(f"Written to {args.save}")
    if args.plot:
        from zoo.inference.drawing import plot_timeline

        plot_timeline(windows, Path(expand_home(args.plot)))
        print(f"Written to {args.plot}")


def features_command(arguments: Sequence[str]) -> None:
    """Write the features of videos."""
    parser = argparse.ArgumentParser(
        "tempozoo features",
        description="Write the features of videos to a folder, one safetensors file per video, with a manifest. "
        "A repeated command computes what is missing. With torchrun, processes share the videos.",
    )
    parser.add_argument("sources", nargs="+", help="video files, folders or URLs")
    add_predictor_options(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the features")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="features of windows instead of views")
    parser.add_argument("--stride", type=float, metavar="SECONDS", help="between two windows (default: the window)")
    parser.add_argument("--stage", type=int, help="stage, whose feature maps are averaged (default: classifier input)")
    parser.add_argument("--parquet", metavar="FILE", help="also combine all features into one Parquet file")
    args = parser.parse_args(list(arguments))
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
            "versions": {"tempozoo": package_version(), "torch": torch.__version__},
        }
    )
    videos = list_videos(args.sources)
    own = [video for video in videos[rank::processes] if not folder.has(video)]
    print(f"{len(videos)} videos; {len(videos[rank::processes]) - len(own)} of this process are complete", flush=True)
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


def search_command(arguments: Sequence[str]) -> None:
    """Print the videos that are most similar to a query."""
    parser = argparse.ArgumentParser(
        "tempozoo search", description="Find the videos nearest to a query, by the cosine similarity of their features."
    )
    parser.add_argument("query", help="video file or URL")
    parser.add_argument("--features", required=True, metavar="FOLDER", help="folder written by `tempozoo features`")
    parser.add_argument("--from", dest="network", help="network (default: the one of the features)")
    parser.add_argument("--top", type=int, default=10, help="videos (default: 10)")
    args = parser.parse_args(list(arguments))
    if args.top < 1:
        raise ConfigError(f"--top is {args.top}; it must be at least 1.")
    folder = FeatureFolder(expand_home(args.features))
    manifest = folder.manifest()
    network = load(resolve_network(args.network or str(manifest["network"])))
    if fingerprint(network.state_dict()) != manifest["weights"]:
        raise ConfigError(f"{args.features} was computed with other weights than those of {args.network}.")
    with Predictor(network, views=str(manifest["views"]), device=default_device()) as predictor:
        query = video_features(predictor, expand_home(args.query), manifest["stage"])
    query = query.flatten(2).mean(2) if query.ndim > 2 else query
    for match in search(list(folder.read()), query.mean(0), args.top):
        window = "" if match.start is None else f"  {match.start:.2f} - {match.end:.2f} s"
        print(f"{match.similarity:7.4f}  {printable(match.video)}{window}")


def export_network_command(arguments: Sequence[str]) -> None:
    """Export a network to another runtime."""
    from zoo.inference.exporting import FORMATS, export_network

    parser = argparse.ArgumentParser(
        "tempozoo export",
        description="Export a network with class names and protocol, compare it with the original at other batch "
        "sizes, and write an example script beside it.",
    )
    parser.add_argument("network", help="network, as of `tempozoo fit --from`")
    parser.add_argument("--to", dest="format", required=True, choices=list(FORMATS), help="format of the file")
    parser.add_argument("--out", metavar="FILE", help="file (default: the name of the network)")
    args = parser.parse_args(list(arguments))
    network = load(resolve_network(args.network))
    name = Path(args.network).stem if os.sep in args.network else args.network
    path = Path(expand_home(args.out or f"{name}{FORMATS[args.format]}"))
    report = export_network(network, path, args.format)
    print(report)
    print(f"Example: {report.example}")
