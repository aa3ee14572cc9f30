"""Parameters and multiply-accumulates of every architecture beside the published figures.

    python benchmarks/costs.py [--doc docs/costs.md]

Counted by ``zoo.profile`` on the meta device, in training mode, where nothing is skipped. A difference of more than 1 %
needs a reason in ``REASONS``, or the command fails.
"""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.models import ARCHITECTURES, build, has_option

UNEXPLAINED = "no reason known"
BATCH_NORMS = "the list counts batch norms as well, 5 per value"
REASONS = {  # names, what is off, why
    ("tsm_r50.mma_k400*", "parameters"): "the list gives all its TSM-R50 files the parameters of 174 classes",
    ("tsm_r50.mma_nl_dot*", "GMACs"): "no softmax stands between its two products, so the smaller one comes first here",
    ("ptv_[cisx]*", "GMACs"): BATCH_NORMS,
    ("ptv_r2plus1d*", "GMACs"): BATCH_NORMS,
}
# without an entry: parameters and multiply-accumulates at 8x256x256, 400 classes, counted on the authors' code
OFFICIAL_CODE = {"tanet_r101": (45.70, 81.61)}
ABOUT = """# Parameters and multiply-accumulates

Made by `python benchmarks/costs.py --doc docs/costs.md`: counted by `zoo.profile`, one clip, beside the figures that
the publishers print (`stated` in `checkpoints_index.yaml`). Convolutions and matrix products count, among them TAM's
temporal kernel, which runs value by value here; norms, pooling and activations do not. Networks are in training mode:
in evaluation TAdaFormer skips what no class token reads, 6 % of B/16 and 3 % of L/14.
"""
UNPUBLISHED = """## Without published figures

Our sources give no size of these architectures (or they are hosts and comparisons that we add): 400 classes.
"""


def measure(arch: str, options: dict[str, Any], clip: str) -> tuple[float, float]:
    """Parameters (1e6) and multiply-accumulates (1e9) for frames x height x width."""
    frames, height, width = map(int, clip.split("x"))
    options = options | {"num_frames": frames}
    if has_option(arch, "image_size"):
        options["image_size"] = height
    with torch.device("meta"):
        network = build(arch, **options).train()
    cost = zoo.profile(network, (1, options.get("in_channels", 3), frames, height, width))
    return cost.params / 1e6, cost.gmacs


def difference(ours: float, theirs: float | None) -> float | None:
    """In percent of theirs."""
    return None if theirs is None else 100 * (ours - theirs) / theirs


def published() -> tuple[list[list[str]], list[str]]:
    """A row for each entry that states a size, and the names whose difference nobody explains."""
    rows = []
    for name in zoo.list_models():
        entry = zoo.info(name)
        if entry.stated is None:
            continue
        params, gmacs = measure(entry.arch, dict(entry.options), entry.stated.input)
        rows.append(compare(name, entry.stated.input, (params, gmacs), (entry.stated.params_m, entry.stated.gmacs)))
    for arch, stated in OFFICIAL_CODE.items():
        rows.append(compare(arch, "8x256x256", measure(arch, {"num_classes": 400}, "8x256x256"), stated))
    return rows, [row[0] for row in rows if row[-1] == UNEXPLAINED]


def compare(name: str, clip: str, ours: tuple[float, float], stated: tuple[float | None, float | None]) -> list[str]:
    """A row of the table."""
    cells, reasons = [], []
    for what, mine, theirs in zip(("parameters", "GMACs"), ours, stated, strict=True):
        off = difference(mine, theirs)
        cells += [f"{mine:.2f}", figure(theirs), percent(off)]
        if off is not None and abs(off) > 1:
            why = (why for (names, of), why in REASONS.items() if of == what and fnmatch.fnmatchcase(name, names))
            reasons.append(next(why, UNEXPLAINED))
    return [f"`{name}`", clip, *cells, "; ".join(reasons)]


def unpublished() -> list[list[str]]:
    """A row for each architecture that no entry states a size of."""
    known = {zoo.info(name).arch for name in zoo.list_models() if zoo.info(name).stated is not None}
    known |= set(OFFICIAL_CODE)
    rows = []
    for arch in ARCHITECTURES:
        if arch not in known:
            frames = 32 if arch.startswith("slowfast") else 8
            clip = f"{frames}x224x224"
            params, gmacs = measure(arch, {"num_classes": 400}, clip)
            rows.append([f"`{arch}`", clip, f"{params:.2f}", f"{gmacs:.2f}"])
    return rows


def figure(value: float | None) -> str:
    """A stated figure, as printed."""
    return "" if value is None else f"{value:g}"


def percent(value: float | None) -> str:
    """A signed difference."""
    return "" if value is None else f"{value:+.1f} %"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doc", type=Path, help="write the tables to this Markdown file")
    asked = parser.parse_args()
    rows, unexplained = published()
    header = ["name", "clip", "M parameters", "stated", "off", "GMACs", "stated", "off", "reason"]
    text = markdown(header, rows)
    others = markdown(["architecture", "clip", "M parameters", "GMACs"], unpublished())
    print(f"{text}\n\n{others}")
    if unexplained:
        raise SystemExit(f"off by more than 1 % without a reason: {', '.join(unexplained)}")
    if asked.doc:
        asked.doc.write_text(f"{ABOUT}\n{text}\n\n{UNPUBLISHED}\n{others}\n")


if __name__ == "__main__":
    main()
