"""config.json: the type and range of every field are validated; errors name the file and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FOUR, small

import zoo
from zoo.errors import CheckpointError, ConfigError
from zoo.hub.push import read_results
from zoo.index import load_index
from zoo.models import ARCHITECTURES, options_of
from zoo.spec import COUNTS, FLAGS, NESTED, NUMBERS, RATES, check_description
from zoo.weights.lightning_checkpoint import CONFIG_KEY

HUGE = 10**9


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return zoo.save(small("tanet_r18", labels=list(FOUR)), tmp_path / "saved")


def rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of config.json; ``protocol__std=...`` changes a nested field."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.pop("sha256", None)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            config[part][key] = value
        else:
            config[part] = value
    file.write_text(json.dumps(config))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"protocol__std": [0.0, 0.2, 0.2]}, r"std\[0\] is 0.0; it must be a number from 0.0001 to 1000"),
    ({"protocol__std": [0.2, float("nan"), 0.2]}, r"std\[1\] is nan"),
    ({"protocol__std": [0.2, 0.2, float("inf")]}, r"std\[2\] is inf"),
    ({"protocol__std": [-0.2, 0.2, 0.2]}, r"std\[0\] is -0.2"),
    ({"protocol__std": [0.2, 0.2]}, "mean has 3 values and std 2"),
    ({"protocol__std": [0.2], "protocol__mean": [0.4]}, "mean and std have 1 values for 3 input channels"),
    ({"protocol__mean": [True, 0, 0]}, r"mean\[0\] is True"),
    ({"protocol__mean": "abc"}, "mean is 'abc'; it must be a list"),
    ({"protocol__clips": HUGE}, "clips is 1000000000; it must be a whole number from 1 to 256"),
    ({"protocol__clips": True}, "clips is True"),
    ({"protocol__crops": True}, "crops is True; choose from 1, 3, 10"),
    ({"protocol__resize": 20000}, "resize is 20000; it must be a whole number from 1 to 8192"),
    ({"protocol__resize": 8000}, "4 frames of 8000 x 8000 pixels"),
    ({"protocol__flip": "yes"}, "flip is 'yes'; it must be true or false"),
    ({"protocol__num_frames": 8}, "num_frames is 4 in options and 8 in protocol"),
    ({"protocol__flip_pairs": [[0, 4]]}, r"flip_pairs\[0\] is \[0, 4\]; classes are 0 to 3"),
    ({"protocol__flip_pairs": [[0, -1]]}, r"flip_pairs\[0\] is -1"),
    ({"protocol__flip_pairs": [[0, 1], [1, 2]]}, r"flip_pairs\[1\] is \[1, 2\]; it must be two different classes"),
    ({"protocol__heads": [["verb", 2], ["noun", 3]]}, "heads have 5 classes in all, num_classes is 4"),
    ({"protocol__heads": [["verb\u001b", 4]]}, r"the name of heads\[0\] is 'verb\\x1b'"),
    ({"protocol__\u001b[31m": 1}, r"unknown protocol fields \\x1b\[31m"),
    ({"options__num_classes": 4.0}, "num_classes is 4.0; it must be a whole number from 2 to 100000"),
    ({"options__drop_rate": float("nan")}, "drop_rate is nan"),
    ({"options__stem_pool": 1}, "stem_pool is 1; it must be true or false"),
    ({"options__width": HUGE}, "width is 1000000000; it must be a whole number from 1 to 8192"),
    ({"options__op_options": {"hidden": HUGE}}, "a number in op_options is 1000000000"),
    ({"options__op_options": {"a": [[[[[[1]]]]]]}}, "op_options is nested more than 5 levels deep"),
    ({"options__nothing": 1}, "tanet_r18 has no option 'nothing'"),
    ({"options__\u001b[31m": 1}, r"the name of an option is '\\x1b\[31m'"),
    ({"options__op_options": {"\u001b[31m": 1}}, r"a text in op_options is '\\x1b\[31m'"),
    ({"labels": ["a", "b", "c"]}, "there are 3 labels for 4 classes"),
    ({"labels": ["a", "b", "c", "\u001b[31md"]}, r"labels\[3\] is '\\x1b\[31md'"),
    ({"labels": ["a", "b", "c", "\u202ed"]}, r"labels\[3\] is '\\u202ed'"),
    ({"labels": ["a", "b", "c", "d" * 1001]}, r"labels\[3\] is 'ddd.*; it must be one line of 1 to 1000 characters"),
    ({"labels": ["a", "b", "c", "a"]}, r"labels\[3\] is 'a', the same as labels\[0\]"),
    ({"labels": ["a", "b", "c", 4]}, r"labels\[3\] is 4"),
    ({"provenance": {"a": "x" * 10_001}}, "a text in provenance has 10001 characters; at most 10000"),
    ({"provenance": {"a": [0] * 100_001}}, "provenance has more than 100000 values"),
    ({"provenance": {"a": 2**64}}, "a number in provenance"),
    ({"provenance": {"operator_untrained": 1}}, "provenance.operator_untrained is 1"),
    ({"arch": "tanet_r19"}, "Unknown architecture 'tanet_r19'. Did you mean"),
    ({"tempozoo": True}, "written in format True"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_load_names_file_field_and_range(changes: dict[str, Any], message: str, saved: Path) -> None:
    rewrite(saved, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        zoo.load(saved)
    assert str(caught.value).startswith(f"{saved / 'config.json'}: ")
    assert str(caught.value).isprintable()
    with pytest.raises(ConfigError, match=message):  # even if only the architecture is used
        zoo.load(saved, pretrained=False)


def test_configs_in_checkpoints_are_validated(saved: Path, tmp_path: Path) -> None:
    network = zoo.load(saved)
    config: dict[str, Any] = json.loads(json.dumps(network.spec.to_config()))
    config["protocol"]["std"] = [0.0, 0.0, 0.0]
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": {f"network.{k}": v for k, v in network.state_dict().items()}, CONFIG_KEY: config}, path)
    with pytest.raises(ConfigError, match=r"run\.ckpt: std\[0\] is 0.0"):
        zoo.load(path)
    for value, message in (
        (torch.zeros(3), r"run\.ckpt has an invalid 'tempozoo_config': it contains a StoredTensor"),
        (10**600, r"run\.ckpt"),
    ):
        torch.save({"state_dict": {}, CONFIG_KEY: network.spec.to_config() | {"provenance": {"x": value}}}, path)
        with pytest.raises((ConfigError, CheckpointError), match=message):
            zoo.load(path)


@pytest.mark.parametrize("pretrained", [True, False])
def test_load_allocates_no_more_memory_than_the_file_has(pretrained: bool, saved: Path) -> None:
    """Valid options of a network with 10^11 values are rejected before it is allocated."""
    rewrite(saved, options__width=8192)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        zoo.load(saved, pretrained=pretrained)


def test_untrained_operator_has_bounded_memory(tmp_path: Path) -> None:
    """The file has no tensors of an untrained operator, so its options could request any size."""
    from zoo.weights.model_folder import write_model

    network = small("tanet_r18")
    tensors = {key: value for key, value in network.state_dict().items() if key not in network.operator_keys()}
    config = network.spec.to_config() | {"provenance": {"operator_untrained": True}}
    assert zoo.load(write_model(tmp_path, tensors, config)).report.initialized  # type: ignore[union-attr]
    config["options"] = config["options"] | {"op_options": {"hidden": 65536}}
    with pytest.raises(ConfigError, match="a network with these options has .* values, the file has"):
        zoo.load(write_model(tmp_path, tensors, config))


def test_every_option_of_every_architecture_has_a_range() -> None:
    ranged = {"num_classes", *COUNTS, *RATES, *NUMBERS, *FLAGS, *NESTED}
    assert {option for arch in ARCHITECTURES for option in options_of(arch)} <= ranged


def test_every_index_entry_is_within_the_ranges() -> None:
    for entry in load_index().entries.values():
        check_description(entry.arch, entry.options, entry.protocol, entry.class_names())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"test_top1": float("nan")}}, "the percentage top1 is nan"),
        ({"metrics": {"test_top1": "a"}}, "not a test.json|percentage top1"),
        ({"videos": 10**12}, "videos is 1000000000000"),
        ({"protocol": {"clips": "1e9", "crops": 1, "num_frames": 4, "crop": 32}}, "views is '1e9x1'"),
    ],
)
def test_results_out_of_range_are_rejected(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    from zoo.provenance import fingerprint

    tensors = {"a": torch.zeros(2)}
    results: dict[str, Any] = {
        "metrics": {"test_top1": 0.5}, "protocol": {"clips": 1, "crops": 1, "num_frames": 4, "crop": 32},
        "weights": fingerprint(tensors), "videos": 3, "listed": 3,
    }  # fmt: skip
    (tmp_path / "test.json").write_text(json.dumps(results | change))
    with pytest.raises(ConfigError, match=message):
        read_results(tmp_path, tensors)
    (tmp_path / "test.json").write_text('{"metrics": ' + "9" * 5000 + "}")
    with pytest.raises(ConfigError, match="test.json is not a test.json .*5000 digits"):
        read_results(tmp_path, tensors)


def test_class_names_that_checkpoints_cannot_store_are_rejected() -> None:
    from lit_modules.network import match_classes

    for names in (["a", "b\x1b[31m"], ["a", "b" * 2000], ["a", "a"], ["a", " "]):
        with pytest.raises(ConfigError, match=r"^class_names\[1\] is "):
            match_classes(small("c2d_r18"), names)
