"""The model card of a network on the Hub: what its config and the index know, and nothing that they do not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.config import UNTRAINED
from zoo.hub.hf import HUB_PREFIX
from zoo.hub.hf_client import LIBRARY
from zoo.index import Entry, load_index
from zoo.models import ARCHITECTURES, RESNETS
from zoo.protocol import Protocol

LOCAL = "a local checkpoint"
CLASSES_LISTED = 60
TASK = "video-classification"
METRICS = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class accuracy"}
# of what provenance may hold, what may be told to everybody
TOLD = (
    "entry",
    "file",
    "sha256",
    "size",
    "package",
    "fine_tuned_from",
    "epochs",
    "recipe",
    "data",
    "metrics",
    UNTRAINED,
)
# what the Hub calls licences; anything else is "other" there
LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0
wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc
lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown
other
"""
STAM = (
    "**STAM is this package's reading of an abstract** (doi 10.1007/s00371-023-03165-6): nothing else of it is open. "
    "No published accuracy is claimed."
)
TADACONVNEXT = "Version 1 of TAdaConvNeXt has no published weights: these are not its authors'."
OPERATOR_UNTRAINED = (
    "**A start for fine-tuning, not a trained video network:** its temporal operator is not in the file, and is "
    "initialised anew whenever it is loaded."
)


def model_card(
    config: Mapping[str, Any],
    repo: str,
    *,
    results: Mapping[str, Any] | None = None,
    licence: str | None = None,
    plots: Sequence[str] = (),
    unchanged: bool = False,
) -> str:
    """The README.md of a network's repository: metadata for the Hub, and text.

    Args:
        config: of the network, as in its config.json.
        repo: "user/repo", where it will be.
        results: of a test, as ``zoo.push.read_results`` returns them.
        licence: of the weights: an identifier of the Hub's, or other words.
        plots: names of pictures in the repository.
        unchanged: the weights are those of the index entry that the config names, so what is published of that is true
            of them.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    config = public_config(config)
    made: dict[str, Any] = config["provenance"]
    entry = entry_of(made)
    about, licence_text = _licence(licence, entry, unchanged)
    measured = {key: results[key] for key in METRICS if results and results.get(key) is not None}
    evaluated = None
    if results and measured:
        told = {key: results[key] for key in ("views", "frames", "size", "videos", "left_out") if key in results}
        name = _yaml_text(results["dataset"])
        evaluated = [
            EvalResult(TASK, "videos", name, "accuracy", value, dataset_args=told, metric_name=METRICS[key])
            for key, value in measured.items()
        ]
        about |= {"metrics": ["accuracy"], "model_name": repo}
    base = str(made.get("fine_tuned_from", "")).removeprefix(HUB_PREFIX).partition("@")[0]
    if base and str(made["fine_tuned_from"]).startswith(HUB_PREFIX):
        about["base_model"] = base
    tags = [LIBRARY, "action-recognition", config["arch"], operator_of(config["arch"])]
    tags += [entry.dataset] if entry is not None and unchanged else []
    data = ModelCardData(
        library_name=LIBRARY, pipeline_tag=TASK, tags=[t for t in tags if t], eval_results=evaluated, **about
    )
    parts = [
        f"# {escape(repo.split('/')[-1])}",
        *_what(config),
        *_use(config, repo),
        *_classes(config),
        *_results(config, results, measured, plots),
        *_origin(made, entry, unchanged),
        *_training(made),
        f"## Licence\n\n{licence_text}",
        f"Written by {escape(made.get('package', LIBRARY))}.",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def entry_of(made: Mapping[str, Any]) -> Entry | None:
    """The index entry that a provenance goes back to; None where it names one of which no weights were taken."""
    index = load_index().entries
    if str(made.get("entry")) in index and "sha256" in made:
        return index[made["entry"]]
    start = index.get(str(made.get("fine_tuned_from")))
    if start is not None and ("sha256" in made or start.sources[0].kind == "bundled"):
        return start
    return None


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without anything that is of its author's machine only: no paths, whoever wrote them there."""
    made = {key: value for key, value in (config.get("provenance") or {}).items() if key in TOLD}
    public = {key: _without_paths(value) for key, value in made.items()}
    if "file" in made:
        public["file"] = re.split(r"[\\/]", str(made["file"]))[-1]
    if "fine_tuned_from" in made:
        name = str(made["fine_tuned_from"])
        known = name in load_index().entries or name in ARCHITECTURES
        public["fine_tuned_from"] = (
            name if known or re.fullmatch(rf"{HUB_PREFIX}[\w.-]+/[\w.-]+(@[^@]+)?", name) else LOCAL
        )
    return {key: config[key] for key in ("tempozoo", "arch", "options", "labels", "protocol")} | {"provenance": public}


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(inner) for inner in value]
    if isinstance(value, str) and re.search(r"[\\/]|^~", value):
        return "a local file"
    return value


def operator_of(arch: str) -> str | None:
    """The temporal operator of an architecture, where its name tells."""
    family = arch.rpartition("_")[0]
    if family in RESNETS:
        return None if RESNETS[family] == "none" else RESNETS[family]
    found = re.search("tada|tanet|tam", arch)
    return {"tada": "tadaconv", "tanet": "tam", "tam": "tam"}[found[0]] if found else None


def escape(text: Any) -> str:
    """Any text as one line of Markdown that shows it as it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return re.sub(r"([\\`*_{}\[\]<>()#|~$&!])", r"\\\1", line) or "(no name)"


def _yaml_text(text: Any) -> str:
    """A name for the metadata: YAML 1.2, which the Hub reads, has numbers that the client writes as plain words."""
    line = " ".join(str(text).split())
    return line if re.search(r"[^\W\d_]{2}", line) else f"data set {line}".strip()


def _table(rows: Mapping[str, Any], head: tuple[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {escape(key)} | {escape(value)} |" for key, value in rows.items()])


def _percent(value: float) -> str:
    return f"{value:.2f} %"


# parts of the text ---------------------------------------------------------------------------------------------------


def _what(config: Mapping[str, Any]) -> list[str]:
    arch, classes = config["arch"], config["options"]["num_classes"]
    protocol = Protocol.from_dict(config["protocol"])
    operator = operator_of(arch)
    how = f" with the temporal operator `{operator}`" if operator else ""
    parts = [
        f"`{arch}`{how}: names what happens in a video, {classes} classes, from {protocol.num_frames} frames of "
        f"{protocol.crop} x {protocol.crop} pixels."
    ]
    parts += [STAM] if arch.startswith("stam") else []
    parts += [TADACONVNEXT] if arch.startswith("tadaconvnext_") else []
    parts += [OPERATOR_UNTRAINED] if config["provenance"].get(UNTRAINED) else []
    return parts


def _use(config: Mapping[str, Any], repo: str) -> list[str]:
    protocol, classes = Protocol.from_dict(config["protocol"]), config["options"]["num_classes"]
    shape = f"(B, {len(protocol.mean)}, {protocol.num_frames}, {protocol.crop}, {protocol.crop})"
    code = (
        "```python\nfrom zoo import load  # the package tempozoo\n\n"
        f'model = load("{HUB_PREFIX}{repo}")\n'
        f"logits = model(clips)  # {shape} normalised floats -> (B, {classes})\n"
        "model.labels, model.protocol  # class names; frames, sizes, views\n```\n\n"
        f"`tempozoo predict --from {HUB_PREFIX}{repo} clip.mp4` names the action in a file."
    )
    rows = {
        "frames": f"{protocol.num_frames}, sampling {protocol.sampling}"
        + (f", interval {protocol.interval}" if protocol.interval else ""),
        "size": f"short side {protocol.resize}, crop {protocol.crop}",
        "mean, std": f"{list(protocol.mean)}, {list(protocol.std)} of RGB in 0 to 1",
        "test views": f"{protocol.clips} clips x {protocol.crops} crops, "
        + ("softmax" if protocol.average == "prob" else "raw")
        + " scores averaged",
    }
    return [f"## Use\n\n{code}", _table(rows, ("clips", ""))]


def _classes(config: Mapping[str, Any]) -> list[str]:
    labels, classes = config["labels"], config["options"]["num_classes"]
    if labels is None:
        return [f"## Classes\n\n{classes}, whose names are not in the file."]
    shown = labels if len(labels) <= CLASSES_LISTED else labels[:10]
    lines = [f"- `{number}` {escape(label)}" for number, label in enumerate(shown)]
    rest = [f"- and {len(labels) - len(shown)} more, in `config.json`"] if len(shown) < len(labels) else []
    return [f"## Classes\n\n{classes}, by the number of their logit:\n\n" + "\n".join(lines + rest)]


def _results(
    config: Mapping[str, Any], results: Mapping[str, Any] | None, measured: Mapping[str, float], plots: Sequence[str]
) -> list[str]:
    if not results or not measured:
        return []
    rows = {METRICS[key]: _percent(value) for key, value in measured.items()}
    rows["chance"] = _percent(100 / config["options"]["num_classes"])
    names = {"dataset": "data", "views": "views (clips x crops)", "frames": "frames", "size": "crop, pixels"}
    names |= {"videos": "videos", "left_out": "videos left out, unreadable"}
    rows |= {title: results[key] for key, title in names.items() if key in results}
    by = "tempozoo test, with these weights" if results.get("tested") else "as stated by whoever pushed them"
    pictures = [f"![{escape(name)}]({name})" for name in plots]
    return ["## Results\n\n" + _table(rows, (by, "")), *pictures]


def _origin(made: Mapping[str, Any], entry: Entry | None, unchanged: bool) -> list[str]:
    if entry is None:
        start = made.get("fine_tuned_from")
        return [f"## Origin\n\nStarted from {_named(start)}."] if start else []
    paper = f"{escape(entry.paper.title)}. {escape(entry.paper.venue)}. <{entry.paper.url}>"
    source = entry.sources[0]
    file = f"its file `{made['file']}`" if "file" in made else "its file"
    address = f"<{source.url}>" if source.url.startswith("http") else f"`{source.url}`"
    address += f" (`{source.file}`)" if source.file else ""
    whence = "bundled with tempozoo" if source.kind == "bundled" else f"published at {address}"
    digest = f" (sha256 `{made['sha256']}`)" if "sha256" in made else ""
    facts = [f"- {file}{digest}, {whence}", f"- trained on {escape(entry.dataset)}", f"- to be cited: {paper}"]
    reported = entry.reported
    if unchanged:
        text = f"The weights of `{entry.name}` of tempozoo's index, unchanged but for their format:"
        facts += [f"- note: {escape(entry.notes)}"] if entry.notes else []
        if reported.top1 is not None:
            top5 = f", top-5 {reported.top5} %" if reported.top5 is not None else ""
            where = f"{reported.views} views at {reported.size} pixels" if reported.views else "views not told"
            facts.append(
                f"- as published: top-1 {reported.top1} %{top5}, {where} ({escape(reported.source or 'paper')})"
            )
    else:
        start = made.get("fine_tuned_from")
        text = (
            f"Started from {_named(start)}, which goes back to " if start not in (None, entry.name) else "Started from "
        )
        text += f"`{entry.name}` of tempozoo's index, and changed since. No published accuracy is claimed:"
    return [f"## Origin\n\n{text}\n\n" + "\n".join(facts)]


def _named(start: Any) -> str:
    if start == LOCAL:
        return LOCAL
    return f"random weights (`{start}`)" if start in ARCHITECTURES else f"`{start}`"


def _training(made: Mapping[str, Any]) -> list[str]:
    rows = {"epochs": made["epochs"]} if "epochs" in made else {}
    rows |= dict(made.get("recipe") or {})
    data = made.get("data") or {}
    if data.get("class"):
        rows["data"] = data["class"]
    rows |= {f"{split} videos": count for split, count in (data.get("videos") or {}).items()}
    rows |= {f"{key}, while training": value for key, value in (made.get("metrics") or {}).items()}
    if not rows:
        return []
    plain = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in rows.items()}
    return ["## Training\n\n" + _table(plain, ("setting", ""))]


def _licence(licence: str | None, entry: Entry | None, unchanged: bool) -> tuple[dict[str, Any], str]:
    """Metadata, and a sentence for the text."""
    about: dict[str, Any] = {}
    stated = licence or (entry.licence.weights if entry is not None and unchanged else None)
    known = (stated or "").strip().lower()
    if known in LICENCES.split():
        about["license"], text = known, f"Of the weights: {escape(stated)}."
    elif licence is not None:
        name = re.sub(r"[^a-z0-9.]+", "-", known).strip("-.")[:60]
        about |= {
            "license": "other",
            "license_name": name if re.search("[a-z]{2}", name) else f"custom-{name}".strip("-"),
        }
        text = f"Of the weights: {escape(licence)}"
    elif stated is not None:
        text = f"Of the weights, what their publisher says: {escape(stated)}."
    else:
        text = "Of these weights, none is stated."
    if entry is not None and not unchanged:
        text += f" Of those they started from: {escape(entry.licence.weights)}."
    return about, text
