"""Damaged annotation files: readers return records or raise a DataError that names the file."""

from __future__ import annotations

import copy
import json
import logging
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from annotation_files import UCF_CLASSES, touch_files, write_epic_files, write_lines

from cli import main
from datamodules import (
    HMDB51,
    HVU,
    UCF101,
    ActivityNet,
    Diving48,
    EpicKitchens100,
    Jester,
    Kinetics,
    MiniKinetics,
    MMActionList,
    MomentsInTime,
    MultiMomentsInTime,
    ShardList,
    SomethingV1,
    SomethingV2,
    VideoDataModule,
    VideoFolder,
    VideoList,
)
from datamodules.annotations import read_classes
from datamodules.hmdb51 import CLASSES as HMDB_CLASSES
from zoo.errors import DataError
from zoo.index import read_labels

VIDEOS = [f"v{number}.mp4" for number in range(6)]
SECONDS, BYTES = 5.0, 1 << 30  # limits for reading a damaged file of some kilobytes


class Case(NamedTuple):
    """A data set whose annotation files are valid, and the files to damage."""

    files: list[Path]
    make: Callable[[], VideoDataModule]


def video_list(root: Path) -> Case:
    file = write_lines(root / "list.csv", ["path,label", *(f"{name},{'xy'[n % 2]}" for n, name in enumerate(VIDEOS))])
    names = write_lines(root / "classes.txt", "xy")
    exclude = write_lines(root / "exclude.txt", ["# excluded", VIDEOS[0]])
    return Case(
        [file, names, exclude],
        lambda: VideoList(file, val=file, classes=names, root=root, exclude=exclude, max_missing=1.0, num_workers=0),
    )


def own_classes(root: Path) -> Case:
    file = write_lines(root / "list.csv", ["path,label", *(f"{name},{n % 2}" for n, name in enumerate(VIDEOS))])
    return Case([file], lambda: VideoList(file, max_missing=1.0, num_workers=0))


def mmaction_videos(root: Path) -> Case:
    file = write_lines(root / "list.txt", [f"{name} {n % 2}" for n, name in enumerate(VIDEOS)])
    return Case([file], lambda: MMActionList(file, max_missing=1.0, num_workers=0))


def mmaction_frames(root: Path) -> Case:
    touch_files(root, *(f"f{n}/1.jpg" for n in range(6)))
    file = write_lines(root / "list.txt", [f"f{n} 1 {n % 2}" for n in range(6)])
    return Case([file], lambda: MMActionList(file, val=file, kind="frames", max_missing=1.0, num_workers=0))


def kinetics(root: Path) -> Case:
    classes = read_labels("kinetics400")
    rows = [f"{classes[n]},v{n},{n},{n + 10}" for n in range(6)]
    header = "label,youtube_id,time_start,time_end"
    files = [write_lines(root / f"{part}.csv", [header, *rows]) for part in ("train", "val")]
    return Case(files, lambda: Kinetics(root, max_missing=1.0, num_workers=0))


def kinetics_700(root: Path) -> Case:
    header = "label,youtube_id,time_start,time_end"
    files = [
        write_lines(root / f"{part}.csv", [header, *(f"c{n},v{n},0,1" for n in range(700))])
        for part in ("train", "val")
    ]
    return Case(files, lambda: Kinetics(root, "700", max_missing=1.0, num_workers=0))


def mini_kinetics(root: Path) -> Case:
    classes = read_labels("kinetics400")
    header = "label,youtube_id,time_start,time_end"
    ids = [f"v{number // 2}" for number in range(0, 400, 2)]
    files = []
    for part in ("train", "val"):
        files.append(write_lines(root / f"{part}_ytid_list.txt", ids))
        write_lines(root / f"{part}.csv", [header, *(f"{classes[2 * n]},{one},0,9" for n, one in enumerate(ids))])
    return Case([*files, root / "train.csv"], lambda: MiniKinetics(root, max_missing=1.0, num_workers=0))


def omnisource(root: Path) -> Case:
    files = [write_lines(root / f"k200_{part}.txt", [f"v{n}.mp4 {n}" for n in range(6)]) for part in ("train", "val")]
    files.append(write_lines(root / "k200_actions.txt", [f"class {number}" for number in range(200)]))
    return Case(files, lambda: MiniKinetics(root, max_missing=1.0, num_workers=0))


def moments(root: Path) -> Case:
    files = [
        write_lines(root / f"{part}Set.csv", [f"v{n}.mp4,class {n % 3},3,1" for n in range(6)])
        for part in ("training", "validation")
    ]
    files.append(write_lines(root / "moments_categories.txt", [f"class {number},{number}" for number in range(3)]))
    return Case(files, lambda: MomentsInTime(root, max_missing=1.0, num_workers=0))


def multi_moments(root: Path) -> Case:
    rows = ["v0.mp4,0", "v1.mp4,1,2", "v2.mp4,0,1,2", "v3.mp4,2"]
    files = [write_lines(root / f"{part}Set.csv", rows) for part in ("training", "validation")]
    files.append(write_lines(root / "moments_categories.txt", [f"class {number},{number}" for number in range(3)]))
    return Case(files, lambda: MultiMomentsInTime(root, max_missing=1.0, num_workers=0))


def hvu(root: Path) -> Case:
    touch_files(root, *(f"v{number}_000000_000100.mp4" for number in range(4)))
    rows = [
        "Tags,youtube_id,time_start,time_end",
        "yoga|zumba,v0,0,10",
        "zumba,v1,0,10",
        "beach,v2,0,10",
        "yoga,v3,0,10",
    ]
    files = [write_lines(root / f"hvu_{part}.csv", rows) for part in ("train", "val")]
    tags = write_lines(root / "hvu_categories.csv", ["Tag,Category", "yoga,action", "beach,scene", "zumba,action"])
    return Case([*files, tags], lambda: HVU(root, max_missing=1.0, num_workers=0))


def hvu_json(root: Path) -> Case:
    entries = [{"filename": f"v{n}.mp4", "label": {"action": [n % 2], "scene": [0]}} for n in range(5)]
    files = [write_lines(root / f"hvu_{part}_video.json", [json.dumps(entries)]) for part in ("train", "val")]
    files.append(write_lines(root / "hvu_tags.json", [json.dumps({"action": ["yoga", "zumba"], "scene": ["beach"]})]))
    return Case(files, lambda: HVU(root, max_missing=1.0, num_workers=0))


def activitynet(root: Path, segments: bool = False) -> Case:
    subsets = ["training", "training", "validation", "validation", "testing"]
    entries = {}
    for number, subset in enumerate(subsets):
        annotations = [{"segment": [n, n + 1.5], "label": label} for n, label in enumerate(["Zumba", "Tango"])]
        entries[f"v{number}"] = {"subset": subset, "duration": 9.5, "annotations": annotations}
    file = write_lines(root / "activity_net.v1-3.min.json", [json.dumps({"database": entries})])
    return Case([file], lambda: ActivityNet(root, segments=segments, max_missing=1.0, num_workers=0))


def activitynet_segments(root: Path) -> Case:
    return activitynet(root, segments=True)


def something_v1(root: Path) -> Case:
    classes = read_labels("ssv1")
    lines = [f"v{n};{classes[n]}" for n in range(6)]
    files = [write_lines(root / f"something-something-v1-{part}.csv", lines) for part in ("train", "validation")]
    files.append(write_lines(root / "something-something-v1-labels.csv", classes))
    return Case(files, lambda: SomethingV1(root, max_missing=1.0, num_workers=0))


def something_v2(root: Path) -> Case:
    classes = read_labels("ssv2")
    entries = [{"id": f"v{n}", "template": classes[n], "placeholders": []} for n in range(6)]
    files = [
        write_lines(root / f"something-something-v2-{part}.json", [json.dumps(entries)])
        for part in ("train", "validation")
    ]
    numbers = {name: str(number) for number, name in enumerate(classes)}
    files.append(write_lines(root / "something-something-v2-labels.json", [json.dumps(numbers)]))
    return Case(files, lambda: SomethingV2(root, max_missing=1.0, num_workers=0))


def jester(root: Path) -> Case:
    classes = read_labels("jester")
    rows = ["video_id,label,frames", *(f"v{n},{classes[n]},37" for n in range(6))]
    files = [write_lines(root / f"{part}.csv", rows) for part in ("Train", "Validation")]
    return Case(files, lambda: Jester(root, max_missing=1.0, num_workers=0))


def diving(root: Path) -> Case:
    entries = [{"vid_name": f"v{n}", "label": n, "start_frame": 0, "end_frame": 9} for n in range(6)]
    files = [write_lines(root / f"Diving48_V2_{part}.json", [json.dumps(entries)]) for part in ("train", "test")]
    files.append(write_lines(root / "Diving48_vocab.json", [json.dumps([["a", "b", "c", str(n)] for n in range(48)])]))
    return Case(files, lambda: Diving48(root, max_missing=1.0, num_workers=0))


def epic(root: Path, frames: bool = False) -> Case:
    def segment(n: int) -> str:
        return f"v{n}_0,P,v{n},00:00:00.1,00:00:00.1,00:00:01.2,{n + 1},{n + 9},open,open,3,door,3,['door'],[3]"

    touch_files(root, *(f"v{n}/frame_0000000001.jpg" for n in range(6)))
    write_epic_files(root, [segment(n) for n in range(3)], [segment(n) for n in range(3, 6)])
    files = [root / f"EPIC_100_{part}.csv" for part in ("train", "validation", "verb_classes", "noun_classes")]
    return Case(files, lambda: EpicKitchens100(root, frames=frames, max_missing=1.0, num_workers=0))


def epic_frames(root: Path) -> Case:
    return epic(root, frames=True)


def ucf(root: Path) -> Case:
    lines = [f"{UCF_CLASSES[n % 3]}/v_{UCF_CLASSES[n % 3]}_g{n // 3 + 1:02d}_c01.avi" for n in range(6)]
    touch_files(root, *(line.split("/")[1] for line in lines))
    files = [
        write_lines(root / "classInd.txt", [f"{n} {name}" for n, name in enumerate(UCF_CLASSES, start=1)]),
        write_lines(root / "trainlist01.txt", [f"{line} 1" for line in lines]),
        write_lines(root / "testlist01.txt", lines),
    ]
    return Case(files, lambda: UCF101(root, val_fraction=0.4, max_missing=1.0, num_workers=0))


def hmdb(root: Path) -> Case:
    for name in HMDB_CLASSES:
        write_lines(
            root / f"{name}_test_split1.txt", ["v0.avi 1 ", "v1.avi 2 ", "v2.avi 0 "] if name == HMDB_CLASSES[0] else []
        )
    return Case([root / f"{HMDB_CLASSES[0]}_test_split1.txt"], lambda: HMDB51(root, max_missing=1.0, num_workers=0))


def manifest(root: Path) -> Path:
    paths = [f"{'xy'[n % 2]}/{name}" for n, name in enumerate(VIDEOS)]
    columns = {"shard": [0] * 6, "offset": [512 * n for n in range(6)], "size": [9] * 6, "label": list("xyxyxy")}
    content = {"version": 1, "shards": ["0.tar"], "path": paths, **columns}
    (root / "0.tar").write_bytes(bytes(10_000))
    return write_lines(root / "shards.json", [json.dumps(content)])


def shard_list(root: Path) -> Case:
    return Case([manifest(root)], lambda: ShardList(str(root), val=str(root), num_workers=0))


def shard_folder(root: Path) -> Case:
    return Case([manifest(root)], lambda: VideoFolder(root, num_workers=0))


CASES = [video_list, own_classes, mmaction_videos, mmaction_frames, kinetics, kinetics_700, mini_kinetics, omnisource,
         moments, multi_moments, hvu, hvu_json, activitynet, activitynet_segments, something_v1, something_v2, jester,
         diving, epic, epic_frames, ucf, hmdb, shard_list, shard_folder]  # fmt: skip

# damage ----------------------------------------------------------------------------------------------------------

TOKENS = [
    b"", b"\0", b"\n", b"\r", b"\r\n", b",", b";", b'"', b'""', b"'", b" ", b"\t", b"\xff\xfe", b"\x80",
    b"\xef\xbb\xbf", "é\u2028\u0661²".encode(), b"-1", b"0", b"1e400", b"nan", b"inf", b"9" * 30, b"9" * 5000,
    b"123456789012", b"1.5", b"true", b"null", b"[]", b"{}", b"[[1]]", b'{"a":1}', b'"\\ud800"', b'"\\u0000"', b'"y"',
    b'"x/v9.mp4"', b"[" * 3000, b'{"a":' * 3000, b"a" * 300, b"b" * 140_000, b"../", b"/", b"..", b"#", b"# ", b"=",
]  # fmt: skip


def damage(content: bytes, draw: np.random.Generator) -> bytes:
    """Return a copy with one to three changes: bytes, lines or values replaced, removed or repeated."""
    for _ in range(draw.integers(1, 4)):
        at, to = sorted(draw.integers(0, len(content) + 1, 2).tolist())
        token = TOKENS[draw.integers(len(TOKENS))]
        values = [match.span() for match in re.finditer(rb'"(?:[^"\\]|\\.)*"|[^\s,;"\[\]{}:]+', content[:20_000])]
        match draw.integers(7):
            case 0:
                content = content[:at] + bytes(draw.integers(0, 256, 2, dtype=np.uint8)) + content[at + 2 :]
            case 1:
                content = content[:at] + token + content[at:]
            case 2:
                content = content[:at] + content[to:]
            case 3:
                content = content[:at]
            case 4:
                lines = content.splitlines(keepends=True)
                if lines:
                    lines.insert(draw.integers(len(lines) + 1), lines[draw.integers(len(lines))])
                content = b"".join(lines)
            case _:
                if values:
                    start, stop = values[draw.integers(len(values))]
                    content = content[:start] + token + content[stop:]
    return content


VALUES: list[Any] = [
    None, True, -1, 0, 3, 10**25, 1.5, float("nan"), float("inf"), "", "x", "3", "\0", "\ud800", "a" * 5000, "../v1",
    [], [0], {}, {"id": "v1"}, ["v1", 1],
]  # fmt: skip


def damage_json(content: bytes, draw: np.random.Generator) -> bytes:
    """Return a copy with one to three values replaced, removed or repeated; it remains JSON."""
    tree = json.loads(content)
    for _ in range(draw.integers(1, 4)):
        slots = list(slots_of(tree))
        if slots:
            container, key = slots[draw.integers(len(slots))]
            kind = draw.integers(4)
            if kind == 0:
                del container[key]
            elif kind == 1 and isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            else:
                container[key] = copy.deepcopy(VALUES[draw.integers(len(VALUES))])
    return json.dumps(tree).encode()


def slots_of(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a JSON value with each of its keys."""
    if isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from slots_of(tree[key])


@contextmanager
def bounded() -> Iterator[None]:
    """Fail if the block exceeds the limits of time or memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


def read_all(case: Case) -> None:
    """Read all records, like ``tempozoo fit`` and ``test`` do."""
    data = case.make()
    for stage, overlap in (("fit", False), ("test", True)):
        data.allow_overlap = overlap
        data.check(stage)
        for records in data._stage_records.values():
            assert len(records) == len(set(records.ids)) > 0
            assert records.labels.min() >= 0 and records.labels.max() < len(data.class_names or [])
            assert all(isinstance(records.source(number).path, str) for number in range(len(records)))


def check(case: Case, damaged: Path) -> bool:
    """Whether the data set can be read; if not, check that its error names the file."""
    try:
        with bounded():
            read_all(case)
    except DataError as error:
        message = str(error)
        # The error may name another file, with which the damaged one conflicts.
        names = [str(file) for file in case.files]
        if damaged.name == "shards.json" or "test_split" in damaged.name:  # these are named by their folder
            names = [str(damaged.parent)]
        assert any(name in message for name in names), message[:500]
        assert "\n" not in message and len(message) < 3000, message[:500]
        return False
    return True


def fuzz(make: Callable[[Path], Case], root: Path, changes: int, seed: int) -> None:
    touch_files(root, *VIDEOS)
    case = make(root)
    read_all(case)
    readable = 0
    for number in range(changes):
        file = case.files[number % len(case.files)]
        original = file.read_bytes()
        draw = np.random.default_rng((seed, number))
        structured = file.suffix == ".json" and bool(draw.integers(2))
        changed = damage_json(original, draw) if structured else damage(original, draw)
        file.write_bytes(changed)
        try:
            readable += check(case, file)
        except BaseException as error:
            raise AssertionError(f"{file.name}, seed {(seed, number)}: {changed[:1000]!r}") from error
        file.write_bytes(original)
    assert 0 < readable < changes  # some damage is harmless, some is not


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log = logging.getLogger("datamodules")
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(logging.NOTSET)


@pytest.mark.parametrize("make", CASES)
def test_damaged_annotations_are_read_or_reported(make: Callable[[Path], Case], tmp_path: Path) -> None:
    fuzz(make, tmp_path, changes=80, seed=0)


def test_csv_field_beyond_the_size_limit_is_reported_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write_lines(tmp_path / "list.csv", ["path,label", "v0.mp4,x", f'"v1.mp4,{"y" * 140_000}'])
    with pytest.raises(DataError, match=rf"^{file}, line 3: field larger than field limit \(131072\)\. A quote"):
        VideoList(file).class_names  # noqa: B018
    fit = ["fit", "--model", "VideoClassifier", "--model.name", "c2d_r18", "--data", "VideoList", "--data.train"]
    assert main([*fit, str(file), "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert f"{file}, line 3" in message and message.count("\n") == 1
    lines = write_lines(tmp_path / "jester-v1-train.csv", ["1;Swiping Left", f"2;{'y' * 140_000}"])
    with pytest.raises(DataError, match=rf"^{lines}, line 2: field larger"):
        Jester(tmp_path).split_records("train")


def test_large_label_does_not_create_a_billion_classes(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "list.txt", ["v0.mp4 0", "v1.mp4 999999999"])
    with bounded(), pytest.raises(DataError, match="gives v1.mp4 the label 999999999; labels must be below 1000000"):
        MMActionList(file).class_names  # noqa: B018


def test_reading_many_classes_is_fast(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "classes.txt", [f"class {number}" for number in range(100_000)])
    with bounded():
        assert len(read_classes(file)) == 100_000


def test_path_too_long_for_the_file_system_counts_as_missing(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "list.csv", ["path,label", f"{'a' * 300}.mp4,x", "b.mp4,y"])
    with pytest.raises(DataError, match=f"2 of the 2 videos listed in {file} are not below"):
        VideoList(file, val=file).split_records("val")


@pytest.mark.slow
@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_damaged_annotations_are_read_or_reported(make: Callable[[Path], Case], seed: int, tmp_path: Path) -> None:
    fuzz(make, tmp_path, changes=1000, seed=seed)
