"""Write the tables and the chart of docs/performance.md from the CSV files of the benchmarks.

    python benchmarks/performance_page.py

The page has a block "<!-- begin NAME -->" ... "<!-- end -->" for each function in BLOCKS; the text around is written by
hand. A block whose CSV file does not exist yet refers to ``make bench``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
PAGE, CHART = "performance.md", "performance.png"
BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = Mapping[str, str]
# library -> color (distinct with color-blindness, Okabe and Ito) and marker
STYLES = {"tempozoo": ("#0072B2", "o"), "pytorchvideo": ("#D55E00", "s"), "torchvision": ("#009E73", "^")}
PYTORCHVIDEO = ("Slow-R50", "SlowFast-R50", "X3D-M", "MViT-B")
TORCHVISION = ("Swin3D-T", "MViTv2-S", "R(2+1)D-18")


def read(name: str, folder: Path = DOCS) -> list[Row]:
    """Return the rows of a CSV file.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: Iterable[Row], columns: Sequence[str] | Mapping[str, str]) -> str:
    """Return a Markdown table of columns of a CSV file, or of a mapping from headers to columns."""
    names = columns if isinstance(columns, Mapping) else {column: column for column in columns}
    lines = [list(names), ["---"] * len(names), *([row[column] for column in names.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_machine(rows: Sequence[Row], text: str) -> str:
    """Put the description of the machine before a table."""
    machines = dict.fromkeys(row["machine"] for row in rows)
    return f"{'; '.join(machines)}.\n\n{text}"


def every_column(name: str, folder: Path) -> str:
    """Return a table of all columns of a CSV file."""
    rows = read(name, folder)
    columns = [column for column in rows[0] if column != "machine"]
    return with_machine(rows, table(rows, columns)) if "machine" in rows[0] else table(rows, columns)


TWIN = "static twin"
NO_COST = {"calls": "0", "ms": "0.000"}  # of an operation that a network does not have, or only as part of "other"
LARGEST = 5  # listed differences of a pass
TIMES = {"ms": "ms", "other, ms": "other ms", "ratio": "ratio", "spread, %": "spread %"}


def twins(folder: Path) -> str:
    """Compare the networks with their static twins."""
    rows = [row for row in read("networks.csv", folder) if row["compared with"] == TWIN]
    columns = {"network": "network", "clips": "batch", "clip": "clip", "form": "form"}
    columns |= {"ms": "ms", "twin, ms": "other ms", "ratio": "ratio", "spread, %": "spread %", "MiB": "MiB"}
    return with_machine(rows, table(rows, columns | {"twin, MiB": "other MiB"}))


def compiled(folder: Path) -> str:
    """Compare compiled networks with their compiled twins, and with eager execution."""
    rows = read("networks_compiled.csv", folder)
    columns = {"network": "network", "clips": "batch", "clip": "clip", "compared with": "compared with"}
    return with_machine(rows, table(rows, columns | TIMES | {"compile time, s": "compile s"}))


def published_rows(folder: Path) -> list[Row]:
    """Return the rows of networks with a published accuracy."""
    return [row for row in read("networks.csv", folder) if row["views"]]


def published(folder: Path) -> str:
    """Compare networks with the input of their published test."""
    columns = {"network": "network", "clip": "clip", "ms per clip": "ms", "spread, %": "spread %"}
    columns |= {"clips per s": "clips per s", "MiB": "MiB", "M parameters": "M parameters", "GMACs": "GMACs"}
    columns |= {"top-1, %": "top-1 %", "views": "views", "s per video": "s per video"}
    rows = published_rows(folder)
    return with_machine(rows, table(rows, columns))


def training(folder: Path) -> str:
    """Compare training steps."""
    rows = read("training.csv", folder)
    columns = {"network": "network", "precision": "precision", "compared with": "compared with"}
    columns |= TIMES | {"MiB": "MiB", "other, MiB": "other MiB", "memory ratio": "memory ratio"}
    return with_machine(rows, table(rows, columns))


def layers(folder: Path) -> str:
    """List the saved tensors of a network."""
    return every_column("layers.csv", folder)


def scaling(folder: Path) -> str:
    """Return a table of time factors for each axis."""
    rows = read("scaling.csv", folder)
    parts = []
    for axis, title in {"frames": "frames", "size": "pixels", "batch": "clips"}.items():
        of_axis = [row for row in rows if row["axis"] == axis]
        values = list(dict.fromkeys(row["value"] for row in of_axis))
        largest = values[-1] if values else ""
        lines: dict[str, dict[str, str]] = {}
        for row in of_axis:
            line = lines.setdefault(row["network"], {"network": row["network"]})
            line[row["value"]] = row["time factor"]
            if row["value"] == largest:
                line["memory"] = row["memory factor"]
        columns = {f"time per unit, by number of {title}": "network"} | {value: value for value in values}
        parts.append(table(lines.values(), columns | {f"memory, {largest}": "memory"}))
    return with_machine(rows, "\n\n".join(parts))


def floor(folder: Path) -> str:
    """List the floor of each pass, and the speeds of the machine."""
    rows = [row for row in read("floor.csv", folder) if not row["network"].endswith(TWIN)]
    columns = {"network": "network", "pass": "pass", "GFLOP": "GFLOP", "MB moved": "MB", "ms": "ms"}
    columns |= {"floor, ms": "floor ms", "floor, % of the time": "floor %"}
    totals = table((row for row in rows if row["operation"] == "total"), columns)
    references = table(
        (row for row in rows if row["pass"] == "reference"),
        {"measured with": "network", "reference": "operation", "GFLOP/s": "GFLOP/s", "GB/s": "GB/s"},
    )
    return with_machine(rows, f"{totals}\n\n{references}")


def profile(folder: Path) -> str:
    """List the operations that take the time above the static twin."""
    rows = read("floor.csv", folder)
    networks = [row["network"] for row in rows if f"{row['network']}, {TWIN}" in {other["network"] for other in rows}]
    lines = []
    for network in dict.fromkeys(networks):
        for step in ("forward", "forward + backward"):
            ours, theirs = (
                {row["operation"]: row for row in rows if (row["network"], row["pass"]) == (title, step)}
                for title in (network, f"{network}, {TWIN}")
            )
            lines += differences(network, step, ours, theirs)
    columns = ["network", "pass", "operation", "calls", "twin, calls", "ms", "twin, ms", "difference, ms"]
    return with_machine(rows, table(lines, columns))


def differences(network: str, step: str, ours: Mapping[str, Row], theirs: Mapping[str, Row]) -> list[Row]:
    """Return rows of the operations with the largest difference of time between a network and its twin."""
    lines = []
    for name in dict.fromkeys([*ours, *theirs]):
        pair = ours.get(name, NO_COST), theirs.get(name, NO_COST)
        difference = float(pair[0]["ms"]) - float(pair[1]["ms"])
        cells = {"network": network, "pass": step, "operation": name, "calls": pair[0]["calls"], "ms": pair[0]["ms"]}
        cells |= {"twin, calls": pair[1]["calls"], "twin, ms": pair[1]["ms"], "difference, ms": f"{difference:+.1f}"}
        lines.append((name == "total", -abs(difference), cells))
    lines.sort(key=lambda line: line[:2])
    return [cells for *_, cells in (*lines[:LARGEST], lines[-1])]


BLOCKS: dict[str, Callable[[Path], str]] = {
    "twins": twins,
    "compiled": compiled,
    "published": published,
    "training": training,
    "layers": layers,
    "scaling": scaling,
    "floor": floor,
    "profile": profile,
    "allocators": lambda folder: every_column("allocators.csv", folder),
    "operators": lambda folder: every_column("operators.csv", folder),
    "loading": lambda folder: every_column("loading.csv", folder),
    "weights": lambda folder: every_column("weights.csv", folder),
    "startup": lambda folder: every_column("startup.csv", folder),
    "serving": lambda folder: every_column("serving.csv", folder),
    "gpu": lambda folder: every_column("gpu.csv", folder),
}


def fill(text: str, folder: Path = DOCS) -> str:
    """Replace the blocks of a page by tables of the CSV files in a folder."""

    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        try:
            content = BLOCKS[name](folder)
        except FileNotFoundError as error:
            content = f"Not measured yet; `make bench` writes {Path(error.filename).name}."
        return f"{begin}{content}\n{end}"

    return BLOCK.sub(block, text)


def library(title: str) -> str:
    """Return the library of a network."""
    if title in PYTORCHVIDEO:
        return "pytorchvideo"
    return "torchvision" if title in TORCHVISION else "tempozoo"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a chart of the published accuracy against the measured time of a video with all its views."""
    from matplotlib.figure import Figure

    figure = Figure((8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for name, (color, marker) in STYLES.items():
        own = [row for row in rows if library(row["network"]) == name]
        x, y = ([float(row[column]) for row in own] for column in ("s per video", "top-1 %"))
        axes.scatter(x, y, s=60, c=color, marker=marker, label=name, zorder=3)
    axes.margins(0.12)
    axes.set_xlabel("seconds per video, all views of the published test (log scale)")
    axes.set_ylabel("published top-1 accuracy on Kinetics-400, %")
    axes.set_title(rows[0]["machine"] + ", float32, eager", fontsize=9)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=9)
    axes.legend(loc="lower right")
    figure.draw_without_rendering()  # computes the positions
    label_points(axes, rows)
    figure.savefig(path, dpi=150)


def label_points(axes: Any, rows: Sequence[Row]) -> None:
    """Write the name of each network beside its point, on the first side without overlap."""
    sides = [(8, 0, "left", "center"), (-8, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top")]
    points = [(float(row["s per video"]), float(row["top-1 %"])) for row in rows]
    centers = axes.transData.transform(points)
    taken: list[Any] = []
    for row, point in zip(rows, points, strict=True):
        for dx, dy, horizontal, vertical in sides:
            text = axes.annotate(
                row["network"], point, (dx, dy), textcoords="offset points", ha=horizontal, va=vertical, fontsize=9
            )
            box = text.get_window_extent()
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken) and not box.count_contains(centers):
                break
            if (dx, dy) != sides[-1][:2]:
                text.remove()
        taken.append(box)


def main() -> None:
    page = DOCS / PAGE
    page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
    if (DOCS / "networks.csv").is_file():
        draw(published_rows(DOCS), DOCS / CHART)


if __name__ == "__main__":
    main()
