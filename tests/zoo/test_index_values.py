"""The index: values of the wrong type, out of range or unprintable are reported, and so is unusual YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from changed_index import changed_index

from zoo.errors import ConfigError
from zoo.index import parse_index, read_labels

ENTRY = "tanet_r50.k400_8f"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("notes", "\x1b[31mred", r"notes is '\\x1b\[31mred'; it must be one line"),
        ("dataset", 3, "dataset is 3; its type must be str"),
        ("params", True, "params is True; its type must be int"),
        ("labels", "../labels/kinetics400", "Unknown label set"),
        ("labels", 3, "labels is 3; its type must be str or None"),
        ("options", {"num_classes": 400, "num_frames": 8, "width": 10**9}, "width is 1000000000; it must be"),
        ("options", {"num_classes": 400, "num_frames": 8, "in_channels": 1}, "mean and std have 3 values for 1 input"),
        ("data_options", ["category"], "data_options: expected a block of options of the data module"),
        ("data_options", {"category": 3}, "data_options.category is 3; its type must be str or bool"),
        ("data_options", {"root/x": "scene"}, "data_options: 'root/x' is not the name of an option"),
        ("sha256", 10**2000, "sha256 is an integer of .* bits"),
    ],
)
def test_index_values_are_validated(field: str, value: Any, message: str, tmp_path: Path) -> None:
    path = changed_index(tmp_path, lambda content: content["models"][ENTRY].update({field: value}))
    with pytest.raises(ConfigError, match=message) as caught:
        parse_index(path)
    assert ENTRY in str(caught.value) and str(caught.value).isprintable()


def test_reported_accuracy_must_be_a_finite_number(tmp_path: Path) -> None:
    for value, message in ((float("nan"), "top1 is nan; it must be a finite number"), ("high", "top1 is 'high'")):
        path = changed_index(tmp_path, lambda c, value=value: c["models"][ENTRY]["reported"].update(top1=value))
        with pytest.raises(ConfigError, match=message):
            parse_index(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: " + "9" * 5000, "is not valid YAML"),
        ("schema: 2020-13-45", "is not valid YAML"),
        ("1: a", "a key is not text"),
        ("[a, b]: c", "a key is not text"),
        ("schema: 1\npapers: []\nmodels: {}\n", "papers: expected a block of names"),
        ("schema: 1\npapers: {}\nmodels: [1]\n", "models: expected a block of names"),
        ("[" * 5000, "is not valid YAML"),
    ],
    ids=["digits", "date", "number", "list", "papers", "models", "depth"],
)
def test_unusual_yaml_is_reported(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "index.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        parse_index(tmp_path / "index.yaml")
    assert "\n" not in str(caught.value)


def test_index_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    (tmp_path / "index.yaml").write_bytes(b"schema: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        parse_index(tmp_path / "index.yaml")


def test_invalid_yaml_of_the_user_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.errors import ConfigError
    from zoo.settings import mirror
    from zoo.weights.digests import read_digests

    monkeypatch.setenv("TEMPOZOO_CONFIG", str(tmp_path))
    for text in ("a: " + "9" * 5000, "a: 2020-13-45"):
        with pytest.raises(ValueError, match=r"limit|month"):
            yaml.safe_load(text)
        for name, read in (("digests.yaml", read_digests), ("config.yaml", mirror)):
            (tmp_path / name).write_text(text)
            with pytest.raises(ConfigError, match=f"{name} cannot be read"):
                read()


def test_label_sets_are_read_from_their_folder_only() -> None:
    assert len(read_labels("kinetics400")) == 400
