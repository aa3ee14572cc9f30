"""``tempozoo predict`` without Lightning: one prediction per video, or per window of a video, camera or stream."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from zoo.command_line import expand_home
from zoo.compiling import CompileTimer
from zoo.errors import ConfigError, DataError, ZooError
from zoo.inference.command_predictor import open_predictor
from zoo.inference.inputs import video_name
from zoo.inference.predict_options import DEFAULT_FPS, STDOUT
from zoo.inference.predictor import Predictor
from zoo.inference.result_files import Kind, Labels, ResultFile, top_labels
from zoo.inference.source_lists import list_videos
from zoo.inference.windows import EPSILON, TimedPrediction, check_window, clip_seconds, timeline
from zoo.loading import load
from zoo.models.network import VideoNetwork
from zoo.network_names import resolve_network
from zoo.provenance import fingerprint
from zoo.text import printable
from zoo.training_state import is_untrained, untrained_error
from zoo.video.live import is_live

MAX_WIDTH = 60  # of the column of names


def predict_command(args: argparse.Namespace) -> None:
    """Classify videos, print their labels, and append them to files.

    Args:
        args: options of ``parse_predict``.
    """
    stdout = sys.stdout
    to_stdout = STDOUT in (args.csv, args.json)
    with contextlib.redirect_stdout(sys.stderr if to_stdout else stdout):  # messages are no results
        name = resolve_network(args.network)
        videos = list_videos(args.sources)
        _check_sources(args, videos)
        network = load(name)
        if is_untrained(network) and not args.allow_untrained:
            raise untrained_error(network, printable(args.network))
        if args.window is None and is_live(videos[0]):
            args.window = clip_seconds(network.protocol)
        timer = CompileTimer() if args.compile else None
        with open_predictor(network, args, args.compile) as predictor, contextlib.ExitStack() as stack:
            files = _open_files(network, args, stack, stdout)
            run = _predict_videos if args.window is None else _predict_windows
            failures = run(predictor, videos, args, files)
        if timer is not None:
            print(timer.close())
        for file in files:
            if not file.is_stdout:
                print(f"Written to {printable(str(file.path))}")
    if failures:
        advice = "; repeat the command to try them again" if files else ""
        raise ZooError(f"{failures} of {len(videos)} videos could not be read, see above{advice}.")


def _check_sources(args: argparse.Namespace, videos: Sequence[str]) -> None:
    """Check options that depend on the sources, before the network is loaded."""
    if args.window is not None:
        check_window(args.window, args.stride)
    elif not all(map(is_live, videos)):
        live = [str(video) for video in videos if is_live(video)]
        if live:
            raise ConfigError(f"{printable(live[0])} is a camera or stream; give --window to predict it with videos.")
        for option in ("stride", "save", "plot"):
            if getattr(args, option) is not None:
                raise ConfigError(f"--{option} needs --window SECONDS.")
    _check_pictures(args, videos)


def _check_pictures(args: argparse.Namespace, videos: Sequence[str]) -> None:
    """Check ``--save`` and ``--plot``: they need one video, and a file name extension that can be written."""
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


def _open_files(
    network: VideoNetwork, args: argparse.Namespace, stack: contextlib.ExitStack, stdout: IO[str]
) -> list[ResultFile]:
    """Open the files of ``--csv`` and ``--json``; the stack closes them."""
    settings: dict[str, Any] = {"weights": fingerprint(network.state_dict()), "views": args.views, "top": args.top}
    defaults = {"threshold": 0.0, "fps": DEFAULT_FPS}  # not stored
    settings |= {key: getattr(args, key) for key, value in defaults.items() if getattr(args, key) != value}
    if args.window is not None:
        settings |= {"window": args.window, "stride": check_window(args.window, args.stride)}
    targets: dict[Kind, str | None] = {"csv": args.csv, "json": args.json}
    files = []
    for kind, target in targets.items():
        if target is not None:
            files.append(
                ResultFile(
                    target if target == STDOUT else expand_home(target),
                    kind,
                    settings,
                    network,
                    top=args.top,
                    threshold=args.threshold,
                    windows=args.window is not None,
                    stdout=stdout,
                )
            )
            stack.callback(files[-1].close)
    return files


# videos ------------------------------------------------------------------------------------------------------------


def _predict_videos(
    predictor: Predictor, videos: Sequence[str], args: argparse.Namespace, files: Sequence[ResultFile]
) -> int:
    """Print and write the prediction of each video that a file lacks; return the number of unreadable videos."""
    names = [video_name(video) for video in videos]
    missing = [i for i, name in enumerate(names) if not files or not all(file.has(name) for file in files)]
    if len(missing) < len(videos):
        paths = " and ".join(printable(str(file.path)) for file in files)
        print(f"{len(videos) - len(missing)} of {len(videos)} videos are already in {paths}", flush=True)
    width = min(max((len(names[i]) for i in missing), default=0), MAX_WIDTH)
    failures = count = 0
    try:
        for prediction in predictor.predict_many([videos[i] for i in missing], args.fps):
            count += 1
            if prediction.error is not None:
                failures += 1
                print(f"Not read: {printable(prediction.error)}", flush=True)
                continue
            for file in files:
                if not file.has(prediction.source):
                    file.append(prediction)
            labels = format_labels(top_labels(prediction, args.top, args.threshold))
            print(f"{prediction.source:{width}}  {labels}", flush=True)
    except KeyboardInterrupt:
        advice = "; repeat the command to continue" if files else ""
        print(f"Stopped after {count} of {len(missing)} videos{advice}.", flush=True)
        raise
    return failures


def format_labels(heads: Labels) -> str:
    """Format labels and scores on one line; "-" replaces the label of a score below the threshold."""
    texts = []
    for head, pairs in heads.items():
        best = ", ".join(f"{printable(label or '-')} {100 * score:.1f} %" for label, score in pairs)
        texts.append(f"{printable(head)}: {best}" if head else best)
    return "; ".join(texts)


# windows -----------------------------------------------------------------------------------------------------------


def _predict_windows(
    predictor: Predictor, videos: Sequence[str], args: argparse.Namespace, files: Sequence[ResultFile]
) -> int:
    """Print and write the windows of each video; return the number of unreadable videos.

    A camera or stream ends the command when the user presses Ctrl+C.
    """
    failures = 0
    for video in videos:
        windows: list[TimedPrediction] = []
        stopped = False
        try:
            for window in _windows(predictor, video, args, files):
                if args.save or args.plot:
                    windows.append(window)
        except DataError as error:
            failures += 1
            print(f"Not read: {printable(str(error))}", flush=True)
            continue
        except KeyboardInterrupt:
            if not is_live(video):
                raise
            stopped = True
            print("Stopped.", flush=True)
        if windows:
            _draw(video, windows, args)
        if stopped:
            break
    return failures


def _windows(
    predictor: Predictor, video: str, args: argparse.Namespace, files: Sequence[ResultFile]
) -> Iterator[TimedPrediction]:
    """Yield the windows of a video after printing and writing them."""
    print(printable(video), flush=True)
    name, stride = video_name(video), check_window(args.window, args.stride)
    live = is_live(video)  # its times begin at 0 again
    starts = [0.0 if live else file.next_start(name, stride) for file in files]
    start = 0.0 if args.save or args.plot or not files else min(starts)
    if start:
        print(f"  resumed at {start:g} s")
    for window in timeline(predictor, video, window=args.window, stride=stride, start=start, fps=args.fps):
        for file, first in zip(files, starts, strict=True):
            if window.start >= first - EPSILON:
                file.append(window)
        heads = top_labels(window, args.top, args.threshold)
        if any(label is not None for pairs in heads.values() for label, _ in pairs):
            print(f"  {window.start:8.2f} - {window.end:8.2f} s  {format_labels(heads)}", flush=True)
        yield window


def _draw(video: str, windows: Sequence[TimedPrediction], args: argparse.Namespace) -> None:
    if args.save:
        from zoo.inference.drawing import annotate_video

        annotate_video(video, windows, Path(expand_home(args.save)), args.top, args.fps)
        print(f"Written to {args.save}")
    if args.plot:
        from zoo.inference.drawing import plot_timeline

        source = None if is_live(video) else video  # the frames of a stream are gone
        plot_timeline(windows, Path(expand_home(args.plot)), video=source, fps=args.fps)
        print(f"Written to {args.plot}")
