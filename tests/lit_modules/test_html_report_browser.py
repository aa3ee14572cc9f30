"""The HTML report in a browser, in dark and in light mode."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from annotation_files import write_csv
from browser import find_browser, visit
from numbered_videos import numbered_video

from lit_modules.html_report.page import write_report

# For each text: contrast of its color with the background behind it, as WCAG 2 defines it.
CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const color = rgba(getComputedStyle(element).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim();
    if (!text || !element.checkVisibility() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(rgba(element.closest("svg") ? style.fill : style.color)), luminance(background(element))];
    const name = element.tagName + "." + (element.getAttribute("class") || "");
    found[name] = Math.min(found[name] ?? 99, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return found;
})()
"""
SCRIPT = f"""
(async () => {{
  const headings = [...document.querySelectorAll("h1, h2")].map((element) => element.textContent);
  const count = (name) => document.querySelectorAll(`table.${{name}} tbody tr`).length;
  const rows = Object.fromEntries(["results", "confusion", "classes", "splits"].map((name) => [name, count(name)]));
  const images = [...document.images].map((image) => [image.naturalWidth, image.naturalHeight]);
  const lines = [...document.querySelectorAll("#curves polyline")].map((line) => getComputedStyle(line).stroke);
  const contrasts = {CONTRASTS};
  const cells = () => [...document.querySelectorAll("table.classes tbody tr")].map((row) => row.cells[6].textContent);
  const button = document.querySelectorAll("table.classes thead button")[6];
  button.click(); const descending = cells();
  button.click(); const ascending = cells();
  return {{headings, rows, images, lines, contrasts, descending, ascending,
    overflow: document.documentElement.scrollWidth - innerWidth,
    color: getComputedStyle(document.body).backgroundColor, alerts: window.alerts ?? 0}};
}})()
"""
NAMES = ["appears", "<script>window.alerts = 1</script>", "parts & meets"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report of a run whose files are written by hand: three classes, learning curves, mistakes, a removed video."""
    find_browser()
    folder = tmp_path_factory.mktemp("browser") / "a run #1"
    matrix = np.array([[23, 2, 0], [16, 9, 0], [1, 24, 15]])
    rows, classes = [], []
    for true, counts in enumerate(matrix):
        for predicted, count in enumerate(counts):
            rows += [[f"{len(rows) + k}.mp4", NAMES[true], NAMES[predicted], 0.5 + 0.02 * k] for k in range(count)]
        classes.append([NAMES[true], int(matrix[true].sum()), int(matrix[:, true].sum()), int(matrix[true, true])])
    video = numbered_video(folder / "video.mp4", 20)
    rows = [[str(video) if number % 2 else path, *values] for number, (path, *values) in enumerate(rows)]
    write_csv(folder / "predictions.csv", [("path", "label", "prediction1", "score1"), *rows])
    write_csv(folder / "classes.csv", [("class", "videos", "predicted", "correct"), *classes])
    write_csv(
        folder / "confusion.csv", [("", *NAMES), *([name, *row] for name, row in zip(NAMES, matrix, strict=True))]
    )
    metrics = [(epoch, 4 * epoch + 3, 2 / (epoch + 1), 2.5 / (epoch + 1), 0.1 * epoch, 0.01) for epoch in range(5)]
    columns = ("epoch", "step", "train_loss_epoch", "val_loss", "val_top1", "lr-SGD")
    write_csv(folder / "metrics.csv", [columns, *metrics])
    (folder / "config.yaml").write_text("model:\n  class_path: lit_modules.TANet\n  init_args: {name: tanet_r50}\n")
    record = {
        "status": "stopped", "epochs": 5, "max_epochs": 9, "bottleneck": "Bottleneck: computation", "seconds": 61,
        "data": {"class": "VideoFolder", "videos": {"train": 9, "val": 15},
                 "heads": [{"head": "", "classes": NAMES, "videos": {"train": [3, 3, 3], "val": [5, 5, 5]}}]},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    summary = {
        "network": "net", "videos": 90, "metrics": {"test_top1": 47 / 90, "test_calibration_error": 0.1},
        "top1_interval": [0.42, 0.62], "majority_class": 1 / 3, "skipped": {"x.mp4": "x.mp4 is empty."},
    }  # fmt: skip
    (folder / "test.json").write_text(json.dumps(summary))
    return write_report([folder], folder / "report.html")


@pytest.mark.parametrize("width", [1280, 390])
def test_page_is_complete_and_legible_in_both_modes(page: Path, width: int) -> None:
    visits = visit(page.as_uri(), SCRIPT, width=width)
    for visited in visits.values():
        value = visited.value
        assert visited.errors == []
        assert visited.requests == [page.as_uri()]
        assert value["headings"][0] == "Report of a run #1"
        expected = ("Results", "Learning curves", "Configuration", "Confusion matrix (test)", "Classes (test)",
                    "Calibration (test)", "Most confident mistakes (test)", "Videos per class and split",
                    "Skipped videos", "Speed")  # fmt: skip
        assert [heading for heading in expected if heading not in value["headings"]] == []
        assert value["rows"] == {"results": 3, "confusion": 3, "classes": 3, "splits": 4}
        assert value["images"] and all(width > 0 and height > 0 for width, height in value["images"])
        assert {name: ratio for name, ratio in value["contrasts"].items() if ratio < 4.5} == {}
        scores = [float(re.sub(r"[ %]", "", text)) for text in value["descending"]]
        assert scores == sorted(scores, reverse=True) and value["ascending"] == value["descending"][::-1]
        assert value["overflow"] <= 0
        assert value["alerts"] == 0
    light, dark = visits["light"].value, visits["dark"].value
    assert light["color"] == "rgb(255, 255, 255)" and dark["color"] != light["color"]
    assert len(set(light["lines"])) > 1 and light["lines"] != dark["lines"]
