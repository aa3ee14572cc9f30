"""temporalize(): turn an image network into a video network by adding temporal operators to its convolutions.

The image network (the host) keeps its code, state-dict keys and tensors. Frames are folded into its batch, and the
logits of a clip are the mean of the logits of its frames.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.errors import ConfigError, UnknownNameError, check_counts
from zoo.models import host_layout as layout
from zoo.models.network import Feature, VideoNetwork, checkpoint_contexts
from zoo.ops.operator import OPERATORS
from zoo.ops.stand_in import StandIn, stand_in
from zoo.text import brief

Where = str | Sequence[str] | Callable[[str, nn.Conv2d], bool] | None
PREFIX = "net."


def temporalize(
    module: nn.Module,
    op: str = "tadaconv",
    where: Where = None,
    num_frames: int = 8,
    *,
    inplace: bool = False,
    **options: Any,
) -> TemporalNetwork:
    """Turn an image network into a video network.

    ``temporalize(torchvision.models.convnext_tiny(weights="DEFAULT"), "tadaconv")`` initially returns the mean of the
    image logits of a clip's frames. A state dict of the image network fits the result with the prefix "net." on each
    key; only the operator's keys (``operator_keys``) are missing.

    Args:
        module: image network that maps ``(N, 3, H, W)`` to logits ``(N, classes)`` of a linear layer: torchvision's
            ResNet, ResNeXt, RegNet, MobileNet, ShuffleNet, ConvNeXt, EfficientNet, DenseNet, Inception
            (``aux_logits=False``), or your own.
        op: operator of the chosen convolutions. "tadaconv", "tadaconv_v2" and "stam" calibrate the kernel for every
            frame; they initially leave the output unchanged. "i3d" inflates the kernel over three frames; the output
            is initially unchanged where three frames are equal. "tam", "tsm", "tei", "pool" and "tconv" transform the
            input of the convolution; the output changes and needs training.
        where: the convolutions: a shell pattern for their names such as "layer*.conv2", a list of patterns, or a
            function ``(name, conv) -> bool``. None: all with a kernel larger than 1x1 except the stem. Subclasses of
            ``nn.Conv2d`` are never chosen.
        num_frames: T of a clip. TAM requires this T; the other operators accept any T.
        inplace: modify ``module`` instead of a copy.
        options: options of the operator, such as ``kernel_size=5`` for TAM or ``reduction=8`` for TAdaConv.

    Raises:
        UnknownNameError: there is no such operator.
        ConfigError: no convolution matches ``where``, the operator does not support a convolution or an option, or the
            module has no convolution or no linear classifier.
    """
    if not isinstance(module, nn.Module) or isinstance(module, VideoNetwork):
        raise ConfigError(f"temporalize takes an image network, an nn.Module; got a {type(module).__name__}.")
    if not isinstance(inplace, bool):
        raise ConfigError(f"inplace is {brief(inplace)}; it must be True or False.")
    check_counts(num_frames=num_frames)
    usable = [name for name, operator in OPERATORS.items() if operator.stand_in is not None]
    if op not in usable:
        raise UnknownNameError.of("temporal operator", str(op), usable, f"The operators: {', '.join(usable)}.")
    net = module if inplace else copy.deepcopy(module)
    layout.find_classifier(net)  # raises before anything is changed
    replacements: dict[nn.Module, nn.Module] = {}
    for name, conv in _choose_convs(net, where).items():
        try:
            replacements[conv] = stand_in(op, conv, num_frames, **options)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):  # named_children would list a shared module only once
            if child in replacements:
                setattr(parent, name, replacements[child])
    return TemporalNetwork(net, num_frames)


def _choose_convs(net: nn.Module, where: Where) -> dict[str, nn.Conv2d]:
    stem = layout.find_stem(net)
    convs: dict[str, nn.Conv2d] = {name: m for name, m in net.named_modules() if type(m) is nn.Conv2d}
    if where is None:
        chosen = {name: conv for name, conv in convs.items() if name != stem and max(conv.kernel_size) > 1}
    elif callable(where):
        chosen = {name: conv for name, conv in convs.items() if where(name, conv)}
    else:
        patterns = [where] if isinstance(where, str) else where
        if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ConfigError(
                f"where is {brief(where)}; it must be a shell pattern, a list of patterns, or a function (name, conv)."
            )
        chosen = {name: conv for name, conv in convs.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    if not chosen:
        examples = [name for name, conv in convs.items() if name != stem and max(conv.kernel_size) > 1] or list(convs)
        raise ConfigError(
            f"where={where!r} matches no convolution of {type(net).__name__}; it has, for instance, "
            f"{', '.join(examples[:: max(len(examples) // 6, 1)][:6])}."
        )
    return chosen


class ClassifierWithDropout(nn.Linear):
    """Dropout followed by the classifier of a host without dropout; the keys are those of the classifier."""

    def __init__(self, linear: nn.Linear, dropout: nn.Dropout) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` -> logits ``(N, classes)``."""
        return super().forward(self.dropout(x))


class IdentityWithDropout(nn.Identity):
    """Replacement of the removed classifier of a host without dropout; applies only the added dropout."""

    def __init__(self, dropout: nn.Dropout) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` -> same shape."""
        return self.dropout(x)


class TemporalNetwork(VideoNetwork):
    """An image network applied to folded frames; its logits are averaged over time.

    ``dropout`` is the host's own dropout before its classifier, or an added one of rate 0 if the host has none.

    Args:
        net: image network that maps ``(N, C, H, W)`` to ``(N, classes)``.
        num_frames: T of a clip.
        min_size: minimum height and width of a clip, in pixels.
    """

    def __init__(self, net: nn.Module, num_frames: int, min_size: int = 1) -> None:
        super().__init__()
        self.net, self.num_frames, self.min_size = net, num_frames, min_size
        self._stem = layout.find_stem(net)
        classifier = layout.find_classifier(net)
        self._head = layout.find_head(net, classifier)
        self.stem_key, self.head_prefix = f"{PREFIX}{self._stem}.weight", f"{PREFIX}{classifier}."
        stem: Any = net.get_submodule(self._stem)
        self.in_channels = stem.in_channels
        linear: Any = self.get_classifier()
        self.num_features = linear.in_features
        dropout = layout.find_dropout(net, classifier)
        self.dropout = dropout if dropout is not None else nn.Dropout(0.0)
        self._adds_dropout = dropout is None
        self.set_classifier(linear)
        self._frames = 0
        self._set_frames(num_frames)
        self.train(net.training)

    @functools.cached_property
    def feature_info(self) -> list[Feature]:  # type: ignore[override]
        """For every resolution of feature maps, the last module of the host with it, for 448 x 448 pixels."""
        self._set_frames(self.num_frames)
        frames = torch.empty(self.num_frames, self.in_channels, 448, 448, device="meta")
        try:
            stages = layout.measure_stages(
                self.net, self._stem, self._head, frames.to(self.get_parameter(self.stem_key).dtype)
            )
        except RuntimeError as error:
            raise ConfigError(f"the stages of {type(self.net).__name__} cannot be measured: {error}") from error
        return [stage._replace(module=PREFIX + stage.module) for stage in stages]

    def check_clip(self, x: Tensor) -> None:
        """Raise a ConfigError unless ``x`` is a batch of clips that this network accepts."""
        if x.ndim == 5 and x.shape[2] != self.num_frames and self.frame_sized_modules() and not self.has_spec:
            raise ConfigError(
                f"this network was built for {self.num_frames} frames and got {x.shape[2]}; "
                f"build it with temporalize(..., num_frames={x.shape[2]})."
            )
        super().check_clip(x)
        if min(x.shape[3:]) < self.min_size:
            raise ConfigError(
                f"this network requires at least {self.min_size} x {self.min_size} pixels, got {tuple(x.shape)}."
            )

    def _set_frames(self, num_frames: int) -> None:
        """Set the number of frames of the stand-ins, which the host calls without it."""
        if num_frames != self._frames:
            for module in self.net.modules():
                if isinstance(module, StandIn):
                    module.num_frames = num_frames
            self._frames = num_frames

    def _fold(self, x: Tensor) -> Tensor:
        self.check_clip(x)
        self._set_frames(x.shape[2])
        return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)``, normalized floats -> logits ``(B, num_classes)``."""
        logits = self.net(self._fold(x))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ConfigError(
                f"{type(self.net).__name__} returns {type(logits).__name__}, not logits (N, classes); build it without "
                "auxiliary outputs (torchvision's Inception and GoogLeNet: aux_logits=False)."
            )
        outputs = getattr(self.get_classifier(), "out_features", self.num_features)
        if logits.shape[1] != outputs:
            raise ConfigError(
                f"{type(self.net).__name__} returns {logits.shape[1]} logits, but its last linear layer, "
                f"{self.head_prefix[len(PREFIX) : -1]!r}, has {outputs}; "
                "call the classifier 'fc', 'classifier' or 'head', or define it last."
            )
        return logits.unflatten(0, (-1, x.shape[2])).mean(1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> input of the host's global pooling, ``(B, C', T, H', W')``.

        If the host has no global pooling, or other layers between pooling and classifier, this is the input of the
        classifier, as ``(B, C', T, 1, 1)``.
        """
        frames = self._fold(x)
        head = self.net.get_submodule(self._head)
        head_pools = any(isinstance(m, nn.AdaptiveAvgPool2d) for m in head.modules())
        inputs: list[Tensor] = []
        pooling = layout.LastPooling()

        def store_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            maps = pooling.source(args[0])
            if maps is None:
                maps = args[0] if head_pools else args[0].flatten(1)
            inputs.append(maps if maps.ndim == 4 else maps[:, :, None, None])

        handle = head.register_forward_pre_hook(store_input)
        try:
            with pooling:
                self.net(frames)
        finally:
            handle.remove()
        if not inputs:
            raise ConfigError(f"{type(self.net).__name__} does not call its {self._head!r}, so it has no features.")
        return inputs[-1].unflatten(0, (-1, x.shape[2])).transpose(1, 2)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps of ``forward_features`` -> logits ``(B, num_classes)``, or the input of the classifier ``(B, C)``."""
        y = features.mean((3, 4)).transpose(1, 2).flatten(0, 1)  # (B*T, C')
        head, classifier = self.net.get_submodule(self._head), self.get_classifier()
        layers = list(head)[:-1] if isinstance(head, nn.Sequential) else []
        if any(isinstance(layer, nn.Flatten) for layer in layers):
            y = y[:, :, None, None]
        for layer in layers:
            y = layer(y)
        if not any(layer is self.dropout for layer in layers):
            y = self.dropout(y)
        y = y.unflatten(0, (-1, features.shape[2])).mean(
            1
        )  # averaging first is equivalent, as the classifier is linear
        if pre_logits or not isinstance(classifier, nn.Linear):
            return y
        return F.linear(y, classifier.weight, classifier.bias)  # without calling the module, which may add dropout

    def set_classifier(self, classifier: nn.Module) -> None:
        """Replace the classifier module, and add dropout before it if the host has none."""
        if self._adds_dropout and isinstance(classifier, nn.Identity):
            classifier = IdentityWithDropout(self.dropout)
        elif self._adds_dropout and isinstance(classifier, nn.Linear):
            classifier = ClassifierWithDropout(classifier, self.dropout)
        super().set_classifier(classifier)

    def reset_stem(self, in_channels: int) -> None:
        """Replace the stem convolution by an untrained one for another number of input channels."""
        old: Any = self.net.get_submodule(self._stem)
        new = copy.deepcopy(old)
        new.in_channels = self.in_channels = in_channels
        new.weight = nn.Parameter(old.weight.new_empty(len(old.weight), in_channels, *old.kernel_size))
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        parent, _, name = self._stem.rpartition(".")
        setattr(self.net.get_submodule(parent), name, new)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem, then the host's blocks (or containers) in order; see ``host_layout.match_groups``."""
        return layout.match_groups(self.net, self._stem, self._head, PREFIX, coarse)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of every block in the backward pass: less memory, about a third more time."""
        super().set_grad_checkpointing(enable)
        for name in layout.find_units(self.net, self._stem):
            block = self.net.get_submodule(name)
            block.__dict__.pop("forward", None)
            if enable and layout.is_block(block) and not f"{name}.".startswith(f"{self._head}."):
                block.forward = functools.partial(_checkpointed_forward, self, block)

    def operator_keys(self) -> set[str]:
        """State-dict keys of the temporal operators."""
        stand_ins = [name for name, m in self.named_modules() if isinstance(m, StandIn)]
        own = {f"{name}.{kind}" for name in stand_ins for kind in ("weight", "bias")}
        return {key for key in self.state_dict() if key.startswith(tuple(f"{n}." for n in stand_ins))} - own


def _checkpointed_forward(network: TemporalNetwork, block: nn.Module, *args: Any, **options: Any) -> Any:
    run = functools.partial(type(block).forward, block, **options)
    if not torch.is_grad_enabled():
        return run(*args)
    num_frames = network._frames
    args = tuple(list(a) if isinstance(a, list) else a for a in args)  # DenseNet appends to its list later

    def recompute(*args: Any) -> Any:
        network._set_frames(num_frames)  # the network may have seen other clip lengths since
        return run(*args)

    contexts = functools.partial(checkpoint_contexts, block)
    return checkpoint(recompute, *args, use_reentrant=False, context_fn=contexts)
