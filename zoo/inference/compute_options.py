"""Options of commands that run a ``Predictor``. Importing this module does not import torch."""

from __future__ import annotations

import argparse

PRECISIONS = {"32": None, "bf16": "bfloat16", "16": "float16"}  # value of --precision -> name of the dtype of autocast


def add_compute_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``zoo.inference.command_predictor.open_predictor``."""
    parser.add_argument(
        "--views", default="1x1", metavar="CLIPSxCROPS", help="views per video, or published (default: 1x1)"
    )
    parser.add_argument("--device", help="such as cuda:0 (default: a GPU for each process, otherwise the CPU)")
    parser.add_argument("--precision", default="32", choices=list(PRECISIONS), help="autocast (default: 32, none)")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="views per forward pass (default: 8)")
