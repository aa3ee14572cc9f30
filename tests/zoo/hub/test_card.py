"""Model cards are valid for the Hub, state only verified facts, and escape any text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, RepoCard
from loopback_card import card_problems, metadata_of
from loopback_hub import LoopbackHub
from markdown_it import MarkdownIt
from small_models import small

import zoo
from zoo.hub.card import LICENSES, escape, model_card, operator_of
from zoo.models import ARCHITECTURES, build
from zoo.provenance import LOCAL, public_config
from zoo.text import printable
from zoo.weights.digests import record_digest

HOSTILE = [
    "a|b", "<script>alert(1)</script>", 'with "quotes"', "two\nlines", "no", "1e3", ": x", "`code`",
    "*bold* _it_ ~~s~~", "[link](http://x.y)", "&lt;", "# head", "back\\slash", "![p](x.png)", "---", "1. first",
    "- item", "   ", "<b>", "\x00\x1b[0m", "</table>", "$$x$$", "ünïcode 动作", "'single'", "{{ x }}", "null",
    "https://evil.example/x", "www.evil.example", "\u202egnp.exe", "@everyone",
]  # fmt: skip


def config(**changes: Any) -> dict[str, Any]:
    """Return the config of a small TANet; names in capital letters change its fields, others its provenance."""
    values = dict(small("tanet_r18").spec.to_config())
    values |= {key.lower(): changes.pop(key) for key in list(changes) if key.isupper()}
    return values | {"provenance": values["provenance"] | changes}


def rendered(card: str) -> str:
    """Render the text of a card as CommonMark with tables; HTML in it is passed through, as on the Hub."""
    return MarkdownIt("commonmark").enable("table").render(ModelCard(card).text)


def plain(html: str) -> str:
    for code, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        html = html.replace(code, character)
    return html


def shown(text: str) -> str:
    """Return text as the card shows it: one line, with control characters escaped."""
    return printable(" ".join(text.split())) or "(no name)"


def test_any_label_is_rendered_literally() -> None:
    network_config = config(LABELS=HOSTILE, OPTIONS={"num_classes": len(HOSTILE), "num_frames": 4})
    card = model_card(network_config, "alice/x")
    assert card_problems(card) == []
    items = re.findall(r"<li><code>(\d+)</code> (.*?)</li>", rendered(card))
    assert [(int(number), plain(text)) for number, text in items] == [(n, shown(t)) for n, t in enumerate(HOSTILE)]
    assert "<script>" not in rendered(card) and "<b>" not in rendered(card)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_in_any_field_keeps_the_card_valid(text: str) -> None:
    recipe, results = {"class": text, text: text}, {"dataset": text or "x", "top1": 50.0, "videos": 3}
    network_config = config(recipe=recipe, data={"class": text, "videos": {text: 3}}, package=text, epochs=3)
    card = model_card(network_config, "alice/x", results=results, license=text if text.strip() else None)
    assert card_problems(card) == []
    again = ModelCard(card)
    assert str(again) == card
    assert shown(text).replace("(no name)", "dataset") in again.data.eval_results[0].dataset_name
    html = rendered(card)
    assert html.count("<table>") == html.count("</table>") == 3  # clips, results, training
    assert html.count("<h1>") == 1
    assert "alert(1)" not in html or "&lt;script&gt;" in html
    assert escape(text).count("\n") == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://evil.example/x", r"https:\//evil.example/x"),
        ("WWW.evil.example", r"WWW\.evil.example"),
        ("a@evil.example", r"a\@evil.example"),
        ("\u202egnp.exe", r"\\u202egnp.exe"),
        ("\x1b[31mred", r"\\x1b\[31mred"),
        ("x" * 5000, "x" * 1000 + "..."),
    ],
)
def test_escape_prevents_links_and_shows_control_characters(text: str, shown: str) -> None:
    assert escape(text) == shown


@pytest.mark.parametrize("repo", ["alice/no", "alice/1e3", "1e3/1e3", "alice/0o17", "alice/2024-01-01", "a/null"])
def test_any_repository_name_is_text_in_the_metadata(repo: str) -> None:
    card = model_card(config(), repo, results={"dataset": repo.split("/")[1], "top1": 1.0}, license=repo.split("/")[1])
    assert card_problems(card) == []
    assert metadata_of(card)["model-index"][0]["name"] == repo
    assert f'load("hf-hub:{repo}")' in card


def test_hub_accepts_the_card_and_huggingface_hub_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"dataset": "my videos", "top1": 91.2, "top5": 99.0, "mean_class": 90.0, "views": "2x3", "size": 112}
    network_config = config(OPTIONS={"num_classes": 6, "num_frames": 4}, LABELS=None)
    (tmp_path / "README.md").write_text(model_card(network_config, "alice/x", results=results | {"left_out": 2}))
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path)
        card = RepoCard.load(tmp_path / "README.md")
        card.validate(repo_type="model")
        with pytest.raises(ValueError, match="license"):
            RepoCard("---\nlicense: mine\n---\n").validate(repo_type="model")
        assert hub.asked("POST /api/validate-yaml") == 2
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("tempozoo", "video-classification")
    assert {"tanet_r18", "tam"} <= set(data.tags)
    metrics = {(r.metric_name, r.metric_value, r.dataset_name) for r in data.eval_results}
    assert metrics == {(name, value, "my videos") for name, value in
                     (("top-1", 91.2), ("top-5", 99.0), ("mean class accuracy", 90.0))}  # fmt: skip
    assert data.eval_results[0].dataset_args == {"views": "2x3", "size": 112, "left_out": 2}
    assert not {"base_model", "license", "datasets"} & set(data.to_dict())


def test_every_entry_of_the_index_has_a_valid_card() -> None:
    for name in zoo.list_models():
        entry = zoo.info(name)
        provenance = {"entry": name, "sha256": "0" * 64} | ({"operator_untrained": True} if entry.init else {})
        published = replace(entry.spec, provenance=provenance).to_config()
        card = model_card(published, f"lab/{name}", unchanged=True)
        assert card_problems(card) == [], name
        assert entry.paper.url in card
        assert entry.sources[0].url in card or "bundled with tempozoo" in card
        if entry.reported.top1 is not None and not entry.init:
            assert f"top-1 {entry.reported.top1} %" in card
        assert ("start for fine-tuning" in card) == entry.init
        assert ("implemented from an abstract" in card) == entry.arch.startswith("stam")
        assert ("no published weights" in card) == entry.arch.startswith("tadaconvnext_")
        if entry.license.weights.startswith("not "):
            assert "license" not in metadata_of(card)
            assert entry.license.weights.split(";")[0] in card


def test_fine_tuned_weights_claim_no_published_accuracy() -> None:
    entry = zoo.info("tanet_r50.k400_8f")
    record_digest(entry.name, "ab" * 32, 1, entry.sources[0].url)
    provenance = {"entry": entry.name, "sha256": "ab" * 32, "fine_tuned_from": entry.name}
    card = model_card(replace(entry.spec, provenance=provenance).to_config(), "alice/x")
    assert str(entry.reported.top1) not in card
    assert "model-index" not in metadata_of(card) and entry.dataset not in metadata_of(card)["tags"]
    for fact in ("`tanet_r50.k400_8f`", "ab" * 32, entry.paper.title, "No published accuracy", entry.sources[0].url):
        assert fact in card
    assert f"License of the weights that training started from: {escape(entry.license.weights)}" in card
    # the card of another file has no facts about the published file, and not the file's own name
    provenance |= {"sha256": "cd" * 32, "file": "bobs_retrained.pth"}
    for change in ({}, {"fine_tuned_from": "hf-hub:bob/net"}):
        card = model_card(replace(entry.spec, provenance=provenance | change).to_config(), "alice/x")
        assert "a local file in the format of `tanet_r50.k400_8f`" in card and entry.paper.title in card
        for fact in (entry.sources[0].url, "published at", "bobs", "trained on", "that training started from"):
            assert fact not in card
    # random weights have no origin
    assert "k400_8f" not in model_card(config(entry=entry.name), "alice/x")


@pytest.mark.parametrize(
    ("license", "metadata", "text"),
    [
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}, "cc-by-nc-4.0"),
        ("Apache-2.0", {"license": "apache-2.0"}, "Apache-2.0"),
        ("My Own, v2!", {"license": "other", "license_name": "my-own-v2"}, r"My Own, v2\!"),
        ("许可", {"license": "other", "license_name": "custom"}, "许可"),
        (None, {}, "License not specified"),
        ("  ", {}, "License not specified"),
    ],
)
def test_licenses_are_identifiers_of_the_hub_or_other(license: str | None, metadata: dict[str, str], text: str) -> None:
    card = model_card(config(), "alice/x", license=license)
    actual = metadata_of(card)
    assert {key: actual[key] for key in ("license", "license_name") if key in actual} == metadata
    assert text in card.split("## License")[1]
    assert card_problems(card) == []
    assert {"cc-by-nc-2.0", "cc-by-nc-sa-4.0", "eupl-1.2", "bsd-3-clause", "openrail++"} <= set(LICENSES.split())


@pytest.mark.parametrize(
    ("name", "public", "base"),
    [
        ("/Users/me/runs/best.ckpt", LOCAL, None),
        ("runs/best.ckpt", LOCAL, None),
        (r"C:\runs\best.ckpt", LOCAL, None),
        ("best.ckpt", LOCAL, None),
        ("tanet_r18.motionclips8", "tanet_r18.motionclips8", None),
        ("tanet_r18", "tanet_r18", None),
        ("hf-hub:bob/net@v1", "hf-hub:bob/net@v1", "bob/net"),
        ("hf-hub:/Users/me/x", LOCAL, None),
        ("hf-hub:bob/net@feature/2", "hf-hub:bob/net@feature/2", "bob/net"),
        ("hf-hub:bob/net@x`<b>/Users/me", LOCAL, None),
        ("hf-hub:bob/net@/Users/me", LOCAL, None),
        ("hf-hub:bob/n--t", LOCAL, None),
        ("hf-hub:alice/x", "hf-hub:alice/x", None),
        (["tanet_r18"], LOCAL, None),
    ],
)
def test_only_public_names_are_published(name: Any, public: str, base: str | None) -> None:
    network_config = config(fine_tuned_from=name)
    assert public_config(network_config)["provenance"]["fine_tuned_from"] == public
    card = model_card(network_config, "alice/x")
    assert metadata_of(card).get("base_model") == base
    assert public.removeprefix("hf-hub:") in card
    assert "/home" not in card and "runs" not in card
    assert card_problems(card) == []


def test_local_paths_are_never_published() -> None:
    recipe = {"class": "TANet", "lr": 0.1, "milestones": [1, "/Users/me/x"], "init": {"deep": "~/secret"}}
    recipe |= {"/Users/me/k": 1}
    more = {"source": "/Users/me/y", "metrics": {"/Users/me/val": 0.5}, "rules": 3}
    network_config = config(
        recipe=recipe, file="me.pth", note="/Users/me/note", data={"class": "V", "root": "C:\\me"}, **more
    )
    public = public_config(network_config | {"folder": "/Users/me"})
    assert "me" not in re.findall("[a-z]+", json.dumps(public, default=str))
    assert set(public["provenance"]) == {"package", "recipe", "data", "metrics"}
    assert public["provenance"]["recipe"]["lr"] == 0.1


@pytest.mark.parametrize(
    "odd", ["abc", [1], 3, None, {"videos": 3, "class": []}, {"videos": {"a": "b"}, "val_top1": "x"}]
)
def test_invalid_provenance_is_ignored(odd: Any) -> None:
    """A config.json from another source may have any values."""
    keys = ("recipe", "data", "metrics", "sha256", "initialized", "copy_of", "epochs", "entry", "package", "size")
    for invalid in (config(**dict.fromkeys(keys, odd)), config() | {"provenance": odd}):
        assert card_problems(model_card(invalid, "alice/x")) == []
    assert "`b`" not in model_card(config(entry="tanet_r50.k400_8f", sha256="`b`"), "alice/x")


def test_operator_of_matches_the_networks_modules() -> None:
    classes = {
        "TAdaConv2dV2": "tadaconv_v2", "TAdaConv2d": "tadaconv", "TAdaConv3d": "tadaconv", "TAM": "tam", "STAM": "stam",
        "TemporalPool": "pool", "TemporalConv": "tconv", "InflatedConv2d": "i3d", "TemporalShift": "tsm",
        "TEIModule": "tei",
    }  # fmt: skip
    for arch in ARCHITECTURES:
        if not re.search(
            "^ptv_|_r101$|_small$|_base$|_l14$", arch
        ):  # skips larger networks of a family, and those of pytorchvideo
            with torch.device("meta"):
                modules = build(arch, num_classes=4, num_frames=8).modules()
            operators = {classes[kind] for module in modules if (kind := type(module).__name__) in classes}
            assert operators == {operator_of(arch)} - {None}, arch
    assert operator_of("tadaconvnextv2_small") == operator_of("tadaformer_l14") == "tadaconv_v2"


def test_top5_is_omitted_for_few_classes() -> None:
    results = {"dataset": "x", "top1": 50.0, "top5": 100.0, "videos": 8, "left_out": 2}
    network_config = config(metrics={"val_top1": 0.75, "val_top5": 1.0, "val_loss": 0.5}, epochs=2)
    card = model_card(network_config, "alice/x", results=results)
    assert "top-5" not in card and "top5" not in card
    assert "| videos not scored | 2 |" in card
    assert "| top-1 on validation videos, during training | 75.00 % |" in card and "| 0.5 |" in card


def test_card_shows_how_to_load_the_network() -> None:
    for revision, name in ((None, "x"), ("main", "x"), ("v2", "x@v2"), ("refs/pr/1", "x")):
        card = model_card(config(), "alice/x", revision=revision)
        assert f'load("hf-hub:alice/{name}")' in card and f"--from hf-hub:alice/{name} clip" in card
    assert "Requires the Python package `tempozoo`" in card


def test_card_of_a_network_without_a_classifier() -> None:
    network = config(LABELS=None, OPTIONS={"num_classes": 0, "num_frames": 4})
    card = model_card(network, "alice/x", results={"dataset": "x", "top1": 50.0})
    assert card_problems(card) == []
    assert "computes features of videos (no classifier)" in card and "-> (B, model.num_features)" in card
    for absent in ("chance", "0 classes", "## Classes", "tempozoo predict"):
        assert absent not in card


def test_long_class_lists_are_shortened() -> None:
    network_config = config(LABELS=[f"class {n}" for n in range(61)], OPTIONS={"num_classes": 61, "num_frames": 4})
    card = model_card(network_config, "alice/x")
    assert card.count("- `") == 10 and "and 51 more" in card
    assert "names are not in the file" in model_card(config(LABELS=None), "alice/x")
