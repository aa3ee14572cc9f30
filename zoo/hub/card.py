"""The model card of a network on the Hub: what its config and the index know, and nothing that they do not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.adapt import name_parts
from zoo.hub.client import LIBRARY
from zoo.hub.pull import HUB_PREFIX
from zoo.index import Entry
from zoo.models import ARCHITECTURES, RESNETS, build_on_meta
from zoo.protocol import Protocol
from zoo.provenance import COPY_OF, INITIALIZED, LOCAL, START, entry_of, hub_repository, is_published, public_config
from zoo.spec import UNTRAINED
from zoo.text import printable

CLASSES_LISTED = 60
LONGEST = 1000  # characters of a text from the config
TASK = "video-classification"
METRICS = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class accuracy"}
# what weights are published under, as the Hub calls it; anything else is "other" there, with a name
LICENSES = """
apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear isc zlib unlicense wtfpl ms-pl mpl-2.0 eupl-1.1 eupl-1.2
gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 agpl-3.0 openrail openrail++ creativeml-openrail-m bigscience-openrail-m
cc cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nd-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
odbl odc-by pddl cdla-permissive-2.0 c-uda unknown other
"""
STAM = (
    "**STAM is this package's reading of an abstract** (doi 10.1007/s00371-023-03165-6): nothing else of it is open. "
    "No published accuracy is claimed."
)
TADACONVNEXT = "Version 1 of TAdaConvNeXt has no published weights: these are not its authors'."
OPERATOR_UNTRAINED = (
    "**A start for fine-tuning, not a trained video network:** its temporal operator is not in the file, and is "
    "initialized anew whenever it is loaded."
)
START_ONLY = (
    "**A start for fine-tuning, not a trained video network:** its weights were trained for another network, such as "
    "an image network."
)


def model_card(
    config: Mapping[str, Any],
    repo: str,
    *,
    revision: str | None = None,
    results: Mapping[str, Any] | None = None,
    license: str | None = None,
    plots: Sequence[str] = (),
    unchanged: bool = False,
) -> str:
    """The README.md of a network's repository: metadata for the Hub, and text.

    Args:
        config: of the network, as in its config.json.
        repo: "user/repo", where it will be.
        revision: branch of it; None is main.
        results: of a test, as ``zoo.push.read_results`` returns them.
        license: of the weights: an identifier of the Hub's, or other words.
        plots: names of pictures in the repository.
        unchanged: the weights are those of the index entry that the config names, so what is published of that is true
            of them.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    config = public_config(config)
    made: dict[str, Any] = config["provenance"]
    entry = entry_of(made)
    about, license_text = _license(license, made, entry, unchanged)
    counted = _metrics(config)
    measured = {key: results[key] for key in counted if results and results.get(key) is not None}
    evaluated = None
    if results and measured:
        told = {key: results[key] for key in ("views", "frames", "size", "videos", "left_out") if key in results}
        name = _yaml_text(results["dataset"])
        evaluated = [
            EvalResult(TASK, "videos", name, "accuracy", value, dataset_args=told, metric_name=METRICS[key])
            for key, value in measured.items()
        ]
        about |= {"metrics": ["accuracy"], "model_name": repo}
    base = hub_repository(made.get(COPY_OF, made.get("fine_tuned_from")))
    if base is not None and base != repo:
        about["base_model"] = base
    tags = [LIBRARY, "action-recognition", config["arch"], operator_of(config["arch"])]
    tags += [entry.dataset] if entry is not None and unchanged else []
    data = ModelCardData(
        library_name=LIBRARY, pipeline_tag=TASK, tags=[t for t in tags if t], eval_results=evaluated, **about
    )
    parts = [
        f"# {escape(repo.split('/')[-1])}",
        *_what(config),
        *_use(config, repo, revision),
        *_classes(config),
        *_results(config, results, measured, plots),
        *_origin(made, entry, unchanged),
        *_training(made, counted),
        f"## License\n\n{license_text}",
        f"Written by {escape(made.get('package', LIBRARY))}.",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def operator_of(arch: str) -> str | None:
    """The temporal operator of an architecture, where its name tells."""
    family = arch.rpartition("_")[0]
    if family in RESNETS:
        return None if RESNETS[family] == "none" else RESNETS[family]
    known = {
        "tadaconvnextv2": "tadaconv_v2",
        "tadaformer": "tadaconv_v2",
        "tada": "tadaconv",
        "tanet": "tam",
        "tam": "tam",
    }
    return next((operator for part, operator in known.items() if part in arch), None)


def _metrics(config: Mapping[str, Any]) -> dict[str, str]:
    """The metrics that say something of a network: of up to five classes, all are among the best five."""
    few = config["options"]["num_classes"] <= 5
    return {key: name for key, name in METRICS.items() if not (few and key == "top5")}


def escape(text: Any) -> str:
    """Any text as one line of Markdown that shows it as it is, cut to ``LONGEST`` characters.

    Neither Markdown nor HTML in it has an effect, and addresses do not become links.
    """
    line = printable(" ".join(str(text)[: LONGEST + 1].split()))
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    line = re.sub(r"([\\`*_{}\[\]<>()#|~$&!@])", r"\\\1", line)
    return re.sub(r"(?<=:)(?=//)|(?<=www)(?=\.)", r"\\", line, flags=re.IGNORECASE) or "(no name)"


def _yaml_text(text: Any) -> str:
    """A name for the metadata: YAML 1.2, which the Hub reads, has numbers that the client writes as plain words."""
    line = printable(" ".join(str(text).split()))
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
    untrained = config["provenance"].get(INITIALIZED)
    if config["provenance"].get(START):
        parts.append(START_ONLY)
    elif untrained:
        parts.append("**Not a trained network.**")
    if untrained:
        names = name_parts(build_on_meta(arch, **config["options"]), untrained)
        parts.append(f"Untrained: {escape(', '.join(names))}.")
    return parts


def _use(config: Mapping[str, Any], repo: str, revision: str | None) -> list[str]:
    # the branch of a pull request is no more once that is merged
    name = (
        HUB_PREFIX + repo
        if revision in (None, "main") or revision.startswith("refs/")
        else f"{HUB_PREFIX}{repo}@{revision}"
    )
    protocol, classes = Protocol.from_dict(config["protocol"]), config["options"]["num_classes"]
    shape = f"(B, {len(protocol.mean)}, {protocol.num_frames}, {protocol.crop}, {protocol.crop})"
    code = (
        "Needs the Python package `tempozoo`.\n\n```python\nfrom zoo import load\n\n"
        f'model = load("{name}")\n'
        f"logits = model(clips)  # {shape} normalized floats -> (B, {classes})\n"
        "model.labels, model.protocol  # class names; frames, sizes, views\n```"
    )
    if not config["provenance"].keys() & {UNTRAINED, INITIALIZED, START}:
        code += f"\n\n`tempozoo predict --from {name} clip.mp4` names the action in a file."
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
    heads = ", ".join(f"{count} of {escape(name)}" for name, count in config["protocol"].get("heads", ()))
    what = f"{classes} ({heads}: classifiers side by side)" if heads else str(classes)
    return [f"## Classes\n\n{what}, by the number of their logit:\n\n" + "\n".join(lines + rest)]


def _results(
    config: Mapping[str, Any], results: Mapping[str, Any] | None, measured: Mapping[str, float], plots: Sequence[str]
) -> list[str]:
    if not results or not measured:
        return []
    rows = {METRICS[key]: _percent(value) for key, value in measured.items()}
    if config["protocol"].get("heads"):  # an action is right when every one of its labels is
        rows = {f"{title}, of actions": value for title, value in rows.items()}
    else:
        rows["chance"] = _percent(100 / config["options"]["num_classes"])
    names = {"dataset": "data", "views": "views (clips x crops)", "frames": "frames", "size": "crop, pixels"}
    names |= {"videos": "videos", "left_out": "videos not scored"}
    rows |= {title: results[key] for key, title in names.items() if key in results}
    by = "tempozoo test, with these weights" if results.get("tested") else "as stated by whoever pushed them"
    pictures = [f"![{escape(name)}]({name})" for name in plots]
    return ["## Results\n\n" + _table(rows, (by, "")), *pictures]


def _origin(made: Mapping[str, Any], entry: Entry | None, unchanged: bool) -> list[str]:
    start, copied = made.get("fine_tuned_from"), made.get(COPY_OF)
    text = f"The weights of `{copied}`, unchanged. " if copied else ""
    if entry is None:
        text += f"Started from {_named(start)}." if start else ""
        return [f"## Origin\n\n{text.strip()}"] if text else []
    paper = f"{escape(entry.paper.title)}. {escape(entry.paper.venue)}. <{entry.paper.url}>"
    published = is_published(entry, made)
    digest = f" (sha256 `{made['sha256']}`)" if "sha256" in made else ""
    if published or unchanged:
        what = f"`{entry.name}` of tempozoo's index"
        facts = [f"- its file{digest if published else ''}, {_address(entry, made)}"]
        facts += [f"- trained on {escape(entry.dataset)}", f"- to be cited: {paper}"]
    else:
        what = f"a local file in the format of `{entry.name}` of tempozoo's index, which is not known to be that one"
        facts = [f"- the file{digest}", f"- of the architecture, to be cited: {paper}"]
    if unchanged:
        text += f"The weights of {what}, unchanged but for their format:"
        facts += [f"- note: {escape(entry.notes)}"] if entry.notes else []
        facts += [_reported(entry)] if entry.reported.top1 is not None else []
    else:
        text += (
            f"Started from {_named(start)}, which goes back to " if start not in (None, entry.name) else "Started from "
        )
        text += f"{what}. No published accuracy is claimed:"
    return [f"## Origin\n\n{text}\n\n" + "\n".join(facts)]


def _address(entry: Entry, made: Mapping[str, Any]) -> str:
    source = next((source for source in entry.sources if source.url == made.get("source")), entry.sources[0])
    if source.kind == "bundled":
        return "bundled with tempozoo"
    address = f"<{source.url}>" if source.url.startswith("http") else f"`{source.url}`"
    return f"published at {address}" + (f" (`{source.file}`)" if source.file else "")


def _reported(entry: Entry) -> str:
    reported = entry.reported
    top5 = f", top-5 {reported.top5} %" if reported.top5 is not None else ""
    where = f"{reported.views} views at {reported.size} pixels" if reported.views else "views not told"
    return f"- as published: top-1 {reported.top1} %{top5}, {where} ({escape(reported.source or 'paper')})"


def _named(start: Any) -> str:
    if start == LOCAL:
        return LOCAL
    return f"random weights (`{start}`)" if start in ARCHITECTURES else f"`{start}`"


def _training(made: Mapping[str, Any], counted: Mapping[str, str]) -> list[str]:
    data = made.get("data", {})
    rows = {"epochs": made["epochs"]} if "epochs" in made else {}
    rows |= made.get("recipe", {})
    rows |= {"data": data["class"]} if "class" in data else {}
    rows |= {f"{split} videos": count for split, count in data.get("videos", {}).items()}
    for key, value in made.get("metrics", {}).items():
        name = key.removeprefix("val_")
        if name in counted and 0 <= value <= 1:
            rows[f"{counted[name]} on validation videos, while training"] = _percent(100 * value)
        elif name not in METRICS:
            rows[f"{key}, while training"] = value
    if not rows:
        return []
    plain = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in rows.items()}
    return ["## Training\n\n" + _table(plain, ("setting", ""))]


def _license(
    license: str | None, made: Mapping[str, Any], entry: Entry | None, unchanged: bool
) -> tuple[dict[str, Any], str]:
    """Metadata, and a sentence for the text."""
    about: dict[str, Any] = {}
    license = (license or "").strip() or None
    stated = license or (entry.license.weights if entry is not None and unchanged else None)
    known = (stated or "").lower()
    if known in LICENSES.split():
        about["license"], text = known, f"Of the weights: {escape(stated)}."
    elif license is not None:
        name = re.sub(r"[^a-z0-9.]+", "-", known).strip("-.")[:60]
        about |= {
            "license": "other",
            "license_name": name if re.search("[a-z]{2}", name) else f"custom-{name}".strip("-"),
        }
        text = f"Of the weights: {escape(license)}"
    elif stated is not None:
        text = f"Of the weights, what their publisher says: {escape(stated)}."
    else:
        text = "Of these weights, none is stated."
    if entry is not None and not unchanged and is_published(entry, made):
        text += f" Of those they started from: {escape(entry.license.weights)}."
    return about, text
