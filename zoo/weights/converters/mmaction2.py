"""TANet, TSN (our C2D) and TSM files of MMAction2 (open-mmlab/mmaction2, 1.x and the legacy 0.x; same tensors).

TSM's shift wraps the first convolution, and a non-local block wraps the residual block. If a non-local block pools its
keys and values, their convolutions have one more level, ``.0``.
"""

from zoo.weights.converters.rules import Rule, drop_time

_BLOCK = "backbone.layer{s}.{b}."
_OURS = "layer{s}.{b}."


def _residual_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(theirs + "conv{n}.conv.weight", ours + "conv{n}.conv.weight"),
        Rule(theirs + "conv{n}.conv.net.weight", ours + "conv{n}.conv.weight"),
        Rule(theirs + "conv{n}.bn.*", ours + "conv{n}.bn.*"),
        Rule(theirs + "downsample.conv.weight", ours + "downsample.conv.weight"),
        Rule(theirs + "downsample.bn.*", ours + "downsample.bn.*"),
    )


def _projection(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A 1x1x1 convolution, which is a 2D convolution in our network."""
    return Rule(theirs + "conv.weight", ours + "weight", drop_time), Rule(theirs + "conv.bias", ours + "bias")


_THEIRS, _NON_LOCAL = _BLOCK + "non_local_block.", _OURS + "non_local."

RULES = (
    Rule("backbone.conv1.conv.weight", "stem.conv.weight"),
    Rule("backbone.conv1.bn.*", "stem.bn.*"),
    *_residual_block(_BLOCK, _OURS),
    *_residual_block(_BLOCK + "block.", _OURS),
    Rule(_BLOCK + "tam.*", _OURS + "temporal.*"),
    *_projection(_THEIRS + "theta.", _NON_LOCAL + "theta."),
    *_projection(_THEIRS + "phi.", _NON_LOCAL + "phi."),
    *_projection(_THEIRS + "phi.0.", _NON_LOCAL + "phi."),
    *_projection(_THEIRS + "g.", _NON_LOCAL + "g."),
    *_projection(_THEIRS + "g.0.", _NON_LOCAL + "g."),
    *_projection(_THEIRS + "conv_out.", _NON_LOCAL + "out."),
    Rule(_THEIRS + "conv_out.bn.*", _NON_LOCAL + "bn.*"),
    Rule("cls_head.fc_cls.*", "fc.*"),
    Rule("data_preprocessor.*", None),  # mean and std, which are in our protocol
)
