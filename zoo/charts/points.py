"""Points of the charts: accuracy, computation and measured time of the networks of the index."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ConfigError, ZooError
from zoo.index import info, list_models

_PACKAGE = Path(__file__).parent.parent
CHART_SUFFIXES = (".png", ".html")
BUILDER = "ptv_"  # prefix of architectures that pytorchvideo builds
# color (of Okabe and Ito, distinct with color blindness) and matplotlib marker of each family; a combination is unique
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")


@dataclass(frozen=True)
class Point:
    """A network with a published accuracy.

    Attributes:
        family: name of the architecture without its size, such as "tada2d".
        top1, top5: published accuracy in percent.
        views: clips x crops of the protocol.
        gmacs: multiply-accumulates of one view in 1e9.
        seconds: measured time of a video with all views, or None; ``machine`` describes the measurement.
    """

    name: str
    family: str
    dataset: str
    frames: int
    top1: float
    top5: float | None
    views: str
    gmacs: float
    total_gmacs: float
    seconds: float | None
    machine: str | None


def check_chart_path(path: Path) -> None:
    """Raise a ConfigError unless a chart can have this file name extension."""
    if path.suffix.lower() not in CHART_SUFFIXES:
        raise ConfigError(f"{path}: a chart is written as {' or '.join(CHART_SUFFIXES)}; change the extension.")


def family_of(arch: str) -> str:
    """Return an architecture's name without publisher and size: "tada2d" of "tada2d_r50", "slow" of "ptv_slow_r50"."""
    return arch.removeprefix(BUILDER).partition("_")[0]


def times_path() -> Path:
    """Return the file of measured times: in the installed package, or docs/networks.csv of the repository."""
    packaged = _PACKAGE / "networks.csv"
    return packaged if packaged.is_file() else _PACKAGE.parent / "docs" / "networks.csv"


def measured_times() -> dict[str, tuple[float, str]]:
    """Return seconds per video with all views, and the machine, of the index entries that were measured."""
    with times_path().open(newline="", encoding="utf-8") as file:
        return {
            row["entry"]: (float(row["s per video"]), row["machine"]) for row in csv.DictReader(file) if row["entry"]
        }


def index_points(names: Iterable[str]) -> list[Point]:
    """Return the points of the networks with a published accuracy.

    Starts for fine-tuning are left out: their published accuracy is that of an image network.

    Raises:
        ZooError: none of the networks has a published accuracy.
    """
    times = measured_times()
    points = []
    for name in names:
        entry = info(name)
        if entry.init or entry.reported.top1 is None:
            continue
        protocol = entry.protocol
        seconds, machine = times.get(name, (None, None))
        points.append(
            Point(
                name=name,
                family=family_of(entry.arch),
                dataset=entry.dataset,
                frames=protocol.num_frames,
                top1=entry.reported.top1,
                top5=entry.reported.top5,
                views=f"{protocol.clips}x{protocol.crops}",
                gmacs=entry.gmacs.value,
                total_gmacs=round(entry.gmacs.value * protocol.clips * protocol.crops, 3),
                seconds=seconds,
                machine=machine,
            )
        )
    if not points:
        raise ZooError("None of these networks has a published accuracy; `tempozoo list` shows all networks.")
    return points


def family_styles() -> dict[str, tuple[str, str]]:
    """Return color and marker of every family in the index, the same for any selection of networks."""
    entries = (info(name) for name in list_models(pretrained=True))
    families = dict.fromkeys(family_of(entry.arch) for entry in entries if entry.reported.top1 is not None)
    return {
        family: (COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]) for number, family in enumerate(families)
    }
