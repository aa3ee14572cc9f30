"""Parsers of ``localize``, ``explain``, ``features``, ``search`` and ``export``. Does not import torch."""

from __future__ import annotations

import argparse

from zoo.inference.predict_options import add_predictor_options

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}  # of exported files -> extension
MAX_FLAT = 100_000  # rows of a FAISS index; more are clustered, and a query visits only the nearest clusters


def features_parser() -> argparse.ArgumentParser:
    """Create the parser of ``tempozoo features``."""
    parser = argparse.ArgumentParser(
        "tempozoo features",
        description="Write the features of videos to a folder, one safetensors file per video, with a manifest. "
        "A repeated command computes what is missing. With torchrun, processes share the videos.",
    )
    parser.add_argument("sources", nargs="+", help="videos, folders, patterns, lists or URLs, as of predict")
    add_predictor_options(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the features")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="features of windows instead of views")
    parser.add_argument("--stride", type=float, metavar="SECONDS", help="between two windows (default: the window)")
    parser.add_argument("--stage", type=int, help="stage, whose feature maps are averaged (default: classifier input)")
    parser.add_argument("--parquet", metavar="FILE", help="also combine all features into one Parquet file")
    return parser


def localize_parser() -> argparse.ArgumentParser:
    """Create the parser of ``tempozoo localize``."""
    parser = argparse.ArgumentParser(
        "tempozoo localize",
        description="Find the actions in an untrimmed video, with start, end, label and score. The features of the "
        "video are computed with the network that the localizer was trained with.",
    )
    parser.add_argument("video", help="video file, folder or pattern of frames, or URL")
    parser.add_argument(
        "--from", dest="localizer", metavar="LOCALIZER", required=True,
        help="run of `tempozoo fit --config localize/...`, its .ckpt file, or a folder of zoo.localization.save",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=float, default=0.2, metavar="SCORE", help="lowest score of a segment (default: 0.2)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the segments to a JSON file")
    parser.add_argument("--plot", metavar="FILE", help="write a chart of the segments (.png, .pdf, .svg)")
    parser.add_argument("--save", metavar="FILE", help="write a labeled copy of the video (.mp4)")
    parser.add_argument(
        "--feature_network",
        metavar="NETWORK",
        help="the network of the features, if its path has changed since training",
    )
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second of image files (default: 30)")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="clips per forward pass (default: 8)")
    parser.add_argument("--device", help="such as cuda:0 (default: a GPU, otherwise the CPU)")
    return parser


def explain_parser() -> argparse.ArgumentParser:
    """Create the parser of ``tempozoo explain``."""
    parser = argparse.ArgumentParser(
        "tempozoo explain",
        description="Show which pixels and frames of a video the score of a class is based on. One clip is explained: "
        "the middle one of the network's sampling, with a center crop.",
    )
    parser.add_argument("video", help="video file, folder or pattern of frames, or URL")
    parser.add_argument(
        "--from", dest="network", metavar="NETWORK", required=True, help="network, as of `tempozoo fit --from`"
    )
    parser.add_argument(
        "--save", metavar="FILE",
        help="write the film strip, the relevance over time and the temporal operators (.png), or a video (.mp4, .gif)",
    )  # fmt: skip
    parser.add_argument("--label", help="name or index of the class (default: the most probable class)")
    parser.add_argument(
        "--span", type=float, nargs=2, metavar=("START", "END"),
        help="part of the video to sample, in seconds (default: the entire video)",
    )  # fmt: skip
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second of image files (default: 30)")
    parser.add_argument("--device", help="such as cuda:0 (default: a GPU, otherwise the CPU)")
    parser.add_argument("--allow_untrained", action="store_true", help="also explain networks with untrained parts")
    return parser


def search_parser() -> argparse.ArgumentParser:
    """Create the parser of ``tempozoo search``."""
    parser = argparse.ArgumentParser(
        "tempozoo search", description="Find the videos nearest to a query, by the cosine similarity of their features."
    )
    parser.add_argument("query", help="video file, pattern of frames, or URL")
    parser.add_argument(
        "--features", required=True, metavar="PATH", help="folder or Parquet file written by `tempozoo features`"
    )
    parser.add_argument("--from", dest="network", help="network (default: the one of the features)")
    parser.add_argument("--top", type=int, default=10, help="videos (default: 10)")
    parser.add_argument(
        "--index", choices=["torch", "faiss"], default="torch",
        help="torch compares all features (default); faiss keeps an index beside them, exact for up to "
        f"{MAX_FLAT:,} rows",
    )  # fmt: skip
    return parser


def export_parser() -> argparse.ArgumentParser:
    """Create the parser of ``tempozoo export``."""
    parser = argparse.ArgumentParser(
        "tempozoo export",
        description="Export a network with class names and protocol, compare it with the original at other batch "
        "sizes, and write an example script beside it.",
    )
    parser.add_argument("network", help="network, as of `tempozoo fit --from`")
    parser.add_argument("--to", dest="format", required=True, choices=list(FORMATS), help="format of the file")
    parser.add_argument("--out", metavar="FILE", help="file (default: the name of the network)")
    return parser
