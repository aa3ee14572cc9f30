"""Image networks of the ConvNeXt authors (facebookresearch/ConvNeXt, models/convnext.py), for TAdaConvNeXt 1 and 2.

Their ``downsample_layers.0`` is our stem, the other three are our ``downsamples``. Kernels remain 2D; the network
inflates its stem.
"""

from zoo.weights.converters.rules import Rule

_STAGE = "stages.{s}.{b}."

RULES = (
    Rule("downsample_layers.0.0.*", "stem.conv.*"),
    Rule("downsample_layers.0.1.*", "stem.norm.*"),
    Rule("downsample_layers.{s}.*", "downsamples.{s-1}.*"),
    Rule(_STAGE + "dwconv.*", _STAGE + "conv.*"),
    Rule(_STAGE + "norm.*", _STAGE + "norm.*"),
    Rule(_STAGE + "pwconv{n}.*", _STAGE + "fc{n}.*"),
    Rule(_STAGE + "gamma", _STAGE + "gamma"),
    Rule("norm.*", "norm.*"),
    Rule("head.*", "fc.*"),
)
