"""TAda2D files of the TAdaConv authors (alibaba-mmai-research/TAdaConv, models/base/backbone.py at 75b7839).

Stages are called conv2..conv5 and blocks count from 1. In a block: a = 1x1, b = the 3x3 TAdaConv, c = 1x1.
"""

from zoo.convert.rules import Rule, drop_leading, drop_space, drop_time

_BLOCK = "backbone.conv{s}.res_{b}."
_OURS = "layer{s-1}.{b-1}."

RULES = (
    Rule("backbone.conv1.a.weight", "stem.conv.weight", drop_time),
    Rule("backbone.conv1.a_bn.*", "stem.bn.*"),
    Rule(_BLOCK + "short_cut.weight", _OURS + "downsample.conv.weight", drop_time),
    Rule(_BLOCK + "short_cut_bn.*", _OURS + "downsample.bn.*"),
    Rule(_BLOCK + "conv_branch.a.weight", _OURS + "conv1.conv.weight", drop_time),
    Rule(_BLOCK + "conv_branch.a_bn.*", _OURS + "conv1.bn.*"),
    Rule(_BLOCK + "conv_branch.b.weight", _OURS + "conv2.conv.weight", drop_leading),
    Rule(_BLOCK + "conv_branch.b_rf.g.weight", _OURS + "conv2.conv.routing.g.weight", drop_space),
    Rule(_BLOCK + "conv_branch.b_rf.a.weight", _OURS + "conv2.conv.routing.a.weight", drop_space),
    Rule(_BLOCK + "conv_branch.b_rf.b.weight", _OURS + "conv2.conv.routing.b.weight", drop_space),
    Rule(_BLOCK + "conv_branch.b_rf.*", _OURS + "conv2.conv.routing.*"),  # biases and the norm
    Rule(_BLOCK + "conv_branch.b_bn.*", _OURS + "conv2.bn.*"),
    Rule(_BLOCK + "conv_branch.b_avgpool_bn.*", _OURS + "conv2.pool_bn.*"),
    Rule(_BLOCK + "conv_branch.c.weight", _OURS + "conv3.conv.weight", drop_time),
    Rule(_BLOCK + "conv_branch.c_bn.*", _OURS + "conv3.bn.*"),
    Rule("head.out.*", "fc.*"),
)
