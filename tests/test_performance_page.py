"""docs/performance.md agrees with the CSV files of the benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import performance_page
from benchmarks.performance_page import BLOCK, BLOCKS, DOCS, PAGE, draw, fill

TEXT = (DOCS / PAGE).read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_csv_files() -> None:
    assert fill(TEXT) == TEXT, "run benchmarks/performance_page.py"


def test_the_page_has_every_block_once() -> None:
    assert sorted(name for _, name, _ in BLOCK.findall(TEXT)) == sorted(BLOCKS)


def test_all_figures_are_in_tables() -> None:
    """Text written by hand has no decimals, which a new measurement would falsify."""
    assert not re.findall(r"\d+\.\d+", BLOCK.sub("", TEXT))


def test_changed_figures_change_the_page(tmp_path: Path) -> None:
    (tmp_path / "gpu.csv").write_text("network,ms,machine\nC2D-50,4.25,a GPU\n")
    page = fill("a\n<!-- begin gpu -->\nold\n<!-- end -->\nb <!-- begin twins -->\n<!-- end -->", tmp_path)
    assert page.startswith(
        "a\n<!-- begin gpu -->\na GPU.\n\n| network | ms |\n| --- | --- |\n| C2D-50 | 4.25 |\n<!-- end -->"
    )
    assert "Not measured yet; `make bench` writes networks.csv." in page


def test_scaling_has_a_column_for_each_value(tmp_path: Path) -> None:
    lines = ["network,axis,value,time factor,memory factor,machine"]
    lines += [f"net,{axis},{value},{value}.5,0.{value},m" for axis in ("frames", "size", "batch") for value in (1, 2)]
    (tmp_path / "scaling.csv").write_text("\n".join(lines))
    text = performance_page.scaling(tmp_path)
    assert text.count("| net | 1.5 | 2.5 | 0.2 |") == 3
    assert "| time per unit, by number of frames | 1 | 2 | memory, 2 |" in text


def test_chart(tmp_path: Path) -> None:
    rows = [
        {"network": name, "s per video": f"{seconds}", "top-1 %": f"{top1}", "machine": "a CPU"}
        for name, seconds, top1 in (("TAda2D-50", 9.5, 76.7), ("X3D-M", 9.4, 75.9), ("Swin3D-T", 12, 77.7))
    ]
    draw(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
