"""``zoo.timeline`` on a long video: peak memory against a one-minute video, time against decoding plus the network.

    python benchmarks/timeline.py --minutes 180

The long video repeats one minute of generated video (320 x 240, H.264), remuxed without encoding it again. Every
measurement runs in a process of its own. The alternative decodes every frame once, without a network, and runs the
network on as many clips as there are windows, without decoding; the ratio compares the sum of both with the timeline.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch

import zoo
from zoo.inference.predictor import Predictor

FPS = 25
SIZE = (240, 320)


def write_minute(path: Path) -> None:
    """One minute of moving gradients."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": "50"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(60 * FPS):
            frame = np.stack([rows + number, columns + 2 * number, rows + columns - number], -1) % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())


def repeat(source: Path, path: Path, times: int) -> None:
    """Repeat a video by copying its packets with shifted timestamps."""
    with av.open(str(source)) as first:
        template = first.streams.video[0]
        length = round(60 / template.time_base)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in first.demux(template) if p.dts is not None]
        with av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(template)
            for turn in range(times):
                for data, pts, dts, key in packets:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = stream, template.time_base
                    packet.pts, packet.dts, packet.is_keyframe = pts + turn * length, dts + turn * length, key
                    container.mux(packet)


def measure(task: str, video: str, network: str, window: float, stride: float) -> dict[str, float]:
    """Run one task; returns seconds, items and the peak memory of the process in MB."""
    model = zoo.load(network)
    start, count = time.perf_counter(), 0
    if task == "decode":
        with av.open(video) as container:
            container.streams.video[0].codec_context.thread_count = 1
            count = sum(1 for _ in container.decode(video=0))
    elif task == "network":
        with av.open(video) as container:
            seconds = float(container.duration / av.time_base)
        p = model.protocol
        views = torch.zeros(8, p.num_frames, 3, p.crop, p.crop, dtype=torch.uint8)
        with Predictor(model) as predictor:
            for _ in range(round(seconds / stride / 8)):
                count += len(predictor.logits(views))
    else:
        count = sum(1 for _ in zoo.timeline(model, video, window=window, stride=stride))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
    return {"seconds": seconds, "count": count, "peak_mb": peak}


def in_process(*arguments: str) -> dict[str, float]:
    run = subprocess.run([sys.executable, __file__, "--task", *arguments], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=180)
    parser.add_argument("--network", default="tanet_r18.motionclips8")
    parser.add_argument("--window", default="2")
    parser.add_argument("--stride", default="1")
    parser.add_argument("--task", nargs=2, metavar=("TASK", "VIDEO"), help="used internally")
    args = parser.parse_args()
    if args.task:
        print(json.dumps(measure(*args.task, args.network, float(args.window), float(args.stride))))
        return
    options = ["--network", args.network, "--window", args.window, "--stride", args.stride]
    with tempfile.TemporaryDirectory() as folder:
        minute, long = Path(folder, "minute.mp4"), Path(folder, "long.mp4")
        write_minute(minute)
        repeat(minute, long, args.minutes)
        short = in_process("timeline", str(minute), *options)
        results = {task: in_process(task, str(long), *options) for task in ("decode", "network", "timeline")}
    parts = results["decode"]["seconds"] + results["network"]["seconds"]
    print(f"{args.minutes} minutes, {results['decode']['count']} frames, {results['timeline']['count']} windows")
    print(f"peak memory: {results['timeline']['peak_mb']:.0f} MB; one minute: {short['peak_mb']:.0f} MB")
    for task, result in results.items():
        print(f"{task:9} {result['seconds']:8.1f} s")
    print(f"timeline / (decode + network): {results['timeline']['seconds'] / parts:.2f}")


if __name__ == "__main__":
    main()
