"""TSN and TSM files of MMAction2 whose image network is MobileNetV2 or ResNeXt, each as ``net`` of ours.

In MobileNetV2, TSM's shift wraps the first convolution of a block together with its norm. ResNeXt was built by
MMClassification, which uses torchvision's names. Distilled networks may be stored as ``architecture``, next to their
``teacher``.
"""

from zoo.weights.converters.rules import Rule

# first block of each stage in torchvision's ``features``, and number of blocks
_STAGES = {1: (1, 1), 2: (2, 2), 3: (4, 3), 4: (7, 4), 5: (11, 3), 6: (14, 3), 7: (17, 1)}


def _conv_norm(theirs: str, conv: str, norm: str) -> tuple[Rule, ...]:
    return Rule(theirs + "conv.weight", conv + ".weight"), Rule(theirs + "bn.*", norm + ".*")


def _inverted_residual(theirs: str, ours: str, expands: bool) -> tuple[Rule, ...]:
    """Rules of a block: expansion (which the first block lacks), depthwise convolution, projection."""
    rules = _conv_norm(theirs + "conv.0.", ours + "conv.0.0", ours + "conv.0.1")
    if not expands:
        return (*rules, *_conv_norm(theirs + "conv.1.", ours + "conv.1", ours + "conv.2"))
    return (
        *rules,
        *_conv_norm(theirs + "conv.0.net.", ours + "conv.0.0", ours + "conv.0.1"),
        *_conv_norm(theirs + "conv.1.", ours + "conv.1.0", ours + "conv.1.1"),
        *_conv_norm(theirs + "conv.2.", ours + "conv.2", ours + "conv.3"),
    )


def _mobilenet(prefix: str) -> tuple[Rule, ...]:
    blocks: list[Rule] = []
    for stage, (first, count) in _STAGES.items():
        for index in range(count):
            names = f"{prefix}backbone.layer{stage}.{index}.", f"net.features.{first + index}."
            blocks += _inverted_residual(*names, expands=stage > 1)
    return (
        *_conv_norm(prefix + "backbone.conv1.", "net.features.0.0", "net.features.0.1"),
        *blocks,
        *_conv_norm(prefix + "backbone.conv2.", "net.features.18.0", "net.features.18.1"),
    )


_BLOCK = "layer{s}.{b}."

RESNEXT = (
    Rule("backbone.conv1.weight", "net.conv1.weight"),
    Rule("backbone.bn1.*", "net.bn1.*"),
    Rule("backbone." + _BLOCK + "conv{n}.weight", "net." + _BLOCK + "conv{n}.weight"),
    Rule("backbone." + _BLOCK + "bn{n}.*", "net." + _BLOCK + "bn{n}.*"),
    Rule("backbone." + _BLOCK + "downsample.{n}.*", "net." + _BLOCK + "downsample.{n}.*"),
    Rule("cls_head.fc_cls.*", "net.fc.*"),
    Rule("data_preprocessor.*", None),
)
MOBILENET = (
    *_mobilenet(""),
    *_mobilenet("architecture."),
    Rule("cls_head.fc_cls.*", "net.classifier.1.*"),
    Rule("architecture.cls_head.fc_cls.*", "net.classifier.1.*"),
    Rule("teacher.*", None),
    Rule("data_preprocessor.*", None),
    Rule("architecture.data_preprocessor.*", None),
)
