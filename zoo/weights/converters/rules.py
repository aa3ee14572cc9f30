"""Apply tables of conversion rules.

A rule is ``Rule(source, target, change)``. In ``source``, ``{x}`` matches a number and a final ``*`` any suffix;
``target`` may use ``{x}``, ``{x-1}`` and ``*``. Keys with the target ``None`` are ignored on purpose. Several tensors
become one if their rules have the same target and a ``part`` each, such as the classifiers of several heads.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """One line of a conversion table; see the module's docstring.

    ``change`` is applied to the tensor. ``part`` is the tensor's position in the concatenation along the first axis.
    """

    source: str
    target: str | None
    change: Change | None = None
    part: int | None = None

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """``source`` as a regular expression."""
        text = re.escape(self.source).replace(r"\*", "(?P<rest>.*)")
        return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", text))

    def rename(self, match: re.Match[str]) -> str:
        """``target`` with its placeholders filled from a match of ``pattern``."""
        assert self.target is not None
        groups = match.groupdict()
        name = re.sub(r"\{(\w)(-1)?\}", lambda m: str(int(groups[m[1]]) - (1 if m[2] else 0)), self.target)
        return name.replace("*", groups.get("rest", ""))


@dataclass
class Conversion:
    """The result of a conversion. Each source key is converted, ignored on purpose, or unknown."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def apply_rules(rules: Iterable[Rule], tensors: Mapping[str, Tensor]) -> Conversion:
    """Convert a publisher's state dict. The first rule that matches a key applies."""
    rules = tuple(rules)
    result = Conversion()
    parts: dict[str, dict[int | None, Tensor]] = {}
    for key, tensor in tensors.items():
        for rule in rules:
            match = rule.pattern.fullmatch(key)
            if match is None:
                continue
            if rule.target is None:
                result.ignored.append(key)
                break
            sources = parts.setdefault(rule.rename(match), {})
            if rule.part in sources or (sources and (rule.part is None or None in sources)):
                result.unknown.append(key)  # a second source of the same target would replace the first
            else:
                sources[rule.part] = rule.change(tensor) if rule.change else tensor
            break
        else:
            result.unknown.append(key)
    for name, sources in parts.items():
        ordered = [sources[part] for part in sorted(sources, key=lambda part: part or 0)]
        result.tensors[name] = ordered[0] if len(ordered) == 1 else torch.cat(ordered)
    return result


def drop_time(weight: Tensor) -> Tensor:
    """``(O, I, 1, kh, kw)`` -> ``(O, I, kh, kw)``: a 3D kernel of one frame."""
    return weight.squeeze(2) if weight.ndim == 5 and weight.shape[2] == 1 else weight


def drop_space(weight: Tensor) -> Tensor:
    """``(O, I, kt, 1, 1)`` -> ``(O, I, kt)``: a 3D kernel of one position."""
    return weight.flatten(2) if weight.ndim == 5 and weight.shape[3:] == (1, 1) else weight


def drop_batch(table: Tensor) -> Tensor:
    """``(1, L, C)`` -> ``(L, C)`` or, if L is 1, ``(C,)``: an embedding."""
    return table[0, 0] if table.shape[:2] == (1, 1) else table[0]


def drop_leading(weight: Tensor) -> Tensor:
    """``(1, 1, O, ...)`` -> ``(O, ...)``: the base kernel or bias of a TAdaConv."""
    return weight.flatten(0, 2) if weight.shape[:2] == (1, 1) else weight


def to_linear(weight: Tensor) -> Tensor:
    """``(O, I, 1, 1, 1)`` -> ``(O, I)``: a 1x1x1 convolution as a linear layer."""
    return weight.flatten(1) if weight.ndim > 2 and set(weight.shape[2:]) == {1} else weight
