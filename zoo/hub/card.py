"""The model card of a network on the Hub, generated from facts in its config, the index and test results only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.adapt import name_parts
from zoo.hub.client import LIBRARY
from zoo.index import Entry
from zoo.models import ARCHITECTURES, build_on_meta
from zoo.models.registry import RESNETS
from zoo.protocol import Protocol
from zoo.provenance import COPY_OF, INITIALIZED, LOCAL, START, entry_of, hub_repository, is_published, public_config
from zoo.spec import UNTRAINED
from zoo.text import printable
from zoo.weights.locations import HUB_PREFIX

CLASSES_LISTED = 60
MAX_TEXT = 1000  # maximum length of a text from the config
TASK = "video-classification"
METRICS = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class accuracy"}
# license identifiers of the Hub; it lists other licenses as "other", with a name
LICENSES = """
apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear isc zlib unlicense wtfpl ms-pl mpl-2.0 eupl-1.1 eupl-1.2
gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 agpl-3.0 openrail openrail++ creativeml-openrail-m bigscience-openrail-m
cc cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nd-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
odbl odc-by pddl cdla-permissive-2.0 c-uda unknown other
"""
STAM = (
    "**STAM is implemented from an abstract** (doi 10.1007/s00371-023-03165-6): code and weights are not public. "
    "No published accuracy is claimed."
)
TADACONVNEXT = "TAdaConvNeXt (version 1) has no published weights. These weights are not from its authors."
OPERATOR_UNTRAINED = (
    "**A start for fine-tuning, not a trained video network:** the file has no weights of the temporal operator, which "
    "is initialized at every load."
)
START_ONLY = (
    "**A start for fine-tuning, not a trained video network:** its weights were trained in another network, such as an "
    "image network."
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
    """Return the README.md of a network's repository: metadata for the Hub, and text.

    Args:
        config: config of the network, as in its config.json.
        repo: target repository, "user/repo".
        revision: target branch. None: main.
        results: results of a test, as returned by ``zoo.hub.push.read_results``.
        license: license of the weights: an identifier of the Hub, or other text.
        plots: names of image files in the repository.
        unchanged: the weights equal those of the index entry in the config, so its published facts apply to them.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    config = public_config(config)
    provenance: dict[str, Any] = config["provenance"]
    entry = entry_of(provenance)
    metadata, license_text = _license(license, provenance, entry, unchanged)
    metric_names = _metric_names(config)
    measured = {key: results[key] for key in metric_names if results and results.get(key) is not None}
    eval_results = None
    if results and measured:
        settings = {key: results[key] for key in ("views", "frames", "size", "videos", "left_out") if key in results}
        name = _yaml_text(results["dataset"])
        eval_results = [
            EvalResult(TASK, "videos", name, "accuracy", value, dataset_args=settings, metric_name=METRICS[key])
            for key, value in measured.items()
        ]
        metadata |= {"metrics": ["accuracy"], "model_name": repo}
    base = hub_repository(provenance.get(COPY_OF, provenance.get("fine_tuned_from")))
    if base is not None and base != repo:
        metadata["base_model"] = base
    tags = [LIBRARY, "action-recognition", config["arch"], operator_of(config["arch"])]
    tags += [entry.dataset] if entry is not None and unchanged else []
    data = ModelCardData(
        library_name=LIBRARY, pipeline_tag=TASK, tags=[t for t in tags if t], eval_results=eval_results, **metadata
    )
    parts = [
        f"# {escape(repo.split('/')[-1])}",
        *_summary(config),
        *_usage(config, repo, revision),
        *_classes(config),
        *_results(config, results, measured, plots),
        *_origin(provenance, entry, unchanged),
        *_training(provenance, metric_names),
        f"## License\n\n{license_text}",
        f"Written by {escape(provenance.get('package', LIBRARY))}.",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def operator_of(arch: str) -> str | None:
    """Return the temporal operator of an architecture, as far as its name determines it."""
    family = arch.rpartition("_")[0]
    if family in RESNETS:
        return None if RESNETS[family] == "none" else RESNETS[family]
    operators = {
        "tadaconvnextv2": "tadaconv_v2",
        "tadaformer": "tadaconv_v2",
        "tada": "tadaconv",
        "tanet": "tam",
        "tam": "tam",
    }
    return next((operator for part, operator in operators.items() if part in arch), None)


def _metric_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the meaningful metrics and their names: with at most five classes, top-5 accuracy is always 100 %."""
    omit_top5 = config["options"]["num_classes"] <= 5
    return {key: name for key, name in METRICS.items() if not (omit_top5 and key == "top5")}


def escape(text: Any) -> str:
    """Escape text as one line of Markdown, cut to ``MAX_TEXT`` characters.

    Markdown and HTML in it have no effect, and URLs do not become links.
    """
    line = printable(" ".join(str(text)[: MAX_TEXT + 1].split()))
    line = line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}..."
    line = re.sub(r"([\\`*_{}\[\]<>()#|~$&!@])", r"\\\1", line)
    return re.sub(r"(?<=:)(?=//)|(?<=www)(?=\.)", r"\\", line, flags=re.IGNORECASE) or "(no name)"


def _yaml_text(text: Any) -> str:
    """Return a name that YAML 1.2, the dialect of the Hub, parses as text; the client leaves some numbers unquoted."""
    line = printable(" ".join(str(text).split()))
    return line if re.search(r"[^\W\d_]{2}", line) else f"dataset {line}".strip()


def _table(rows: Mapping[str, Any], head: tuple[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {escape(key)} | {escape(value)} |" for key, value in rows.items()])


def _percent(value: float) -> str:
    return f"{value:.2f} %"


# parts of the text ---------------------------------------------------------------------------------------------------


def _summary(config: Mapping[str, Any]) -> list[str]:
    arch, classes = config["arch"], config["options"]["num_classes"]
    protocol = Protocol.from_dict(config["protocol"])
    operator = operator_of(arch)
    suffix = f" with the temporal operator `{operator}`" if operator else ""
    task = f"classifies videos into {classes} classes" if classes else "computes features of videos (no classifier)"
    parts = [
        f"`{arch}`{suffix}: {task}, from {protocol.num_frames} frames of {protocol.crop} x {protocol.crop} pixels."
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


def _usage(config: Mapping[str, Any], repo: str, revision: str | None) -> list[str]:
    name = HUB_PREFIX + repo
    if revision not in (None, "main") and not revision.startswith("refs/"):  # a pull request will be merged into main
        name = f"{name}@{revision}"
    protocol, classes = Protocol.from_dict(config["protocol"]), config["options"]["num_classes"]
    shape = f"(B, {len(protocol.mean)}, {protocol.num_frames}, {protocol.crop}, {protocol.crop})"
    output = f"logits = model(clips)  # {shape} normalized floats -> (B, {classes})"
    if not classes:
        output = f"features = model(clips)  # {shape} normalized floats -> (B, model.num_features)"
    code = (
        "Requires the Python package `tempozoo`.\n\n```python\nfrom zoo import load\n\n"
        f'model = load("{name}")\n'
        f"{output}\n"
        "model.labels, model.protocol  # class names; frames, sizes, views\n```"
    )
    if classes and not config["provenance"].keys() & {UNTRAINED, INITIALIZED, START}:
        code += f"\n\n`tempozoo predict --from {name} clip.mp4` classifies a video file."
    rows = {
        "frames": f"{protocol.num_frames}, sampling {protocol.sampling}"
        + (f", interval {protocol.interval}" if protocol.interval else ""),
        "size": f"short side {protocol.resize}, crop {protocol.crop}",
        "mean, std": f"{list(protocol.mean)}, {list(protocol.std)} of RGB in 0 to 1",
        "test views": f"{protocol.view_counts}, {protocol.score_kind} scores averaged",
    }
    return [f"## Use\n\n{code}", _table(rows, ("clips", ""))]


def _classes(config: Mapping[str, Any]) -> list[str]:
    labels, classes = config["labels"], config["options"]["num_classes"]
    if not classes:
        return []
    if labels is None:
        return [f"## Classes\n\n{classes}; their names are not in the file."]
    listed = labels if len(labels) <= CLASSES_LISTED else labels[:10]
    lines = [f"- `{number}` {escape(label)}" for number, label in enumerate(listed)]
    rest = [f"- and {len(labels) - len(listed)} more, in `config.json`"] if len(listed) < len(labels) else []
    heads = ", ".join(f"{count} of {escape(name)}" for name, count in config["protocol"].get("heads", ()))
    count = f"{classes} ({heads}: parallel classifiers)" if heads else str(classes)
    return [f"## Classes\n\n{count}, by the index of their logit:\n\n" + "\n".join(lines + rest)]


def _results(
    config: Mapping[str, Any], results: Mapping[str, Any] | None, measured: Mapping[str, float], plots: Sequence[str]
) -> list[str]:
    if not results or not measured:
        return []
    rows = {METRICS[key]: _percent(value) for key, value in measured.items()}
    if config["protocol"].get("heads"):  # an action is correct if all of its labels are
        rows = {f"{title}, of actions": value for title, value in rows.items()}
    elif classes := config["options"]["num_classes"]:
        rows["chance"] = _percent(100 / classes)
    names = {"dataset": "data", "views": "views (clips x crops)", "frames": "frames", "size": "crop, pixels"}
    names |= {"videos": "videos", "left_out": "videos not scored"}
    rows |= {title: results[key] for key, title in names.items() if key in results}
    origin = "tempozoo test, with these weights" if results.get("tested") else "as stated by the uploader"
    images = [f"![{escape(name)}]({name})" for name in plots]
    return ["## Results\n\n" + _table(rows, (origin, "")), *images]


def _origin(provenance: Mapping[str, Any], entry: Entry | None, unchanged: bool) -> list[str]:
    start, copied = provenance.get("fine_tuned_from"), provenance.get(COPY_OF)
    text = f"The weights of `{copied}`, unchanged. " if copied else ""
    if entry is None:
        text += f"Started from {_start_name(start)}." if start else ""
        return [f"## Origin\n\n{text.strip()}"] if text else []
    paper = f"{escape(entry.paper.title)}. {escape(entry.paper.venue)}. <{entry.paper.url}>"
    published = is_published(entry, provenance)
    digest = f" (SHA-256 `{provenance['sha256']}`)" if "sha256" in provenance else ""
    if published or unchanged:
        base = f"`{entry.name}` of tempozoo's index"
        facts = [f"- file{digest if published else ''}, {_address(entry, provenance)}"]
        facts += [f"- trained on {escape(entry.dataset)}", f"- paper: {paper}"]
    else:
        base = f"a local file in the format of `{entry.name}` of tempozoo's index, not verified to be that file"
        facts = [f"- file{digest}", f"- paper of the architecture: {paper}"]
    if unchanged:
        text += f"The weights of {base}, unchanged except for their format:"
        facts += [f"- note: {escape(entry.notes)}"] if entry.notes else []
        facts += [_reported(entry)] if entry.reported.top1 is not None else []
    else:
        steps = [base] if start in (None, entry.name) else [_start_name(start), base]
        text += f"Started from {', which started from '.join(steps)}. No published accuracy is claimed:"
    return [f"## Origin\n\n{text}\n\n" + "\n".join(facts)]


def _address(entry: Entry, provenance: Mapping[str, Any]) -> str:
    source = next((source for source in entry.sources if source.url == provenance.get("source")), entry.sources[0])
    if source.kind == "bundled":
        return "bundled with tempozoo"
    address = f"<{source.url}>" if source.url.startswith("http") else f"`{source.url}`"
    return f"published at {address}" + (f" (`{source.file}`)" if source.file else "")


def _reported(entry: Entry) -> str:
    reported = entry.reported
    top5 = f", top-5 {reported.top5} %" if reported.top5 is not None else ""
    views = f"{reported.views} views at {reported.size} pixels" if reported.views else "views not stated"
    return f"- as published: top-1 {reported.top1} %{top5}, {views} ({escape(reported.source or 'paper')})"


def _start_name(start: Any) -> str:
    if start == LOCAL:
        return LOCAL
    return f"random weights (`{start}`)" if start in ARCHITECTURES else f"`{start}`"


def _training(provenance: Mapping[str, Any], metric_names: Mapping[str, str]) -> list[str]:
    data = provenance.get("data", {})
    rows = {"epochs": provenance["epochs"]} if "epochs" in provenance else {}
    rows |= provenance.get("recipe", {})
    rows |= {"data": data["class"]} if "class" in data else {}
    rows |= {f"{split} videos": count for split, count in data.get("videos", {}).items()}
    for key, value in provenance.get("metrics", {}).items():
        name = key.removeprefix("val_")
        if name in metric_names and 0 <= value <= 1:
            rows[f"{metric_names[name]} on validation videos, during training"] = _percent(100 * value)
        elif name not in METRICS:
            rows[f"{key}, during training"] = value
    if not rows:
        return []
    plain = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in rows.items()}
    return ["## Training\n\n" + _table(plain, ("setting", ""))]


def _license(
    license: str | None, provenance: Mapping[str, Any], entry: Entry | None, unchanged: bool
) -> tuple[dict[str, Any], str]:
    """Return the license metadata and a sentence about the license."""
    metadata: dict[str, Any] = {}
    license = (license or "").strip() or None
    stated = license or (entry.license.weights if entry is not None and unchanged else None)
    identifier = (stated or "").lower()
    if identifier in LICENSES.split():
        metadata["license"], text = identifier, f"License of the weights: {escape(stated)}."
    elif license is not None:
        name = re.sub(r"[^a-z0-9.]+", "-", identifier).strip("-.")[:60]
        metadata |= {
            "license": "other",
            "license_name": name if re.search("[a-z]{2}", name) else f"custom-{name}".strip("-"),
        }
        text = f"License of the weights: {escape(license)}"
    elif stated is not None:
        text = f"License of the weights, as stated by their publisher: {escape(stated)}."
    else:
        text = "License not specified."
    if entry is not None and not unchanged and is_published(entry, provenance):
        text += f" License of the weights that training started from: {escape(entry.license.weights)}."
    return metadata, text
