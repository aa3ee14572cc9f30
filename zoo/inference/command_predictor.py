"""The ``Predictor`` of a command, and its device."""

from __future__ import annotations

import argparse
import os

import torch

from zoo.inference.predictor import Predictor
from zoo.models.network import VideoNetwork


def open_predictor(network: VideoNetwork, args: argparse.Namespace, compile: bool = False) -> Predictor:
    """Create a ``Predictor`` with the options of ``add_predictor_options``."""
    device = args.device or default_device()
    return Predictor(
        network,
        views=args.views,
        precision=args.precision,
        batch_size=args.batch_size,
        device=device,
        compile=compile,
    )


def default_device() -> str:
    """Return a GPU for each process of this machine, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
