"""``tempozoo localize``: print the segments of a video, and write them as JSON, a chart or a labeled video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zoo.command_line import expand_home
from zoo.inference.command_predictor import default_device
from zoo.inference.inputs import is_url
from zoo.localization.localizer_files import load
from zoo.localization.localizing import LocalizedVideo, localize_video
from zoo.text import printable
from zoo.weights.disk import atomic_path, disk_errors


def localize_command(args: argparse.Namespace) -> None:
    """Print and write the segments of a video.

    Args:
        args: options of ``localize_parser``.
    """
    json_path, chart, labeled = (
        None if name is None else Path(expand_home(name)) for name in (args.json, args.plot, args.save)
    )
    if chart is not None or labeled is not None:  # file names are checked before the video is read
        from zoo.inference.drawing import check_chart_path, check_video_path

        if chart is not None:
            check_chart_path(chart)
        if labeled is not None:
            check_video_path(labeled)
    video = args.video if is_url(args.video) else expand_home(args.video)
    options = {"device": args.device or default_device(), "batch_size": args.batch_size}
    localizer = load(args.localizer).to(options["device"])
    result = localize_video(localizer, video, args.threshold, args.feature_network, args.fps, options)
    print_segments(result, args.threshold)
    if json_path is not None:
        content = {
            "video": args.video,
            "duration": result.duration,
            "threshold": args.threshold,
            "segments": [segment._asdict() for segment in result.segments],
        }
        with disk_errors(json_path.parent), atomic_path(json_path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"Written to {args.json}")
    if chart is not None:
        from zoo.inference.drawing import plot_segments

        plot_segments(result.segments, result.duration, chart, title=printable(args.video))
        print(f"Written to {args.plot}")
    if labeled is not None:
        from zoo.inference.drawing import annotate_segments

        annotate_segments(video, result.segments, labeled, fps=args.fps)
        print(f"Written to {args.save}")


def print_segments(result: LocalizedVideo, threshold: float) -> None:
    """Print the segments in order of time."""
    if not result.segments:
        print(f"No segments with a score of at least {threshold:g} in {result.duration:.2f} s of video.")
        return
    print(f"{'start, s':>9} {'end, s':>9} {'score':>6}  label")
    for segment in sorted(result.segments):
        print(printable(f"{segment.start:9.2f} {segment.end:9.2f} {segment.score:6.2f}  {segment.label}"))
