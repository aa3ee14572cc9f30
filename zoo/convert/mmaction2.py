"""TANet files of MMAction2 (open-mmlab/mmaction2, 1.x and the legacy 0.x releases; same tensors, other names)."""

from zoo.convert.rules import Rule

_BLOCK = "backbone.layer{s}.{b}."
_OURS = "layer{s}.{b}."

RULES = (
    Rule("backbone.conv1.conv.weight", "stem.conv.weight"),
    Rule("backbone.conv1.bn.*", "stem.bn.*"),
    Rule(_BLOCK + "tam.*", _OURS + "temporal.*"),
    Rule(_BLOCK + "block.conv{n}.conv.weight", _OURS + "conv{n}.conv.weight"),
    Rule(_BLOCK + "block.conv{n}.bn.*", _OURS + "conv{n}.bn.*"),
    Rule(_BLOCK + "block.downsample.conv.weight", _OURS + "downsample.conv.weight"),
    Rule(_BLOCK + "block.downsample.bn.*", _OURS + "downsample.bn.*"),
    Rule("cls_head.fc_cls.*", "fc.*"),
    Rule("data_preprocessor.*", None),  # mean and std; the protocol carries them
)
