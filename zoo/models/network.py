"""What every network of the zoo offers beyond ``forward``."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.errors import ConfigError, check_num_classes, check_rate
from zoo.ops.frames import inflate
from zoo.ops.operator import FrameSized
from zoo.protocol import Protocol
from zoo.spec import ModelSpec


class Feature(NamedTuple):
    """One stage of a network: its module's name, its channels, and by what it divides height and width."""

    module: str
    num_chs: int
    reduction: int


class VideoNetwork(nn.Module):
    """Base of all networks: clips ``(B, C, T, H, W)``, normalized floats -> logits ``(B, num_classes)``.

    A subclass sets ``num_frames``, ``in_channels``, ``num_features`` and ``feature_info``, has ``dropout`` and a linear
    classifier, and defines ``forward_features`` and ``forward_head``.

    Attributes:
        num_frames: T of the clips that it was built for; only some networks are bound to it.
        num_features: channels in front of the classifier.
        feature_info: its stages, first to last.
        head_prefix: how the classifier's keys begin.
        inflation: how an image kernel is spread over frames, see ``zoo.ops.temporal.inflate``.
        stem_key: of the kernel that reads the pixels, or of the first of several (``stem_keys``).
    """

    num_frames: int
    in_channels: int
    num_features: int
    feature_info: list[Feature]
    dropout: nn.Dropout
    head_prefix = "fc."
    stem_key = "stem.conv.weight"
    inflation = "mean"
    grad_checkpointing = False
    report: Any = None  # a LoadReport, once ``zoo.load`` or ``zoo.create`` has filled the network

    @property
    def stem_keys(self) -> tuple[str, ...]:
        """Keys of the kernels that read the pixels."""
        return (self.stem_key,)

    # what it is ----------------------------------------------------------------------------------------------------

    _spec: ModelSpec | None = None  # of networks of zoo.load and zoo.create

    @property
    def spec(self) -> ModelSpec:
        """Architecture, options, labels, protocol and provenance, as the modules are now.

        Raises:
            ConfigError: the network was not made by ``zoo.load`` or ``zoo.create``.
        """
        spec = self._spec
        if spec is None:
            raise ConfigError(f"This {type(self).__name__} has no spec: it does not come from zoo.load or zoo.create.")
        classifier = self.get_classifier()
        if isinstance(classifier, nn.Identity):
            classes = 0
        else:
            classes = getattr(classifier, "out_features", spec.num_classes)
        if classes != spec.num_classes:  # the classifier was replaced
            spec = spec.with_classes(classes)
        return spec if self.in_channels == spec.in_channels else spec.with_options(in_channels=self.in_channels)

    @spec.setter
    def spec(self, spec: ModelSpec) -> None:
        if not isinstance(spec, ModelSpec):
            raise ConfigError(f"model.spec is a {type(spec).__name__}; it must be a ModelSpec.")
        self._spec = spec

    @property
    def has_spec(self) -> bool:
        """Whether the network comes from ``zoo.load`` or ``zoo.create``."""
        return self._spec is not None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the logits, or None: those of the spec."""
        return self.spec.labels

    @labels.setter
    def labels(self, labels: Sequence[str] | None) -> None:
        self.spec = self.spec.with_labels(labels)

    @property
    def protocol(self) -> Protocol:
        """How clips are made: that of the spec."""
        return self.spec.protocol

    @protocol.setter
    def protocol(self, protocol: Protocol) -> None:
        if not isinstance(protocol, Protocol):
            raise ConfigError(f"model.protocol is a {type(protocol).__name__}; it must be a Protocol.")
        self.spec = replace(self.spec, protocol=protocol)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips -> feature maps ``(B, num_features, T', H', W')`` or tokens."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features -> logits ``(B, num_classes)``, or what the classifier reads, ``(B, num_features)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)``, normalized floats -> logits ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))

    def check_clip(self, x: Tensor) -> None:
        """Refuse what is not a batch of clips for this network."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"the network takes clips (B, {self.in_channels}, T, H, W), normalized floats; got {tuple(x.shape)}."
            )
        if not x.is_floating_point():
            raise ConfigError(
                f"the network takes normalized floats; these clips are {x.dtype}: divide by 255, normalize."
            )
        if x.shape[2] != self.num_frames and self.frame_sized_modules():
            raise ConfigError(
                f"this network was built for {self.num_frames} frames and got {x.shape[2]}; "
                f"load it with num_frames={x.shape[2]} (layers of the size of the frame count are then resampled)."
            )

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Self:
        """Load a network by name, folder, file or "hf-hub:user/repo"; the same as ``zoo.load(name, **options)``.

        Raises:
            ConfigError: the network is not an instance of this class. Other errors: see ``zoo.load``.
        """
        from zoo.loading import load

        network = load(name, **options)
        if not isinstance(network, cls):
            raise ConfigError(
                f"{name} is a {type(network).__name__}, not a {cls.__name__}; use VideoNetwork.from_pretrained."
            )
        return network

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Push the network to the Hugging Face Hub; the same as ``zoo.push(model, repo, **options)``.

        Returns:
            URL of the commit or pull request.
        """
        from zoo.hub.push import push

        return push(self, repo, **options)

    # the classifier ----------------------------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """The linear layer that computes the logits, or an ``nn.Identity`` if ``num_classes`` is 0."""
        return self.get_submodule(self.head_prefix.removesuffix("."))

    def set_classifier(self, classifier: nn.Module) -> None:
        """Replace the classifier module; ``reset_classifier`` creates an untrained one."""
        parent, _, name = self.head_prefix.removesuffix(".").rpartition(".")
        setattr(self.get_submodule(parent), name, classifier)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by an untrained one for ``num_classes`` classes.

        Args:
            num_classes: 0 removes the classifier (it becomes an ``nn.Identity``): ``forward`` then returns the pooled
                features ``(B, num_features)``. Such a network can be saved and loaded like any other.
        """
        check_num_classes(num_classes)
        old = self.get_classifier()
        like = next((p for p in (*old.parameters(), *self.parameters()) if p.is_floating_point()), torch.empty(0))
        new = linear_classifier(self.num_features, num_classes).to(like)
        if isinstance(new, nn.Linear):
            nn.init.normal_(new.weight, std=0.01)
            nn.init.zeros_(new.bias)
        self.set_classifier(new)
        if self.report is not None:
            keys = [key for key in self.state_dict() if key.startswith(self.head_prefix)]
            self.report = self.report.with_initialized(self, keys)

    # for training ------------------------------------------------------------------------------------------------

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters by depth, like timm's: "stem", then "blocks".

        ``layer_depths`` reads them. A pattern's groups are a block's place; ``(pattern, offset)`` adds to the first.

        Args:
            coarse: by stage rather than by block.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, other than norms and biases, that published recipes do not decay."""
        return set()

    def set_drop_path(self, rate: float) -> None:
        """Leave out the last block's branches with this probability in training; it grows linearly from 0 at the first.

        Raises:
            ConfigError: a rate outside [0, 1), or a network that cannot.
        """
        check_rate("drop_path_rate", rate)
        paths = {name: module for name, module in self.named_modules() if isinstance(module, DropPath)}
        if not paths:
            raise ConfigError(f"drop_path_rate is {rate}, but {type(self).__name__} has no DropPath; leave it out.")
        blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in paths))  # a block may have several
        rates = dict(zip(blocks, torch.linspace(0, rate, len(blocks), device="cpu").tolist(), strict=True))
        for name, module in paths.items():
            module.rate = rates[name.rpartition(".")[0]]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block's activations in the backward pass: less memory, about a third more time."""
        self.grad_checkpointing = enable

    def through(self, block: nn.Module, *args: Any) -> Any:
        """Call a block, recomputing it in the backward pass if asked for; batch statistics are counted once."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            contexts = functools.partial(_first_and_second_pass, block)
            return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)
        return block(*args)

    # for loading -------------------------------------------------------------------------------------------------

    def operator_keys(self) -> set[str]:
        """State-dict keys that the image network of the same shape does not have."""
        return set()

    def frame_sized_modules(self) -> dict[str, FrameSized]:
        """Modules that have layers of the size of the frame count, by name."""
        modules = {name: module for name, module in self.named_modules() if isinstance(module, FrameSized)}
        return {name: module for name, module in modules.items() if module.frame_sized_keys()}

    def options_for_frames(self, options: dict[str, Any], num_frames: int) -> dict[str, Any]:
        """Options of the network that ``adapt_frames`` fits this one's weights to."""
        options = dict(options, num_frames=num_frames)
        for module in self.frame_sized_modules().values():
            options["op_options"] = dict(options.get("op_options") or {}, **module.options_for_frames())
            break  # the operator has the same options in all blocks
        return options

    def adapt_frames(self, tensors: dict[str, Tensor]) -> list[str]:
        """Fit tensors trained with another frame count to this network, in place; returns the keys it changed."""
        changed = []
        for name, module in self.frame_sized_modules().items():
            for key in (f"{name}.{key}" for key in module.frame_sized_keys()):
                if key in tensors:
                    tensors[key] = module.resample(tensors[key])
                    changed.append(key)
        return changed

    def adapt_size(self, tensors: dict[str, Tensor]) -> list[str]:
        """Fit tensors trained with another image size to this network, in place; returns the keys it changed."""
        return []

    def adapt_image(self, tensors: dict[str, Tensor]) -> list[str]:
        """Inflate an image network's kernels where this one's span frames, in place; returns the keys it changed."""
        changed = []
        for key, parameter in self.named_parameters():
            if parameter.ndim == 5 and key in tensors and tensors[key].ndim == 4:
                tensors[key] = inflate(tensors[key], parameter.shape[2], self.inflation)
                changed.append(key)
        return changed


def linear_classifier(num_features: int, num_classes: int) -> nn.Module:
    """A linear layer, or an identity for 0 classes."""
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()


def _first_and_second_pass(block: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms normalize as in training, but leave their running statistics alone."""
    found = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in found if m.num_batches_tracked is not None]
    before = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]


def layer_depths(network: VideoNetwork) -> dict[str, int]:
    """Parameter name -> depth: 0 for the stem, then one more for each block, the head last.

    For learning rates that decay with depth (each layer's is ``decay`` times that of the layer behind it).
    """
    matcher = network.group_matcher()
    stem = re.compile(matcher["stem"])
    found = [matcher["blocks"]] if isinstance(matcher["blocks"], str) else matcher["blocks"]
    blocks: list[tuple[str, int]] = [(block, 0) if isinstance(block, str) else block for block in found]
    places: dict[str, tuple[int, ...]] = {}
    for name, _ in network.named_parameters():
        if stem.match(name):
            places[name] = (-1,)
            continue
        for pattern, offset in blocks:
            if match := re.match(pattern, name):
                first, *rest = (int(group) for group in match.groups())
                places[name] = (first + offset, *(rest or [0]))
                break
        else:
            places[name] = (10**6,)
    order = {place: depth for depth, place in enumerate(sorted(set(places.values())))}
    return {name: order[place] for name, place in places.items()}


class DropPath(nn.Module):
    """Leave a residual branch out with some probability, for whole clips, in training (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, num_frames: int = 1) -> Tensor:
        """``(B*T, ...)`` -> same shape: zeros for some clips, the others scaled up to keep the mean."""
        if not self.training or not self.rate:
            return x
        keep = torch.rand(len(x) // num_frames, device=x.device) >= self.rate
        scale = (keep / (1 - self.rate)).repeat_interleave(num_frames).to(x.dtype)
        return x * scale.view(-1, *[1] * (x.ndim - 1))
