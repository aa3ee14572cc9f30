"""checkpoints_index.yaml: entries match their networks and published protocols; invalid entries are reported."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from changed_index import changed_index

import zoo
from zoo.errors import ConfigError, WeightsNotFoundError
from zoo.index import SOURCE_KINDS, load_index, parse_index, read_labels
from zoo.models import ARCHITECTURES, build
from zoo.protocol import Protocol
from zoo.weights.locations import path_for

NAMES = zoo.list_models()


@functools.cache
def build_on_meta(arch: str, options: str) -> Any:
    """Build a network on the meta device from its options as JSON, which can be cached."""
    with torch.device("meta"):
        return build(arch, **json.loads(options))


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_describes_its_network(name: str) -> None:
    entry = zoo.info(name)
    model = build_on_meta(entry.arch, json.dumps(dict(entry.options)))
    assert sum(p.numel() for p in model.parameters()) == entry.params
    assert model.num_frames == entry.protocol.num_frames == entry.options["num_frames"]
    assert entry.gmacs.input.split("x")[0] == str(model.num_frames)
    assert entry.options.get("image_size", entry.protocol.crop) == entry.protocol.crop
    labels = entry.class_names()
    if labels is not None:
        assert len(labels) == len(set(labels)) == entry.options["num_classes"]
    for a, b in entry.protocol.flip_pairs:
        names = read_labels(entry.dataset)
        assert {"left", "right"} <= set(f"{names[a]} {names[b]}".lower().replace(",", " ").split()), (
            names[a],
            names[b],
        )
    if entry.reported.top1 is None:  # the notes have the reason: not trained, not tested, or tested otherwise
        assert entry.notes
        is_untested = entry.init or entry.dataset == "kinetics710" or "Accuracy not specified" in entry.notes
        assert is_untested or entry.protocol.multi_label or "Pretrained without labels" in entry.notes
    assert {s.kind for s in entry.sources} != {"bundled"} or entry.sha256
    assert entry.sha256_prefix is None or f"-{entry.sha256_prefix}." in entry.sources[0].url


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_has_the_published_views(name: str) -> None:
    """The protocol has the views of the reported accuracy and the clip duration of the publisher."""
    entry = zoo.info(name)
    protocol, reported = entry.protocol, entry.reported
    if reported.views and not entry.init:
        views = f"{protocol.clips}x{protocol.crops}"
        if entry.arch.startswith("c2d") and protocol.sampling == "spread":
            # TSN: all frames in one clip; raw scores are averaged over frames, so several shorter clips are equivalent
            frames, crops = map(int, reported.views.split("x"))
            assert (protocol.average, protocol.crops) == ("logit", crops)
            assert frames - 1 <= protocol.clips * protocol.num_frames <= frames * 1.3
        else:
            assert reported.views == views
    if reported.size and not entry.init and entry.converter in ("tadaconv", "tam", "mmaction2"):
        assert reported.size == protocol.crop
    span = protocol.interval and protocol.interval * protocol.num_frames
    if entry.converter == "tadaconv":
        assert span in (None, 32, 64, 80, 160)  # 32x2 at 60 frames per second, 8x8, 16x5 and 32x5
    elif entry.converter in ("tam", "mmaction2"):
        assert span in (None, 60, 64)  # 64 consecutive frames; 5 frames have an interval of 12


def test_official_list_of_version_2_is_complete() -> None:
    """28 files: those in the tables of arXiv 2308.05787 without Something-Something V1, and four of Kinetics-710."""
    names = [*zoo.list_models("tadaconvnextv2_*"), *zoo.list_models("tadaformer_*")]
    trained = [zoo.info(name) for name in names if not zoo.info(name).init]
    assert len(trained) == len({entry.sources[0].url for entry in trained}) == 28
    for dataset, best in (("kinetics400", "clip_k710_k400_64f"), ("ssv2", "clip_ssv2_32f")):
        entry = max((e for e in trained if e.dataset == dataset), key=lambda e: e.reported.top1)
        assert entry.name == f"tadaformer_l14.{best}"
    assert {e.reported.top1 for e in trained if e.dataset == "kinetics710"} == {None}


def test_list_models_filters_by_pattern_dataset_and_architecture() -> None:
    assert zoo.list_models("tada2d*", dataset="ssv2") == ["tada2d_r50.ssv2_8f", "tada2d_r50.ssv2_16f"]
    assert len(zoo.list_models("tanet_*.mma*")) == 6
    assert zoo.list_models("tada*", dataset="kinetics710") == [
        "tadaformer_b16.clip_k710_16f",
        *(f"tadaformer_l14.clip_k710_{frames}f" for frames in (16, 32, 64)),
    ]
    assert zoo.list_models(arch="c2d_r101") == zoo.list_models("c2d_r101.*") != []
    assert zoo.list_models("nothing") == []


def test_sources_are_valid_and_unique() -> None:
    """parse_index rejects duplicate files of trained networks; image weights may be used by several entries."""
    index = load_index()
    for entry in index.entries.values():
        assert entry.sources and {source.kind for source in entry.sources} <= set(SOURCE_KINDS)
    sources = {path_for(s): s for e in index.entries.values() for s in e.sources}
    assert len(set(sources.values())) == len(sources)  # each source has its own path in the cache
    starts: dict[str, set[str | None]] = {}
    for entry in index.entries.values():
        starts.setdefault(entry.sources[0].url, set()).add(entry.sha256 or entry.sha256_prefix)
    assert all(len(digests) == 1 for digests in starts.values())


def test_unreleased_networks_name_alternatives() -> None:
    index = load_index()
    assert len(index.unreleased) == 20 and not set(index.unreleased) & set(index.entries)
    for name, text in index.unreleased.items():
        assert name.partition(".")[0] in ARCHITECTURES
        named = re.findall(r"\b\w+_\w+\.\w+\b", text)
        assert named and set(named) <= set(index.entries), name
        with pytest.raises(WeightsNotFoundError, match="were never released: "):
            zoo.load(name)


def test_label_sets_have_the_published_order() -> None:
    for name, first, last, count in (
        ("kinetics400", "abseiling", "zumba", 400),
        ("ssv2", "Approaching something with your camera", "Wiping something off of something", 174),
        ("activitynet", "Applying sunscreen", "Playing badminton", 200),
        ("imagenet1k", "tench", "toilet tissue", 1000),
    ):
        labels = read_labels(name)
        assert (labels[0], labels[-1], len(labels)) == (first, last, count)
    assert sorted(read_labels("ssv1")) == list(read_labels("ssv2"))  # the same classes in another order


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["models"]["tanet_r50.k400_8f"].update(color=1),
            r"models.tanet_r50.k400_8f: unknown field color",
        ),
        (lambda c: c["models"]["tanet_r50.k400_8f"].pop("sha256"), "missing field sha256"),
        (lambda c: c["models"]["tanet_r50.k400_8f"].update(options=None), "expected a block with num_classes"),
        (
            lambda c: c["models"]["tanet_r50.k400_8f"]["options"].update(num_frames=4),
            "is 4 in options and 8",
        ),
        (
            lambda c: c["models"]["tanet_r50.k400_8f"]["options"].update(num_classes=4),
            "there are 400 labels for 4 classes",
        ),
        (lambda c: c["models"]["tanet_r50.k400_8f"].update(params="many"), "params is 'many'"),
        (lambda c: c["models"]["tanet_r50.k400_8f"]["protocol"].update(crop=512), "crop of 512 does not fit"),
        (lambda c: c["models"]["tanet_r50.k400_8f"]["protocol"].update(mean=None), "mean is None"),
        (lambda c: c["models"]["tanet_r50.k400_8f"].update(arch="c2d_r50"), "arch must be 'tanet_r50'"),
        (lambda c: c["models"]["tanet_r50.k400_8f"].update(paper="x"), "paper 'x' is not one of"),
        (lambda c: c["models"]["tanet_r50.k400_8f"].update(sources=[]), "at least one download source"),
        (lambda c: c["models"]["tanet_r50.k400_8f"]["sources"][0].update(kind="ftp"), "kind 'ftp' is not one of"),
        (
            lambda c: c["models"]["tanet_r50.k400_8f"]["sources"][0].update(url="https://x.org/a"),
            "is not a URL of kind",
        ),
        (lambda c: c["models"]["tanet_r50.k400_8f"]["sources"][0].update(file=None), "file: is required for kinds"),
        (
            lambda c: c["models"].update({"tanet_r50.again": c["models"]["tanet_r50.k400_8f"]}),
            "tanet_r50.again and tanet_r50.k400_8f have the same file, https://drive.google.com",
        ),
        (lambda c: c["unreleased"].update({"tanet_r50.k400_8f": "x"}), "cannot be both in models: and in unreleased:"),
        (lambda c: c.update(unreleased=["x"]), "unreleased: expected"),
        (lambda c: c["models"]["tanet_r50.k400_8f"]["protocol"].update(crop=0), "crop is 0"),
        (lambda c: c["models"]["tanet_r50.k400_8f"]["protocol"].update(interval=None), "interval is None"),
        (lambda c: c["models"]["tanet_r50.k400_8f"]["protocol"].pop("mean"), "missing protocol fields mean"),
        (lambda c: c.update(schema=2), "expected schema: 1"),
        (lambda c: c.update(extra={}), "expected schema: 1"),
        (lambda c: c["protocols"]["mma_tsm_k400"].update(crops=4), "protocols.mma_tsm_k400: crops is 4"),
        (lambda c: c.update(protocols=[1]), "protocols: expected a block"),
    ],
)
def test_invalid_indices_are_reported(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_index(changed_index(tmp_path, change))


def test_unreadable_index_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_index(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_index(tmp_path / "bad.yaml")
    (tmp_path / "twice.yaml").write_text("models:\n  a.b: 1\n  a.b: 2\n")
    with pytest.raises(ConfigError, match=r"'a\.b' is a duplicate key"):
        parse_index(tmp_path / "twice.yaml")


def test_entries_can_override_shared_protocols() -> None:
    short, long = (zoo.info(f"tadaconvnextv2_tiny.in1k_k400_{frames}f").protocol for frames in (16, 32))
    assert long == dataclasses.replace(short, num_frames=32)
    assert short.sampling == "interval" and short.interval == 5
    ssv2 = zoo.info("tadaconvnextv2_tiny.in1k_k400_ssv2_16f").protocol
    assert (ssv2.sampling, ssv2.interval, ssv2.clips, len(ssv2.flip_pairs)) == ("segment", None, 2, 3)
    assert ssv2.mean == short.mean and short.flip_pairs == ()


def test_protocols_adapt_to_frames_and_sizes() -> None:
    k400: Protocol = zoo.info("tanet_r50.k400_8f").protocol
    assert k400.with_frames(16).interval == 4  # the same 64 frames
    small = zoo.info("tanet_r50.ssv1_8f").protocol.with_size(112)
    assert (small.resize, small.crop, small.train_crop) == (128, 112, 112)
    assert Protocol.from_dict(json.loads(json.dumps(k400.to_dict()))) == k400


def test_index_with_the_old_spelling_of_license_is_read(tmp_path: Path) -> None:
    def rename(content: Any) -> None:
        block = content["models"]["tanet_r50.k400_8f"]
        block["licence"] = block.pop("license")

    index = parse_index(changed_index(tmp_path, rename))
    assert index.entries["tanet_r50.k400_8f"].license == zoo.info("tanet_r50.k400_8f").license
