"""``tempozoo export``: difference from eager execution, and speed relative to it, for every family and format.

    python benchmarks/export.py --csv exports.csv

Networks have random weights and the frames and sizes of their first published protocol, or 8 frames of 224 pixels. The
difference is the largest one of logits at two batch sizes that were not traced; the speed is that of one clip.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import torch

import zoo
from zoo.errors import ZooError
from zoo.inference.exporting import FORMATS, export_network
from zoo.models import VideoNetwork

FAMILIES = (
    "c2d_r50", "tanet_r50", "tada2d_r50", "stam_r50", "tsm_r50", "tadaconvnextv2_tiny", "tadaconvnext_tiny",
    "tadaformer_b16", "tanet_mobilenetv2", "slowfast_tam_r50", "r2plus1d_tada_r50", "ptv_slow_r50", "ptv_slowfast_r50",
    "ptv_x3d_s", "ptv_mvit_b_16x4", "ptv_csn_r101",
)  # fmt: skip


def build(arch: str) -> VideoNetwork:
    """Build a network with random weights, none of them zero, so that every layer is compared; logits are near 1."""
    torch.manual_seed(0)
    names = zoo.list_models(arch=arch)
    network = zoo.load(names[0], pretrained=False) if names else zoo.create(arch)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=1e-3)
        network.eval()
        shape = (2, network.in_channels, network.protocol.num_frames, network.protocol.crop, network.protocol.crop)
        for parameter in network.get_classifier().parameters():
            parameter.div_(network(torch.randn(shape)).std())
    return network


def main() -> None:
    """Export the networks, print a table, and write it to a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", default=FAMILIES)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    rows = []
    for arch in args.archs:
        network = build(arch)
        clip = f"{network.protocol.num_frames} x {network.protocol.crop}"
        for format in args.formats:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    report = export_network(network, Path(folder) / f"network{FORMATS[format]}", format)
                    row = [arch, clip, format, f"{report.difference:.1e}", f"{report.speed:.2f}"]
                except ZooError as error:
                    row = [arch, clip, format, f"failed: {error}", ""]
            print(*row, flush=True)
            rows.append(row)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows([["network", "clip", "format", "difference of logits", "speed / eager"], *rows])
    sys.exit(any(row[3].startswith("failed") for row in rows))


if __name__ == "__main__":
    main()
