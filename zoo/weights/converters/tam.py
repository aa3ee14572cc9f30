"""TANet files of the TAM authors (liu-zhy/temporal-adaptive-module at 5fcb46f)."""

from zoo.weights.converters.rules import Rule

_BLOCK = "base_model.layer{s}.{b}."
_OURS = "layer{s}.{b}."

RULES = (
    Rule("base_model.conv1.weight", "stem.conv.weight"),
    Rule("base_model.bn1.*", "stem.bn.*"),
    Rule(_BLOCK + "tam.*", _OURS + "temporal.*"),
    Rule(_BLOCK + "net.conv{n}.weight", _OURS + "conv{n}.conv.weight"),
    Rule(_BLOCK + "net.bn{n}.*", _OURS + "conv{n}.bn.*"),
    Rule(_BLOCK + "net.downsample.0.weight", _OURS + "downsample.conv.weight"),
    Rule(_BLOCK + "net.downsample.1.*", _OURS + "downsample.bn.*"),
    Rule("new_fc.*", "fc.*"),
    Rule("base_model.fc.*", "fc.*"),  # the classifier's name in networks built with dropout 0
)
