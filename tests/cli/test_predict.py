"""``tempozoo predict``: rows written batch by batch, a printed table or summary, the choice of views."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from paths import PYTHONPATH
from runs import flags, read_rows, video_folder
from small_models import FOUR, small_trained

import zoo
from cli import main
from lit_modules import VideoClassifier
from lit_modules.prediction_report import PredictionReport, RowFile, merge_parts
from zoo.errors import DataError

NO_PROGRESS_BAR = flags("trainer", enable_progress_bar=False)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small network whose protocol has 2 clips x 3 crops."""
    model = small_trained(labels=sorted(FOUR))
    model.protocol = zoo.protocol.replace(model.protocol, clips=2, crops=3)
    return str(zoo.save(model, tmp_path_factory.mktemp("networks") / "network"))


def predict(network: str, *arguments: str | Path) -> int:
    """Run ``tempozoo predict`` in batches of 8; return its exit status."""
    options = [*NO_PROGRESS_BAR, *flags("data", num_workers=0, batch_size=8)]
    return main(["predict", "--from", network, *options, *map(str, arguments)])


def test_few_videos_are_printed_as_a_table(
    network: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert predict(network, motion_folder / "test", "--out", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = read_rows(tmp_path / "predictions.csv")
    assert lines[0].startswith(f"Network: weights of {network}")
    assert lines[1] == (
        "Views: 1 clip x 1 crop of 4 frames, 32 pixels; the network's test protocol has 2 x 3 (--views published)"
    )
    assert len(rows) == 12
    *table, last_line = lines[2:]
    for line, row in zip(table, rows, strict=True):
        best = ", ".join(f"{100 * float(row[f'score{k}']):.2f} % {row[f'prediction{k}']}" for k in (1, 2, 3))
        assert line.split(None, 1) == [row["path"], best]
    assert last_line == f"Written to {tmp_path / 'predictions.csv'}"


def test_many_videos_are_summarized(
    network: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert predict(network, motion_folder, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    rows = read_rows(tmp_path / "predictions.csv")
    assert len(rows) == 56 and "\n56 videos\n" in printed
    assert len(printed.splitlines()) < 12 and ".mp4" not in printed
    mean = 100 * sum(float(row["score1"]) for row in rows) / 56
    assert f"mean score of the predicted label {mean:.2f} %" in printed
    counts = {label: int(count) for count, label in re.findall(r"^ +(\d+) +[\d.]+ %  (\w+)$", printed, re.MULTILINE)}
    assert counts == Counter(row["prediction1"] for row in rows)


def test_unreadable_videos_are_listed_with_their_reasons(
    network: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = [tmp_path / f"broken{number:02}.mp4" for number in range(12)]
    for path in broken:
        path.touch()
    assert predict(network, motion_folder / "test", *broken, "--out", tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out" / "unreadable.csv")
    assert [row["path"] for row in rows] == list(map(str, broken))
    assert {row["reason"] for row in rows} == {f"{path} is empty (0 bytes)." for path in broken}
    printed = capsys.readouterr().out
    assert printed.count("Unreadable: ") == 10
    assert f"2 more videos are unreadable: {tmp_path / 'out' / 'unreadable.csv'}" in printed

    assert predict(network, motion_folder / "test", "--out", tmp_path / "out") == 0
    assert not (tmp_path / "out" / "unreadable.csv").exists()


def test_predict_without_readable_videos_fails_and_writes_nothing(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty.mp4").touch()
    assert predict(network, tmp_path / "empty.mp4", "--out", tmp_path / "out") == 1
    assert "None of the 1 videos can be read: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("cause", "status"), [("error", None), ("SIGINT", 130), ("SIGTERM", 143)])
def test_predictions_before_an_interruption_are_kept(
    cause: str,
    status: int | None,
    network: str,
    motion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert predict(network, motion_folder, "--out", tmp_path / "complete") == 0
    original_step = VideoClassifier.predict_step

    def stop_in_third_batch(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2 and cause == "error":
            raise RuntimeError("out of memory")
        if batch_idx == 2:
            os.kill(os.getpid(), signal.Signals[cause])
        return original_step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "predict_step", stop_in_third_batch)
    handler = signal.getsignal(signal.SIGINT)
    try:
        if status is None:
            with pytest.raises(RuntimeError, match="out of memory"):
                predict(network, motion_folder, "--out", tmp_path / "interrupted")
        else:
            assert predict(network, motion_folder, "--out", tmp_path / "interrupted") == status
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores SIGINT after the first
    file = tmp_path / "interrupted" / "predictions.csv"
    count = 16  # two batches
    assert f"Stopped after {count} of 56 videos. Their predictions are in {file}" in capsys.readouterr().out
    assert read_rows(file) == read_rows(tmp_path / "complete" / "predictions.csv")[:count]


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_keeps_the_predictions(network: str, motion_folder: Path, tmp_path: Path) -> None:
    content = next((motion_folder / "test" / "meets").iterdir()).read_bytes()
    (tmp_path / "videos").mkdir()
    for number in range(3000):
        (tmp_path / "videos" / f"{number}.mp4").write_bytes(content)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cli", "predict", "--from", network, str(tmp_path / "videos")]
    command += [*NO_PROGRESS_BAR, *flags("data", num_workers=2, batch_size=8), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "predictions.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # a terminal signals the worker processes as well
    printed, _ = process.communicate(timeout=60)
    rows = read_rows(out / "predictions.csv")
    assert process.returncode == 130
    assert 0 < len(rows) < 3000 and f"Stopped after {len(rows)} of 3000 videos" in printed


def test_scores_are_written_after_each_batch_and_freed(network: str, motion_folder: Path, tmp_path: Path) -> None:
    report = PredictionReport(tmp_path)
    module = VideoClassifier(network)
    report._rows = RowFile(tmp_path / "predictions.csv", ["path"])
    scores = torch.rand(8, 4)
    reference = weakref.ref(scores)
    trainer: Any = SimpleNamespace(received_sigterm=False)
    report.on_predict_batch_end(trainer, module, {"path": list("abcdefgh"), "scores": scores}, {}, 0)
    del scores
    assert reference() is None
    assert len(read_rows(tmp_path / "predictions.csv")) == 8  # although the file is still open


def test_lightning_does_not_collect_the_outputs(
    network: str, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[Any] = []
    original = PredictionReport.on_predict_end

    def record_predictions(self: PredictionReport, trainer: L.Trainer, module: Any) -> None:
        collected.append(trainer.predict_loop.predictions)
        original(self, trainer, module)

    monkeypatch.setattr(PredictionReport, "on_predict_end", record_predictions)
    assert predict(network, motion_folder / "test", "--out", tmp_path) == 0
    assert collected == [[]]


def test_files_of_several_processes_are_merged_in_order(tmp_path: Path) -> None:
    ids = [f"{number}.mp4" for number in range(9)]
    videos_by_rank = {0: [0, 2, 8], 1: [1, 3, 5, 7], 2: []}  # 4 and 6 are unreadable
    parts = []
    for rank, numbers in videos_by_rank.items():
        part = RowFile(tmp_path / f"{rank}.csv", ["path", "prediction1"])
        part.create()
        part.append([[ids[number], 'a "quoted", label'] for number in numbers])
        part.close()
        parts.append(part.path)
    merge_parts(parts, ids, RowFile(tmp_path / "all.csv", ["path", "prediction1"]))
    rows = read_rows(tmp_path / "all.csv")
    assert [row["path"] for row in rows] == [ids[number] for number in (0, 1, 2, 3, 5, 7, 8)]
    assert {row["prediction1"] for row in rows} == {'a "quoted", label'}
    assert not any(part.exists() for part in parts)
    with pytest.raises(DataError, match="the machines do not share the folder"):
        merge_parts(parts, ids, RowFile(tmp_path / "all.csv", ["path"]))


@pytest.mark.parametrize(
    ("options", "views"),
    [
        (["--views", "published"], (2, 3)),
        (["--views=4x1"], (4, 1)),
        (["--views", "4x3", "--data.clips", "1"], (1, 3)),
        (["--data.crops", "3"], (1, 3)),
    ],
)
def test_views_are_chosen_by_options_and_printed(
    options: list[str], views: tuple[int, int], network: str, motion_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    video = next((motion_folder / "test" / "meets").iterdir())
    assert predict(network, video, *options, "--out", tmp_path / "out") == 0
    clips, crops = views
    printed = re.search(r"^Views: (\d+) clips? x (\d+) crops?", capsys.readouterr().out, re.MULTILINE)
    assert printed is not None and (int(printed[1]), int(printed[2])) == (clips, crops)
    explicit = flags("data", clips=clips, crops=crops)
    assert predict(network, video, *explicit, "--out", tmp_path / "explicit") == 0
    assert read_rows(tmp_path / "out" / "predictions.csv") == read_rows(tmp_path / "explicit" / "predictions.csv")


def test_test_uses_the_published_views_unless_views_are_specified(
    network: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["test", "--from", network, *video_folder(motion_folder), *NO_PROGRESS_BAR]
    for options, views in (([], "2 clips x 3 crops"), (["--views", "1x3"], "1 clips x 3 crops")):
        assert main([*arguments, *options, "--out", str(tmp_path / views)]) == 0
        assert views in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--views", "3"], "--views is 3; give CLIPSxCROPS, such as 4x3, or published."),
        (["predict", "--views", "1x2"], "crops is 2; choose from 1, 3, 10."),
        (["validate", "--views", "1x1"], "--views is for test, predict, probe and calibrate"),
        (["fit", "--allow_untrained"], "--allow_untrained is for validate, test and predict"),
    ],
)
def test_wrong_views_are_refused(
    arguments: list[str], message: str, network: str, motion_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    data = video_folder(motion_folder)
    assert main([*arguments, "--from", network, *data, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
