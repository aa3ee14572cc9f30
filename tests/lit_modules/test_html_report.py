"""HTML reports of runs: numbers, several runs, missing and damaged files, escaping, options."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import write_csv
from numbered_videos import numbered_video
from runs import NO_SANITY_CHECK, ON_CPU, QUIET, TINY, fit_arguments, flags, read_rows

import zoo
from cli import main
from lit_modules.html_report.charts import Line, line_chart, ticks
from lit_modules.html_report.curves import learning_curves
from lit_modules.html_report.page import write_report
from lit_modules.html_report.run_files import RunFiles
from lit_modules.mistakes import find_mistakes
from lit_modules.optim import parameter_groups
from lit_modules.recipe_options import OptimizerOptions
from lit_modules.run_file_names import REPORT_FILE

SCRIPT = "<script>alert('x')</script>"


def text_of(page: Path) -> str:
    """Return the text of a page without tags, styles, scripts and repeated white space."""
    content = re.sub(r"<(style|script)>.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    content = re.sub(r"</(h1|h2|h3|p|tr|td|th|li|figcaption|span)>", " ", content)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", content)).split())


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs with its test in ``test``."""
    out = tmp_path_factory.mktemp("report") / "run"
    assert main(fit_arguments(motion_folder, out, watch=False)) == 0
    assert main(["test", "--from", str(out), "--config", str(out / "config.yaml"), "--out", str(out / "test")]) == 0
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Copy of the files of ``run`` that can be changed, without weights."""
    shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("*.ckpt"))
    return tmp_path / "copy"


def report_text(folder: Path) -> str:
    """Write the report of a run with the command and return its text."""
    assert main(["report", str(folder)]) == 0
    return text_of(folder / REPORT_FILE)


def accuracy_chart(metrics: list[dict[str, float]]) -> str:
    """Return the chart of the accuracies of a run with these metrics."""
    (chart,) = learning_curves([RunFiles(Path(), "run", metrics=metrics)])
    return chart


def percent(value: str | float) -> str:
    return f"{100 * float(value):.1f} %"


# fit and test ------------------------------------------------------------------------------------------------------


def test_fit_writes_a_report_with_the_numbers_of_its_files(run: Path) -> None:
    page = text_of(run / REPORT_FILE)
    epochs = [row for row in read_rows(run / "metrics.csv") if row["val_top1"]]
    best = max(epochs, key=lambda row: float(row["val_mean_class"]))
    interval = f"95 % interval {100 * float(best['val_top1_low']):.1f} to {percent(best['val_top1_high'])}"
    assert f"reaches {percent(best['val_top1'])} top-1 accuracy ({interval}) on 12 validation videos" in page
    assert f"validation, epoch {int(best['epoch']) + 1} {percent(best['val_top1'])}" in page
    assert "25.0 % for the majority class and 25.0 % for chance" in page
    assert "class train val test appears 8 3 3" in page
    for heading in ("Learning curves", "Configuration", "Confusion matrix", "Classes", "Calibration", "Environment"):
        assert heading in page
    for option in ("model.name tadaconvnextv2_tiny", "trainer.max_epochs 2", "data.batch_size 8"):
        assert option in page


def test_predictions_of_the_best_epoch_are_those_of_its_metrics(run: Path) -> None:
    validation = json.loads((run / "run.json").read_text())["validation"]
    rows = read_rows(run / "validation" / "predictions.csv")
    correct = sum(row["label"] == row["prediction1"] for row in rows)
    assert len(rows) == validation["videos"] == 12
    assert validation["metrics"]["top1"] == pytest.approx(correct / 12)
    row = [row for row in read_rows(run / "metrics.csv") if row["val_top1"]][validation["epoch"] - 1]
    assert float(row["val_top1"]) == pytest.approx(correct / 12)


def test_test_writes_a_report_with_the_numbers_of_test_json(run: Path) -> None:
    summary = json.loads((run / "test" / "test.json").read_text())
    page = text_of(run / "test" / REPORT_FILE)
    low, high = summary["top1_interval"]
    top1 = percent(summary["metrics"]["test_top1"])
    assert f"reaches {top1} top-1 accuracy (95 % interval {100 * low:.1f} to {percent(high)}) on 12 test videos" in page
    assert f"calibration error (ECE) {percent(summary['metrics']['test_calibration_error'])}" in page
    for row in read_rows(run / "test" / "classes.csv"):
        assert f"{row['class']} {row['videos']}" in page
        assert percent(row["recall"]) in page
    assert "Learning curves" in page  # of the run whose checkpoint was tested


def test_report_shows_the_most_confident_mistakes_with_an_explanation(run: Path, tmp_path: Path) -> None:
    rows = read_rows(run / "test" / "predictions.csv")
    wrong = sorted((row for row in rows if row["label"] != row["prediction1"]), key=lambda row: -float(row["score1"]))
    page = write_report([run / "test"], tmp_path / "page.html", explain_seconds=1e9)
    content = page.read_text()
    figures = re.findall(r'<figure class="mistake">(.*?)</figure>', content, re.DOTALL)
    assert len(figures) == min(6, len(wrong)) > 0
    for figure, row in zip(figures, wrong[:6], strict=True):
        assert row["path"] in figure
        assert f"({percent(row['score1'])})" in figure.replace("\N{NO-BREAK SPACE}", " ")
        assert figure.count('src="data:image/jpeg;base64,') == 2
    assert f"{len(wrong)} of 12 videos are predicted wrongly" in text_of(page)
    without = write_report([run / "test"], tmp_path / "without.html", explain_seconds=0).read_text()
    assert without.count('src="data:image/jpeg;base64,') == len(figures)


def test_report_can_be_disabled(motion_folder: Path, run: Path, tmp_path: Path) -> None:
    assert main(fit_arguments(motion_folder, tmp_path / "fit", "--report", "false", epochs=1, watch=False)) == 0
    assert (tmp_path / "fit" / "run.json").is_file() and not (tmp_path / "fit" / REPORT_FILE).exists()
    test = ["test", "--from", str(run), "--config", str(run / "config.yaml"), "--out", str(tmp_path / "test")]
    assert main([*test, "--report", "false"]) == 0
    assert (tmp_path / "test" / "test.json").is_file() and not (tmp_path / "test" / REPORT_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--report", "maybe"], "--report is maybe; it must be true or false."),
        (["validate", "--report", "true"], "--report is for fit and test; validate writes no report."),
        (["report", "missing"], "missing is not a folder; give the folder of fit, test or probe."),
        (["report", "."], ". contains no run (none of run.json, metrics.csv, test.json, probe.json, checkpoints)"),
        (["report", "a", "b"], "The report of 2 runs needs a file: --out FILE"),
        (["report", "a", "--out", "."], "--out . is a folder; give a file, such as report.html."),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, *(["--from", "tanet_r18.motionclips8"] if arguments[0] != "report" else [])]) == 1
    assert message in capsys.readouterr().err


def test_error_in_the_report_is_a_warning(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no template")

    monkeypatch.setattr("lit_modules.html_report.page.write_report", fail)
    assert main(fit_arguments(motion_folder, tmp_path, epochs=1, watch=False)) == 0
    assert "tempozoo: warning: the report was not written (no template)." in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file() and not (tmp_path / REPORT_FILE).exists()


def test_interrupted_run_has_a_report(motion_folder: Path, tmp_path: Path) -> None:
    signal = [*("--trainer.callbacks+", "signals.Signal"),
              *flags("trainer.callbacks", hook="on_train_batch_end", epoch=1, batch=1, name="SIGINT")]  # fmt: skip
    assert main(fit_arguments(motion_folder, tmp_path, *signal, epochs=3)) == 130
    page = text_of(tmp_path / REPORT_FILE)
    assert "The training was interrupted after 1 of 3 complete epochs." in page
    assert "validation, epoch 1" in page


def test_failed_run_has_a_report(motion_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        main(fit_arguments(motion_folder, tmp_path, stop=(0, 2)))
    page = text_of(tmp_path / REPORT_FILE)
    assert "The training failed after 0 of 2 complete epochs: RuntimeError: " in page
    assert "The run has no predictions: no epoch was validated" in page


# several runs, other data ------------------------------------------------------------------------------------------


def test_several_runs_are_compared(run: Path, copy: Path, tmp_path: Path) -> None:
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("max_epochs: 2", "max_epochs: 7"))
    out = tmp_path / "both.html"
    assert main(["report", str(run), str(copy), "--out", str(out)]) == 0
    page, content = text_of(out), out.read_text()
    assert page.startswith("Report of run, copy Report of run, copy run: tadaconvnextv2_tiny, trained on 32 videos,")
    differing = re.findall(r'<tr class="differs"><th scope="row"><code>(.*?)</code></th>(.*?)</tr>', content)
    assert [name for name, _ in differing] == ["trainer.max_epochs"]
    assert re.findall("<code>(.*?)</code>", differing[0][1]) == ["2", "7"]
    assert "F1 of the classes class run, test copy, test" in page
    assert page.count("the majority class, test") == 1
    assert "run, validation" in page and "copy, validation" in page  # legend of the learning curves


def test_multi_label_run_has_a_report(motion_folder: Path, tmp_path: Path) -> None:
    lists = {}
    for split in ("train", "val"):
        rows = [
            (path.relative_to(motion_folder), f"{path.parent.name}|letter {path.parent.name[0]}")
            for path in sorted((motion_folder / split).rglob("*.mp4"))
        ]
        lists[split] = write_csv(tmp_path / f"{split}.csv", [("path", "label"), *rows])
    data = flags("data", root=motion_folder, label_separator="|", batch_size=8, num_workers=0, **lists)
    short = [*TINY, *QUIET, *ON_CPU, *NO_SANITY_CHECK, *flags("trainer", max_epochs=1)]
    out = tmp_path / "run"
    command = ["fit", "--from", "tadaconvnextv2_tiny", *short, "--data", "VideoList", *data, "--out", str(out)]
    assert main(command) == 0
    page = text_of(out / REPORT_FILE)
    validation = json.loads((out / "run.json").read_text())["validation"]
    metrics = validation["metrics"]
    assert f"reaches {percent(metrics['map'])} mean average precision on 12 validation videos" in page
    assert f"compared with {percent(metrics['map_chance'])} for random scores." in page
    assert "average precision appears 3" in page
    assert "letter a 8 3" in page
    assert "Confusion matrix" not in page and "cannot be read" not in page


@pytest.fixture
def two_heads(tmp_path: Path) -> Path:
    """Folder with the files of a test of a verb and a noun classifier."""
    folder = tmp_path / "heads"
    folder.mkdir()
    names = {"verb": ["take", SCRIPT], "noun": ["cup", "pan", "lid"]}
    header = ["path"]
    for head in names:
        header += [f"{head}_label", f"{head}_prediction1", f"{head}_score1"]
        classes = [[name, 2, 2, 1, 0.5, 0.5, 0.1, 0.9, 0.5] for name in names[head]]
        columns = ("class", "videos", "predicted", "correct", "precision", "recall", "recall_low", "recall_high", "f1")
        write_csv(folder / f"classes_{head}.csv", [columns, *classes])
        matrix = np.eye(len(names[head]), dtype=int) + 1
        rows = [[name, *map(int, row)] for name, row in zip(names[head], matrix, strict=True)]
        write_csv(folder / f"confusion_{head}.csv", [["true / predicted", *names[head]], *rows])
    rows = [
        ("P01_01_0", "take", SCRIPT, 0.9, "cup", "cup", 0.8),
        ("P01_01_1", "take", "take", 0.6, "pan", "lid", 0.7),
        ("P01_01_2", SCRIPT, SCRIPT, 0.6, "lid", "lid", 0.7),
    ]
    write_csv(folder / "predictions.csv", [header, *rows])
    segment = {"path": str(numbered_video(tmp_path / "long.mp4", 40)), "span": [0.2, 0.9], "byte_span": None}
    summary = {
        "network": "net.ckpt", "videos": 3, "data": "EpicKitchens", "skipped": {"P01_01_3": f"bad {SCRIPT}"},
        "metrics": {"test_top1": 1 / 3, "test_verb_top1": 2 / 3, "test_noun_top1": 2 / 3, "test_action_top1": 1 / 3},
        "top1_interval": [0.06, 0.79], "verb_top1_interval": [0.2, 0.9], "majority_class": 1 / 3,
        "sources": {"P01_01_0": segment},
    }  # fmt: skip
    (folder / "test.json").write_text(json.dumps(summary))
    return folder


def test_report_of_two_heads(two_heads: Path) -> None:
    page = report_text(two_heads)
    assert "reaches 33.3 % top-1 accuracy of verb and noun together (95 % interval 6.0 to 79.0 %)" in page
    for text in ("verb: Confusion matrix", "noun: Confusion matrix", "test, verb 66.7 % 20.0 to 90.0 %"):
        assert text in page
    assert f"verb: take predicted as {SCRIPT} (90.0 %); noun: cup is correct (80.0 %)" in page
    assert "2 of 3 videos are predicted wrongly" in page
    figures = re.findall(r'<figure class="mistake">(.*?)</figure>', (two_heads / REPORT_FILE).read_text(), re.DOTALL)
    assert "data:image/jpeg" in figures[0]  # the segment of the long video
    assert "The video does not exist any more: P01_01_1" in figures[1]


# robustness --------------------------------------------------------------------------------------------------------


def test_names_are_escaped(two_heads: Path) -> None:
    folder = two_heads.rename(two_heads.with_name(SCRIPT.replace("/", "") + '"&'))
    assert SCRIPT in report_text(folder)
    content = (folder / REPORT_FILE).read_text()
    assert content.count("<script>") == content.count("</script>") == 1  # that of the page
    assert "alert('x')" not in content.replace("&#39;", "")


def test_names_with_control_characters_and_surrogates_are_printable(copy: Path) -> None:
    rows = read_rows(copy / "test" / "predictions.csv")
    rows[0] |= {"path": "bad\udcff\x1b[31m.mp4", "prediction1": "other", "score1": "1.0"}
    with (copy / "test" / "predictions.csv").open("w", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert r"bad\udcff\x1b[31m.mp4" in report_text(copy)


@pytest.mark.parametrize(
    ("file", "damage", "note"),
    [
        ("metrics.csv", "\xff\n1\n", "metrics.csv cannot be read (it lacks the column step)"),
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("run.json", "{", "run.json cannot be read"),
        ("run.json", '{"data": {"heads": [{}]}}', "the table of splits is left out"),
        ("test/test.json", "[]", "test.json cannot be read (it contains a list instead of an object)"),
        ("test/test.json", '{"metrics": {"test_top1": 0.5}, "top1_interval": [1]}', "is left out"),
        ("test/predictions.csv", "a,b\n1,2\n", "predictions.csv cannot be read (it lacks the columns path"),
        ("test/classes.csv", "class,videos\nx,y\n", "classes.csv cannot be read"),
        ("test/confusion.csv", "a,b,c\nx,1,2\n", "confusion.csv cannot be read (it has 1 rows and 2 columns)"),
        ("test/predictions.csv", None, "predictions.csv does not exist, so the report has no mistakes of the test"),
        ("metrics.csv", None, "metrics.csv does not exist, so the report has no learning curves"),
        ("config.yaml", None, "config.yaml does not exist, so the report has no configuration"),
    ],
)
def test_damaged_or_missing_file_is_a_note(file: str, damage: str | None, note: str, copy: Path) -> None:
    if damage is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(damage, encoding="latin-1")
    page = report_text(copy)
    assert note in page
    assert "Environment" in page


def test_running_or_killed_run_is_described(copy: Path) -> None:
    record: dict[str, Any] = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "running", "epochs": 1}))
    assert "The training has not ended: it is running, or was killed after 1 of 2 complete epochs." in report_text(copy)


def test_removed_and_damaged_videos_have_placeholders(copy: Path, tmp_path: Path) -> None:
    rows = read_rows(copy / "test" / "predictions.csv")
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    rows[0] |= {"path": str(tmp_path / "damaged.mp4"), "prediction1": "other", "score1": "1.0"}
    rows[1] |= {"path": str(tmp_path / "removed.mp4"), "prediction1": "other", "score1": "0.99"}
    write_csv(copy / "test" / "predictions.csv", [list(rows[0]), *(list(row.values()) for row in rows)])
    page = report_text(copy)
    assert f"The video does not exist any more: {tmp_path / 'removed.mp4'}" in page
    assert re.search(r"damaged\.mp4 (is|cannot|contains|has)", page)


# parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.13, 0.58, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (3, 3, [2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6]),
        (1e-4, 1e-4, [4e-5, 6e-5, 8e-5, 1e-4, 1.2e-4, 1.4e-4, 1.6e-4]),
        (1e-5, 9e-4, [0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float, expected: list[float]) -> None:
    values = ticks(low, high)
    assert values[0] <= low and values[-1] >= high
    assert values == pytest.approx(expected)


def test_chart_ignores_values_that_are_not_finite() -> None:
    nan = float("nan")
    chart = line_chart("Loss", "epoch", "loss", [Line("run <b>", [(1, 2.0), (2, nan), (3, float("inf")), (4, 1.0)])])
    assert chart is not None
    assert "nan" not in chart and "inf" not in chart and "run &lt;b&gt;" in chart
    assert line_chart("Loss", "epoch", "loss", [Line("run", [(1, nan)])]) is None


@pytest.mark.parametrize("style", ["solid", "dashed", "faint", "points"])
def test_chart_marks_a_single_point(style: str) -> None:
    chart = line_chart("Learning rate", "epoch", "learning rate", [Line("run", [(1, 0.1)], style=style)])
    assert chart is not None
    assert chart.count("<circle") == 2  # in the chart and in its legend


def test_equal_validation_accuracies_are_one_line() -> None:
    rows = [{"step": 1.0, "epoch": 0.0, "val_top1": 0.5, "val_mean_class": 0.5}]
    assert "validation top-1 and mean class accuracy" in accuracy_chart(rows)
    rows.append({"step": 3.0, "epoch": 1.0, "val_top1": 0.75, "val_mean_class": 0.5})
    assert "</svg>validation top-1</li>" in accuracy_chart(rows)
    assert "</svg>validation mean class accuracy</li>" in accuracy_chart(rows)


@pytest.mark.parametrize(("accuracy", "low", "high"), [(1.0, 95, 100), (0.0, 0, 5), (0.5, 44, 56)])
def test_axis_of_a_constant_accuracy_stays_within_0_and_100(accuracy: float, low: int, high: int) -> None:
    rows = [{"step": 1.0, "epoch": 0.0, "val_top1": accuracy}, {"step": 3.0, "epoch": 1.0, "val_top1": accuracy}]
    numbers = [float(text) for text in re.findall(r'class="end">([^<]+)<', accuracy_chart(rows))]
    assert (min(numbers), max(numbers)) == (low, high)


def test_learning_rates_are_labeled_by_their_multiple_of_the_base_rate() -> None:
    network = zoo.create("tanet_r18", width=8, num_classes=4)
    groups = parameter_groups(network, OptimizerOptions(weight_decay=0.1, head_lr_scale=10.0))
    row = {f"lr-AdamW/{group['name']}": 0.01 * group["lr"] for group in groups}
    metrics = [{"step": 1.0, "epoch": 0.0, **row, "lr-Other": 0.5}]
    (chart,) = learning_curves([RunFiles(Path(), "run", metrics=metrics)])
    labels = re.findall(r"</svg>([^<]+)</li>", chart)
    assert set(labels) == {"base rate", "base rate x 10", "Other"}


def test_mistakes_of_several_labels_are_wrong_labels_above_one_half() -> None:
    rows = [
        {"path": "a", "label": "x|y", "prediction1": "x", "score1": "0.9", "prediction2": "z", "score2": "0.7"},
        {"path": "b", "label": "x", "prediction1": "x", "score1": "0.9", "prediction2": "z", "score2": "0.4"},
        {"path": "c", "label": "", "prediction1": "z", "score1": "0.95", "prediction2": "x", "score2": "0.1"},
    ]
    mistakes, count = find_mistakes(rows, multi_label=True)
    assert [(mistake.name, mistake.confidence) for mistake in mistakes] == [("c", 0.95), ("a", 0.7)]
    assert count == 2
