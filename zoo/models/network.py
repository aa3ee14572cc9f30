"""VideoNetwork, the base class of all networks."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.errors import ConfigError, check_num_classes, check_rate
from zoo.models.fusion import fold_batch_norms
from zoo.ops.frames import inflate
from zoo.ops.operator import FrameSized
from zoo.protocol import Protocol
from zoo.spec import ModelSpec

if TYPE_CHECKING:
    from zoo.adapt import LoadReport

# side of the clips of a network without protocol, and of the clips with which most networks can be traced, in pixels
DEFAULT_SIZE, SMALL_SIZE = 224, 32


class Feature(NamedTuple):
    """One stage of a network: name of its module, channels, and the factor by which it reduces height and width."""

    module: str
    num_chs: int
    reduction: int


class VideoNetwork(nn.Module):
    """Base of all networks: clips ``(B, C, T, H, W)``, normalized floats -> logits ``(B, num_classes)``.

    A subclass sets ``num_frames``, ``in_channels``, ``num_features``, ``feature_info``, ``dropout`` and a linear
    classifier, and defines ``forward_features`` and ``forward_head``.

    Attributes:
        num_frames: T of the clips that the network was built for; only some networks require this T.
        in_channels: C of the clips.
        num_features: input channels of the classifier.
        feature_info: stages in the order of the forward pass.
        dropout: dropout before the classifier.
        head_prefix: prefix of the classifier's keys in the state dict.
        classifier_std: standard deviation of an untrained classifier's weights, whose biases are 0; None for the
            uniform weights and biases that ``nn.Linear`` draws.
        inflation: how an image kernel is inflated over frames; see ``zoo.ops.frames.inflate``.
        lora_layers: regular expression for the names of the linear layers that low-rank adapters extend; None for
            networks that are not transformers.
        attention_layers: regular expression for the names of the self-attention layers over patch tokens, with the
            class token first; None for networks that are not transformers.
        stem_key: key of the kernel that is applied to the pixels, or of the first of several (``stem_keys``).
        fused: whether ``fuse`` was called; the network can then neither be trained nor saved.
    """

    num_frames: int
    in_channels: int
    num_features: int
    feature_info: list[Feature]
    dropout: nn.Dropout
    head_prefix = "fc."
    stem_key = "stem.conv.weight"
    classifier_std: float | None = 0.01
    inflation = "mean"
    lora_layers: str | None = None
    attention_layers: str | None = None
    grad_checkpointing = False
    fused = False
    _report: LoadReport | None = None  # of networks from zoo.load and zoo.create

    @property
    def stem_keys(self) -> tuple[str, ...]:
        """Keys of the kernels that are applied to the pixels."""
        return (self.stem_key,)

    # spec ----------------------------------------------------------------------------------------------------------

    _spec: ModelSpec | None = None  # set by zoo.load and zoo.create

    @property
    def spec(self) -> ModelSpec:
        """Architecture, options, labels, protocol and provenance; follows a replaced classifier or stem.

        Raises:
            ConfigError: the network does not come from ``zoo.load`` or ``zoo.create``.
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
    def report(self) -> LoadReport:
        """Account of loaded, adapted and untrained tensors.

        Raises:
            ConfigError: the network is not from ``zoo.load`` or ``zoo.create``.
        """
        if self._report is None:
            raise ConfigError(f"This {type(self).__name__} has no report: it is not from zoo.load or zoo.create.")
        return self._report

    @report.setter
    def report(self, report: LoadReport) -> None:
        self._report = report

    @property
    def has_spec(self) -> bool:
        """Whether the network comes from ``zoo.load`` or ``zoo.create``."""
        return self._spec is not None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names of the spec in the order of the logits, or None."""
        return self.spec.labels

    @labels.setter
    def labels(self, labels: Sequence[str] | None) -> None:
        self.spec = self.spec.with_labels(labels)

    @property
    def protocol(self) -> Protocol:
        """Protocol of the spec: how clips are sampled and preprocessed."""
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
        """Features -> logits ``(B, num_classes)``, or the input of the classifier ``(B, num_features)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)``, normalized floats -> logits ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))

    def check_clip(self, x: Tensor) -> None:
        """Raise a ConfigError unless ``x`` is a batch of clips that this network accepts."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"the network takes clips (B, {self.in_channels}, T, H, W), normalized floats; got {tuple(x.shape)}."
            )
        if not x.is_floating_point():
            raise ConfigError(
                f"the network takes normalized floats; these clips are {x.dtype}. Divide by 255 and normalize them."
            )
        if x.shape[2] != self.num_frames and self.frame_sized_modules():
            raise ConfigError(
                f"this network was built for {self.num_frames} frames and got {x.shape[2]}; "
                f"load it with num_frames={x.shape[2]}, which resamples the layers that depend on the number of frames."
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
        """Return the linear layer that computes the logits, or an ``nn.Identity`` if ``num_classes`` is 0."""
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
        reference = next((p for p in (*old.parameters(), *self.parameters()) if p.is_floating_point()), torch.empty(0))
        new = linear_classifier(self.num_features, num_classes).to(reference)  # same device and dtype
        if isinstance(new, nn.Linear) and self.classifier_std is not None:
            nn.init.normal_(new.weight, std=self.classifier_std)
            nn.init.zeros_(new.bias)
        self.set_classifier(new)
        if self._spec is not None and self._spec.protocol.temperature != 1:  # that of the former classifier
            self._spec = replace(self._spec, protocol=replace(self._spec.protocol, temperature=1.0))
        if self._report is not None:
            keys = [key for key in self.state_dict() if key.startswith(self.head_prefix)]
            self.report = self._report.with_initialized(self, keys)

    # for explanations ----------------------------------------------------------------------------------------------

    def stage_modules(self, stage: Feature) -> tuple[str, ...]:
        """Return the names of the modules that compute the feature maps of a stage; one, except with pathways."""
        return (stage.module,)

    def frame_centers(self, count: int, num_frames: int) -> list[float]:
        """Return the position in the clip, in frames, of each of the ``count`` steps of a feature map.

        Networks that reduce the number of frames by other means than averaging or pooling over equal parts override
        this method.
        """
        stride = num_frames / count
        return [(step + 0.5) * stride - 0.5 for step in range(count)]

    # for training ------------------------------------------------------------------------------------------------

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return regular expressions that group parameters by depth, as in timm: "stem", then "blocks".

        ``layer_depths`` uses them. The groups of a pattern are the numbers of a block; ``(pattern, offset)`` adds an
        offset to the first group.

        Args:
            coarse: one group for each stage instead of each block.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters, besides norms and biases, without weight decay in the published recipes."""
        return set()

    def set_drop_path(self, rate: float) -> None:
        """Set the drop path rate of the last block; the rates grow linearly from 0 at the first block.

        Raises:
            ConfigError: a rate outside [0, 1), or a network without DropPath.
        """
        check_rate("drop_path_rate", rate)
        paths = {name: module for name, module in self.named_modules() if isinstance(module, DropPath)}
        if not paths:
            raise ConfigError(f"drop_path_rate is {rate}, but {type(self).__name__} has no DropPath; leave it out.")
        blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in paths))  # a block may have several DropPaths
        rates = dict(zip(blocks, torch.linspace(0, rate, len(blocks), device="cpu").tolist(), strict=True))
        for name, module in paths.items():
            module.rate = rates[name.rpartition(".")[0]]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of every block in the backward pass: less memory, about a third more time."""
        self.grad_checkpointing = enable

    def run_block(self, block: nn.Module, *args: Any) -> Any:
        """Call a block, with gradient checkpointing if it is enabled. Batch statistics are updated once."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            contexts = functools.partial(checkpoint_contexts, block)
            return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)
        return block(*args)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode.

        Raises:
            ConfigError: training mode for a fused network.
        """
        if mode and self.fused:
            raise ConfigError(
                "this network cannot be trained: fuse() has folded its batch norms for inference. Load it again, or "
                "train a copy.deepcopy made before fuse()."
            )
        return super().train(mode)

    # for inference -----------------------------------------------------------------------------------------------

    def fuse(self) -> Self:
        """Fold batch norms into the layers before them, in place, for faster inference.

        The outputs change only by rounding. TAda2D's two norms and its average over frames become one filter. The
        parameters of folded layers are replaced, not modified, so that copies which share them stay valid. A fused
        network stays in evaluation mode and cannot be saved; ``copy.deepcopy`` preserves the original.

        Returns:
            The network.

        Raises:
            ConfigError: the network or a part of it is in training mode.
        """
        if self.fused:
            return self
        if any(module.training for module in self.modules()):
            raise ConfigError("fuse() is for inference, but this network is in training mode; call eval() first.")
        sizes = (SMALL_SIZE, self.protocol.crop if self.has_spec else DEFAULT_SIZE)
        fold_batch_norms(self, *((1, self.in_channels, self.num_frames, size, size) for size in sizes))
        self.fused = True
        return self

    # for loading -------------------------------------------------------------------------------------------------

    def operator_keys(self) -> set[str]:
        """Return the state-dict keys of the temporal operator, which the corresponding image network does not have."""
        return set()

    def frame_sized_modules(self) -> dict[str, FrameSized]:
        """Return the modules with parameters whose size depends on the number of frames, by name."""
        modules = {name: module for name, module in self.named_modules() if isinstance(module, FrameSized)}
        return {name: module for name, module in modules.items() if module.frame_sized_keys()}

    def options_for_frames(self, options: dict[str, Any], num_frames: int) -> dict[str, Any]:
        """Return the options of a network for ``num_frames`` frames that ``adapt_frames`` can fill from this one."""
        options = dict(options, num_frames=num_frames)
        for module in self.frame_sized_modules().values():
            options["op_options"] = dict(options.get("op_options") or {}, **module.options_for_frames())
            break  # all blocks have the same operator options
        return options

    def adapt_frames(self, tensors: dict[str, Tensor]) -> list[str]:
        """Adapt tensors trained with another number of frames to this network, in place; returns the changed keys."""
        changed = []
        for name, module in self.frame_sized_modules().items():
            for key in (f"{name}.{key}" for key in module.frame_sized_keys()):
                if key in tensors:
                    tensors[key] = module.resample(tensors[key])
                    changed.append(key)
        return changed

    def adapt_size(self, tensors: dict[str, Tensor]) -> list[str]:
        """Adapt tensors trained with another image size to this network, in place; returns the changed keys."""
        return []

    def adapt_image(self, tensors: dict[str, Tensor]) -> list[str]:
        """Inflate kernels of an image network for 3D convolutions, in place; returns the changed keys."""
        changed = []
        for key, parameter in self.named_parameters():
            if parameter.ndim == 5 and key in tensors and tensors[key].ndim == 4:
                tensors[key] = inflate(tensors[key], parameter.shape[2], self.inflation)
                changed.append(key)
        return changed


class FixedSizeNetwork(VideoNetwork):
    """Base class of networks whose position embeddings fix the number of frames and the image size of a clip.

    Attributes:
        image_size: height and width of a clip.
    """

    image_size: int

    def check_clip(self, x: Tensor) -> None:
        """Raise a ConfigError unless ``x`` is a batch of clips of this network's size."""
        super().check_clip(x)
        size = (self.num_frames, self.image_size, self.image_size)
        if tuple(x.shape[2:]) != size:
            raise ConfigError(
                f"this network was built for clips of {size[0]} frames of {size[1]} x {size[2]} pixels and got "
                f"{tuple(x.shape)}; load it with num_frames={x.shape[2]}, image_size={max(x.shape[3:])}, which "
                "resamples its position embeddings; frames must be square."
            )


def linear_classifier(num_features: int, num_classes: int) -> nn.Module:
    """Create a linear layer, or an identity for 0 classes."""
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()


def checkpoint_contexts(block: nn.Module) -> tuple[Any, Any]:
    """Return the context managers for the first forward pass and for the recomputation of a checkpointed block."""
    return contextlib.nullcontext(), _frozen_statistics(block)


@contextlib.contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Within the context, batch norms use batch statistics and do not update their running statistics."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.num_batches_tracked is not None]
    states = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, states, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]


def layer_depths(network: VideoNetwork) -> dict[str, int]:
    """Map parameter names to depths, for layer-wise learning rate decay: 0 for the stem, then blocks, then the head."""
    matcher = network.group_matcher()
    stem = re.compile(matcher["stem"])
    patterns = [matcher["blocks"]] if isinstance(matcher["blocks"], str) else matcher["blocks"]
    blocks: list[tuple[str, int]] = [(block, 0) if isinstance(block, str) else block for block in patterns]
    positions: dict[str, tuple[int, ...]] = {}
    for name, _ in network.named_parameters():
        if stem.match(name):
            positions[name] = (-1,)
            continue
        for pattern, offset in blocks:
            if match := re.match(pattern, name):
                first, *rest = (int(group) for group in match.groups())
                positions[name] = (first + offset, *(rest or [0]))
                break
        else:
            positions[name] = (10**6,)
    order = {position: depth for depth, position in enumerate(sorted(set(positions.values())))}
    return {name: order[position] for name, position in positions.items()}


class DropPath(nn.Module):
    """Stochastic depth: drop residual branches of entire clips at random in training (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, num_frames: int = 1) -> Tensor:
        """``(B*T, ...)`` -> same shape: zeros for dropped clips; the others are scaled to preserve the mean."""
        if not self.training or not self.rate:
            return x
        keep = torch.rand(len(x) // num_frames, device=x.device) >= self.rate
        scale = (keep / (1 - self.rate)).repeat_interleave(num_frames).to(x.dtype)
        return x * scale.view(-1, *[1] * (x.ndim - 1))
