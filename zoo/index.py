"""Parse and validate checkpoints_index.yaml into frozen dataclasses. Unknown keys are errors."""

from __future__ import annotations

import fnmatch
import functools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from zoo.arguments import check_flag, check_text
from zoo.errors import ConfigError, UnknownNameError, WeightsNotFoundError, ZooError
from zoo.protocol import Protocol
from zoo.spec import ModelSpec, check_description, rename_options
from zoo.text import brief, is_printable, printable

_HERE = Path(__file__).parent
BUNDLED = _HERE / "bundled"
# kind of source -> regular expression of its URLs
SOURCE_KINDS = {
    "gdrive_file": r"https://drive\.google\.com/file/d/[\w-]{25,}/view",
    "gdrive_folder": r"https://drive\.google\.com/drive/folders/[\w-]{25,}",
    "https": r"https://[\w.-]+/[\w./%+~-]*\.[A-Za-z]+",
    "hf": r"hf-hub:[\w.-]+/[\w.-]+(@[\w.-]+)?",
    "bundled": r"zoo/bundled/[\w.]+",
}
KINDS_WITH_FILE = ("gdrive_folder", "hf")  # kinds whose URL has several files


def index_path() -> Path:
    """Return the path of the index: TEMPOZOO_INDEX, or the file of the package."""
    path = os.environ.get("TEMPOZOO_INDEX")
    return Path(path) if path else packaged_index()


def packaged_index() -> Path:
    """Return the path of the package's own index: in the installed package, or in the repository root."""
    packaged = _HERE / "checkpoints_index.yaml"
    return packaged if packaged.is_file() else _HERE.parent / "checkpoints_index.yaml"


@dataclass(frozen=True)
class Paper:
    """Paper of an architecture."""

    title: str
    venue: str
    url: str


@dataclass(frozen=True)
class Source:
    """Download source of a published file; ``file`` is its name in a folder or repository."""

    kind: str
    url: str
    file: str | None = None


@dataclass(frozen=True)
class Reported:
    """Published accuracy in percent, and its views (clips x crops) and crop size."""

    top1: float | None = None
    top5: float | None = None
    views: str | None = None
    size: int | None = None
    source: str | None = None


@dataclass(frozen=True)
class License:
    """Licenses of the weights and of the publisher's code, which may differ."""

    weights: str
    code: str


@dataclass(frozen=True)
class Gmacs:
    """Multiply-accumulates in 1e9 for one view; ``input`` is frames x height x width."""

    input: str
    value: float


@dataclass(frozen=True)
class Stated:
    """Size as published: parameters in 1e6, multiply-accumulates in 1e9 for ``input``."""

    params_m: float | None
    gmacs: float | None
    input: str


@dataclass(frozen=True)
class Entry:
    """One published (or bundled) checkpoint."""

    name: str
    arch: str
    options: Mapping[str, Any]
    dataset: str
    labels: str | None
    converter: str | None
    sources: tuple[Source, ...]
    sha256: str | None
    sha256_prefix: str | None
    license: License
    protocol: Protocol
    reported: Reported
    params: int
    gmacs: Gmacs
    paper: Paper
    stated: Stated | None = None
    init: bool = False
    data_options: Mapping[str, str | bool] = field(default_factory=dict)
    notes: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """Spec of the network as it was trained."""
        return ModelSpec(self.arch, self.options, self.protocol, self.class_names(), {"entry": self.name})

    @property
    def is_bundled(self) -> bool:
        """Whether the weights are shipped with the package."""
        return self.sources[0].kind == "bundled"

    def class_names(self) -> tuple[str, ...] | None:
        """Class names in the order of the logits, or None if unknown."""
        return read_labels(self.labels) if self.labels else None


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (NoneType,),
}  # fmt: skip


def _parse(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a block of fields, got {brief(values)}.")
    cls_fields = {f.name: f for f in fields(cls)}
    unknown = sorted(set(values) - set(cls_fields))
    required = {n for n, f in cls_fields.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - set(values))
    for problem, names in (("unknown", unknown), ("missing", missing)):
        if names:
            raise ConfigError(f"{where}: {problem} field {printable(', '.join(names))}.")
    for name, value in values.items():
        _check_field(value, str(cls_fields[name].type), f"{where}.{name}")
    return cls(**values)


def _check_field(value: Any, annotation: str, at: str) -> None:
    """Check the type of a plain field; text must be printable, since commands print it."""
    kinds = annotation.split(" | ")
    if not set(kinds) <= set(_TYPES):
        return
    allowed = tuple(kind for name in kinds for kind in _TYPES[name])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ConfigError(f"{at} is {brief(value)}; its type must be {' or '.join(kinds)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{at} is {value}; it must be a finite number.")
    if isinstance(value, str) and not is_printable(value):
        raise ConfigError(f"{at} is {brief(value)}; it must be one line without control characters.")


def parse_entry(name: str, block: Mapping[str, Any], papers: Mapping[str, Paper], where: str) -> Entry:
    """Parse one block under ``models:``; a ConfigError names the invalid field."""
    at = f"{where}: models.{printable(name)}"
    if not isinstance(block, Mapping):
        raise ConfigError(f"{at}: expected a block of fields, got {brief(block)}.")
    values = dict(block, name=name)
    if "licence" in values:  # the spelling of version 0.1
        values.setdefault("license", values.pop("licence"))
    arch, _, tag = name.partition(".")
    if not tag or values.get("arch") != arch:
        raise ConfigError(f"{at}: the name must be architecture.tag, and arch must be {arch!r}.")
    if not isinstance(values.get("paper"), str) or values["paper"] not in papers:
        raise ConfigError(f"{at}: paper {brief(values.get('paper'))} is not one of {', '.join(papers)}.")
    values["paper"] = papers[values["paper"]]
    for key, cls in (("license", License), ("reported", Reported), ("gmacs", Gmacs)):
        values[key] = _parse(cls, values.get(key), f"{at}.{key}")
    if values.get("stated") is not None:
        values["stated"] = _parse(Stated, values["stated"], f"{at}.stated")
    protocol = values["protocol"] = Protocol.from_dict(values.get("protocol") or {}, f"{at}.protocol")
    for key, form in (("sha256", "[0-9a-f]{64}"), ("sha256_prefix", "[0-9a-f]{8,63}")):
        value = values.get(key)
        if value is not None and not (isinstance(value, str) and re.fullmatch(form, value)):
            raise ConfigError(f"{at}.{key} is {brief(value)}; it must be hex digits in quotes, {form[9:]} of them.")
    options, labels = values.get("options"), values.get("labels")
    if not isinstance(options, Mapping) or not {"num_classes", "num_frames"} <= set(options):
        raise ConfigError(f"{at}.options: expected a block with num_classes and num_frames, got {brief(options)}.")
    _check_field(labels, "str | None", f"{at}.labels")
    _check_data_options(values.get("data_options", {}), f"{at}.data_options")
    try:
        options = values["options"] = rename_options(options)
        check_description(arch, options, protocol, read_labels(labels) if labels else None)
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(f"{at}: {error}") from error
    sources = values.get("sources")
    if not isinstance(sources, list) or not sources:
        raise ConfigError(f"{at}.sources: at least one download source is required.")
    values["sources"] = tuple(_parse(Source, s, f"{at}.sources[{i}]") for i, s in enumerate(sources))
    for source in values["sources"]:
        _check_source(source, f"{at}.sources")
    return _parse(Entry, values, at)


def _check_data_options(options: Any, at: str) -> None:
    """Check that options are a block of names and texts or flags; the data module checks their values."""
    if not isinstance(options, Mapping):
        raise ConfigError(f"{at}: expected a block of options of the data module, got {brief(options)}.")
    for name, value in options.items():
        if not re.fullmatch(r"\w+", name):
            raise ConfigError(f"{at}: {brief(name)} is not the name of an option.")
        _check_field(value, "str | bool", f"{at}.{name}")


def _check_source(source: Source, at: str) -> None:
    if source.kind not in SOURCE_KINDS:
        raise ConfigError(f"{at}: kind {source.kind!r} is not one of {', '.join(SOURCE_KINDS)}.")
    if not re.fullmatch(SOURCE_KINDS[source.kind], source.url):
        raise ConfigError(
            f"{at}: {brief(source.url)} is not a URL of kind {source.kind}; see other entries for the form."
        )
    if (source.file is not None) != (source.kind in KINDS_WITH_FILE):
        raise ConfigError(
            f"{at}: file: is required for kinds {' and '.join(KINDS_WITH_FILE)}, and invalid for the others."
        )


@dataclass(frozen=True)
class Index:
    """All entries in the order of the file, and explanations for networks without public weights."""

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)
    unreleased: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise self.unknown(name)
        return self.entries[name]

    def unknown(self, name: str, listing: str = "zoo.list_models()") -> ZooError:
        """Create the error for a name that is not in the index; ``listing`` is the call or command to list all."""
        if name in self.unreleased:
            return WeightsNotFoundError(f"The weights of {name} were never released: {self.unreleased[name]}")
        tags = [n for n in self.entries if n.startswith(f"{name}.")]
        hint = f"Its checkpoints: {', '.join(tags)}." if tags else f"{listing} lists all names."
        return UnknownNameError.of("model", name, self.entries, hint)

    def find(
        self,
        pattern: str = "*",
        *,
        dataset: str | None = None,
        arch: str | None = None,
        pretrained: bool | None = None,
        bundled: bool | None = None,
    ) -> list[str]:
        """List names that match all conditions; see ``zoo.list_models``."""
        return [
            name
            for name, entry in self.entries.items()
            if fnmatch.fnmatchcase(name, pattern)
            and (dataset is None or entry.dataset == dataset)
            and (arch is None or fnmatch.fnmatchcase(entry.arch, arch))
            and pretrained in (None, not entry.init)
            and bundled in (None, entry.is_bundled)
        ]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML loader that rejects duplicate keys; the standard loader silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Check the keys of a mapping, then construct it."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise yaml.constructor.ConstructorError(None, None, "a key is not text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is a duplicate key", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_index(path: Path) -> Index:
    """Read an index file and validate every field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The index {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The index {path} is not UTF-8 text: {error}.") from error
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: invalid number or date
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if (
        not isinstance(content, Mapping)
        or content.get("schema") != 1
        or set(content) - {"protocols", "families", "unreleased"} != {"schema", "papers", "models"}
    ):
        raise ConfigError(
            f"{path}: expected schema: 1, papers:, models:, and optionally protocols:, families: and unreleased: at "
            "the top level."
        )
    shared = content.get("protocols", {})
    if not isinstance(shared, Mapping):
        raise ConfigError(f"{path}: protocols: expected a block of named protocols, got {brief(shared)}.")
    for part in ("papers", "models"):
        if not isinstance(content[part], Mapping):
            raise ConfigError(f"{path}: {part}: expected a block of names, got {brief(content[part])}.")
    for key, values in shared.items():  # unused ones too
        Protocol.from_dict(values or {}, f"{path}: protocols.{key}")
    papers = {key: _parse(Paper, value, f"{path}: papers.{key}") for key, value in content["papers"].items()}
    models = {name: parse_entry(name, block, papers, str(path)) for name, block in content["models"].items()}
    _check_unique_files(models, str(path))
    unreleased = content.get("unreleased", {})
    if not isinstance(unreleased, Mapping) or not all(isinstance(text, str) for text in unreleased.values()):
        raise ConfigError(f"{path}: unreleased: expected `name: explanation`, got {brief(unreleased)}.")
    if duplicates := sorted(set(unreleased) & set(models)):
        raise ConfigError(f"{path}: {', '.join(duplicates)} cannot be both in models: and in unreleased:.")
    return Index(path, models, unreleased)


def _check_unique_files(models: Mapping[str, Entry], where: str) -> None:
    """Reject two trained networks with the same file; several entries may start from the same image weights."""
    names: dict[Source, str] = {}
    for name, entry in models.items():
        for source in () if entry.init else entry.sources:
            if source in names:
                raise ConfigError(f"{where}: {names[source]} and {name} have the same file, {source.url}.")
            names[source] = name


_parsed = functools.cache(parse_index)


def load_index() -> Index:
    """Return the parsed index at ``index_path()``; each path is parsed once."""
    return _parsed(index_path())


def list_models(
    pattern: str = "*",
    *,
    dataset: str | None = None,
    arch: str | None = None,
    pretrained: bool | None = None,
    bundled: bool | None = None,
) -> list[str]:
    """List names of the index, such as ``list_models("tada2d*", dataset="ssv2")``.

    Args:
        pattern: shell pattern for the name.
        dataset: data set that the network was trained on.
        arch: architecture, or a shell pattern.
        pretrained: True: networks with trained video weights; False: starts for fine-tuning, such as image weights.
        bundled: True: networks whose weights are shipped with the package; False: the others.
    """
    check_text("pattern", pattern)
    check_text("dataset", dataset, optional=True)
    check_text("arch", arch, optional=True)
    check_flag("pretrained", pretrained, optional=True)
    check_flag("bundled", bundled, optional=True)
    return load_index().find(pattern, dataset=dataset, arch=arch, pretrained=pretrained, bundled=bundled)


def info(name: str) -> Entry:
    """Return the index entry of a name: sources, protocol, accuracy, size, license, paper."""
    check_text("name", name)
    return load_index()[name]


@functools.cache
def read_labels(name: str) -> tuple[str, ...]:
    """Read the class names of a label set (``zoo/labels/<name>.txt``), in the order of class indices."""
    path = _HERE / "labels" / f"{name}.txt"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        raise UnknownNameError.of("label set", name, [p.stem for p in path.parent.glob("*.txt")])
    return tuple(path.read_text(encoding="utf-8").splitlines())
