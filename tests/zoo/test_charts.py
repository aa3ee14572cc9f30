"""``tempozoo list --plot``: accuracy against computation and measured time, as a picture and as a web page."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import zoo
from cli import main
from zoo.charts import figure, points
from zoo.charts.points import index_points, measured_times


def page_data(path: Path) -> dict[str, Any]:
    """Return the data in a page."""
    match = re.search(r"const \{ points, styles \} = (.*);\n", path.read_text(encoding="utf-8"))
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def test_page_has_every_trained_network_with_a_published_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "networks.html"
    assert main(["list", "--plot", str(path)]) == 0
    entries = [zoo.info(name) for name in zoo.list_models(pretrained=True)]
    expected = [entry.name for entry in entries if entry.reported.top1 is not None]
    assert [point["name"] for point in page_data(path)["points"]] == expected
    total = len(zoo.list_models())
    assert capsys.readouterr().out == f"Wrote {path}: {len(expected)} of {total} networks have a published accuracy.\n"


def test_filters_of_list_apply_to_the_chart(tmp_path: Path) -> None:
    path = tmp_path / "networks.html"
    assert main(["list", "tada*", "--dataset", "ssv2", "--arch", "*_r50", "--plot", str(path)]) == 0
    data = page_data(path)
    assert [point["name"] for point in data["points"]] == ["tada2d_r50.ssv2_8f", "tada2d_r50.ssv2_16f"]
    assert list(data["styles"]) == ["tada2d"]
    assert main(["list", "tada*", "--plot", str(path)]) == 0
    assert page_data(path)["styles"]["tada2d"] == data["styles"]["tada2d"]  # the same style in every chart


def test_computation_is_that_of_all_views(tmp_path: Path) -> None:
    [point] = index_points(["tada2d_r50.k400_8x8"])
    assert (point.family, point.frames, point.views, point.gmacs) == ("tada2d", 8, "10x3", 43.126)
    assert point.total_gmacs == pytest.approx(30 * 43.126)
    [tsn] = index_points(["c2d_r50.mma_k400_3f"])  # published with one clip of 25 frames, tested with eight of three
    assert tsn.views == "8x10" and tsn.total_gmacs == pytest.approx(80 * 12.262)


def test_times_are_those_of_the_benchmark() -> None:
    times = measured_times()
    with points.times_path().open(newline="") as file:
        rows = {row["entry"]: row for row in csv.DictReader(file) if row["entry"]}
    assert len(times) == len(rows) >= 9
    for name, (seconds, machine) in times.items():
        entry, row = zoo.info(name), rows[name]
        assert row["clip"] == entry.gmacs.input and row["views"] == entry.reported.views
        assert float(row["top-1 %"]) == pytest.approx(entry.reported.top1, abs=0.01)
        assert seconds == float(row["s per video"]) and machine == row["machine"]
    assert index_points(["tada2d_r50.k400_16x5"])[0].seconds is None


def test_page_needs_no_other_files(tmp_path: Path) -> None:
    path = tmp_path / "networks.html"
    assert main(["list", "tanet*", "--plot", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    allowed = "http://www.w3.org/2000/svg"  # a namespace, not a request
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) == {allowed}
    assert not re.search(r"<link|<img|src=|@import|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    for control in ("axis", "text", "frames", "datasets", "families"):
        assert f'id="{control}"' in text


def test_name_cannot_end_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = yaml.safe_load(zoo.index.load_index().path.read_text())
    name = "tanet_r18.</script><b>"
    block = published["models"]["tanet_r18.motionclips8"]
    index = {"schema": 1, "papers": published["papers"], "models": {name: block}}
    (tmp_path / "index.yaml").write_text(yaml.safe_dump(index))
    monkeypatch.setenv("TEMPOZOO_INDEX", str(tmp_path / "index.yaml"))
    path = tmp_path / "networks.html"
    assert main(["list", "--plot", str(path)]) == 0
    assert path.read_text(encoding="utf-8").count("</script>") == 1
    assert page_data(path)["points"][0]["name"] == name


def test_picture_has_panels_of_computation_and_time(tmp_path: Path) -> None:
    path = tmp_path / "networks.png"
    assert main(["list", "*k400*", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    names = [name for pattern in ("k400*", "ssv?_*") for name in zoo.list_models(f"tanet_r50.{pattern}")]
    drawn = figure.draw(index_points([*names, *zoo.list_models("tada2d_r50.*")]))
    panels = [axes for axes in drawn.axes if axes.get_visible()]
    titles = [axes.get_title().partition("\n")[0] for axes in panels]
    assert titles[:2] == ["kinetics400", "kinetics400"] and sorted(titles[2:]) == ["ssv1", "ssv2"]
    assert panels[0].get_xlabel().startswith("GMACs") and panels[1].get_xlabel().startswith("seconds")
    assert all("top-1" in axes.get_ylabel() for axes in panels)


def test_labels_of_the_picture_do_not_overlap() -> None:
    drawn = figure.draw(index_points(zoo.list_models(dataset="kinetics400")))
    for axes in drawn.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) >= 9
        assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "networks.svg"], "networks.svg: a chart is written as .png or .html; change the extension."),
        (["*.clip", "--plot", "x.html"], "None of these networks has a published accuracy"),
        (["xyz*", "--plot", "x.html"], "No network matches 'xyz*'."),
    ],
)
def test_chart_that_cannot_be_drawn(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["list", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))
