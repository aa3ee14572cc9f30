"""Image ResNets of torchvision (torchvision.models.resnet), as the spatial part of video networks."""

from zoo.weights.converters.rules import Rule

_BLOCK = "layer{s}.{b}."

RULES = (
    Rule("conv1.weight", "stem.conv.weight"),
    Rule("bn1.*", "stem.bn.*"),
    Rule(_BLOCK + "conv{n}.weight", _BLOCK + "conv{n}.conv.weight"),
    Rule(_BLOCK + "bn{n}.*", _BLOCK + "conv{n}.bn.*"),
    Rule(_BLOCK + "downsample.0.weight", _BLOCK + "downsample.conv.weight"),
    Rule(_BLOCK + "downsample.1.*", _BLOCK + "downsample.bn.*"),
    Rule("fc.*", "fc.*"),
)
