"""Files of the TAdaConv authors (alibaba-mmai-research/TAdaConv at 75b7839, models/base).

Their ResNets name the stages conv2 to conv5 and count blocks from 1. In a bottleneck, a is the first 1x1 convolution, b
the 3x3 convolution (in TAda2D, the TAdaConv), and c the second 1x1 convolution. In other blocks, a and b are the two
convolutions, and in R(2+1)D a1, a2, b1 and b2 their parts over space and time.
"""

from zoo.weights.converters.rules import Rule, drop_batch, drop_leading, drop_space, drop_time, to_linear


def _routing(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The routing function of TAdaConv 1 and 2."""
    return (
        Rule(theirs + "g.weight", ours + "g.weight", drop_space),
        Rule(theirs + "a.weight", ours + "a.weight", drop_space),
        Rule(theirs + "b.weight", ours + "b.weight", drop_space),
        Rule(theirs + "b_bias.weight", ours + "b_bias.weight", drop_space),
        Rule(theirs + "qkv_proj.weight", ours + "qkv.weight", to_linear),
        Rule(theirs + "qkv_proj.bias", ours + "qkv.bias"),
        Rule(theirs + "attn_out.weight", ours + "proj.weight", to_linear),
        Rule(theirs + "attn_out.bias", ours + "proj.bias"),
        Rule(theirs + "norm_transformer.*", ours + "norm_attn.*"),
        Rule(theirs + "*", ours + "*"),  # the other biases and norms
    )


_BLOCK = "backbone.conv{s}.res_{b}."
_OURS = "layer{s-1}.{b-1}."
TADA2D = (
    Rule("backbone.conv1.a.weight", "stem.conv.weight", drop_time),
    Rule("backbone.conv1.a_bn.*", "stem.bn.*"),
    Rule(_BLOCK + "short_cut.weight", _OURS + "downsample.conv.weight", drop_time),
    Rule(_BLOCK + "short_cut_bn.*", _OURS + "downsample.bn.*"),
    Rule(_BLOCK + "conv_branch.a.weight", _OURS + "conv1.conv.weight", drop_time),
    Rule(_BLOCK + "conv_branch.a_bn.*", _OURS + "conv1.bn.*"),
    Rule(_BLOCK + "conv_branch.b.weight", _OURS + "conv2.conv.weight", drop_leading),
    *_routing(_BLOCK + "conv_branch.b_rf.", _OURS + "conv2.conv.routing."),
    Rule(_BLOCK + "conv_branch.b_bn.*", _OURS + "conv2.bn.*"),
    Rule(_BLOCK + "conv_branch.b_avgpool_bn.*", _OURS + "conv2.pool_bn.*"),
    Rule(_BLOCK + "conv_branch.c.weight", _OURS + "conv3.conv.weight", drop_time),
    Rule(_BLOCK + "conv_branch.c_bn.*", _OURS + "conv3.bn.*"),
)

_STAGE = "backbone.stages.{s}.{b}."
_OURS = "stages.{s}.{b}."
CONVNEXT = (
    Rule("backbone.downsample_layers.0.0.*", "stem.conv.*"),
    Rule("backbone.downsample_layers.0.1.*", "stem.norm.*"),
    Rule("backbone.downsample_layers.{s}.1.weight", "downsamples.{s-1}.1.weight", drop_time),
    Rule("backbone.downsample_layers.{s}.*", "downsamples.{s-1}.*"),
    Rule(_STAGE + "dwconv.weight", _OURS + "conv.weight", drop_leading),
    Rule(_STAGE + "dwconv.bias", _OURS + "conv.bias", drop_leading),
    *_routing(_STAGE + "dwconv_rf.", _OURS + "conv.routing."),
    Rule(_STAGE + "norm_avgpool.*", _OURS + "pool_norm.*"),
    Rule(_STAGE + "pwconv{n}.*", _OURS + "fc{n}.*"),
    Rule(_STAGE + "norm.*", _OURS + "norm.*"),
    Rule(_STAGE + "gamma", _OURS + "gamma"),
    Rule("backbone.norm.*", "norm.*"),
)

_LAYER = "backbone.layers.{b}."
_OURS = "blocks.{b}."


def _tada_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Projections are linear layers for Kinetics, 3D convolutions with the same names for Something-Something."""
    return (
        Rule(theirs + "tada_pre_proj.weight", ours + "pre.weight", drop_space),
        Rule(theirs + "tada_pre_proj.bias", ours + "pre.bias"),
        Rule(theirs + "tada_proj.weight", ours + "proj.weight", to_linear),
        Rule(theirs + "tada_proj.bias", ours + "proj.bias"),
        Rule(theirs + "tadaconv.weight", ours + "conv.weight", drop_leading),
        Rule(theirs + "tadaconv.bias", ours + "conv.bias", drop_leading),
        Rule(theirs + "tadaconv.bn_a.*", ours + "aggregation.bn.*"),
        Rule(theirs + "tadaconv.bn_b.*", ours + "aggregation.pool_bn.*"),
        *_routing(theirs + "tadaconv.rf_func.", ours + "conv.routing."),
    )


TADAFORMER = (
    Rule("backbone.conv1.weight", "stem.weight"),
    Rule("backbone.class_embedding", "class_embedding"),
    Rule("backbone.positional_embedding", "pos_embed"),
    Rule("backbone.ln_pre.*", "norm_pre.*"),
    Rule("backbone.ln_post.*", "norm.*"),
    *_tada_block(_LAYER + "tada.", _OURS + "tada."),
    *_tada_block(_LAYER + "tada2.", _OURS + "tada2."),
    Rule(_LAYER + "attn.in_proj_*", _OURS + "attn.qkv.*"),
    Rule(_LAYER + "attn.out_proj.*", _OURS + "attn.proj.*"),
    Rule(_LAYER + "ln_{n}.*", _OURS + "norm{n}.*"),
    Rule(_LAYER + "mlp.c_fc.*", _OURS + "fc1.*"),
    Rule(_LAYER + "mlp.c_proj.*", _OURS + "fc2.*"),
)


def _transformer_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(theirs + "norm.*", ours + "norm1.*"),
        Rule(theirs + "attn.to_qkv.*", ours + "attn.qkv.*"),
        Rule(theirs + "attn.proj.*", ours + "attn.proj.*"),
        Rule(theirs + "norm_ffn.*", ours + "norm2.*"),
        Rule(theirs + "ffn.net.0.*", ours + "fc1.*"),
        Rule(theirs + "ffn.net.3.*", ours + "fc2.*"),
    )


VIVIT = (
    Rule("backbone.stem.conv1.*", "stem.*"),
    Rule("backbone.cls_token", "class_embedding", drop_batch),
    Rule("backbone.pos_embd", "pos_embed", drop_batch),
    Rule("backbone.cls_token_out", "temporal_class_embedding", drop_batch),
    Rule("backbone.temp_embd", "temporal_pos_embed", drop_batch),
    *_transformer_block("backbone.layers.{b}.", "blocks.{b}."),
    *_transformer_block("backbone.layers_temporal.{b}.", "temporal_blocks.{b}."),
    Rule("backbone.norm.*", "norm.*"),
    Rule("backbone.norm_out.*", "temporal_norm.*"),
)

HEADS = (
    Rule("head.out.*", "fc.*"),
    Rule("head.linear.*", "fc.*"),
    Rule("head.out_joint.*", "fc.*"),  # of MoSI
    Rule("head.linear1.*", "fc.*", part=0),  # verbs
    Rule("head.linear2.*", "fc.*", part=1),  # nouns
)

RULES = (*TADA2D, *CONVNEXT, *TADAFORMER, *VIVIT, *HEADS)

_BLOCK = "backbone.conv{s}.res_{b}."
_OURS = "layer{s-1}.{b-1}."
RESNET3D = (
    Rule("backbone.conv1.a.weight", "stem.conv.weight"),
    Rule("backbone.conv1.a_bn.*", "stem.bn.*"),
    Rule("backbone.conv1.a1.weight", "stem.spatial.conv.weight"),
    Rule("backbone.conv1.a1_bn.*", "stem.spatial.bn.*"),
    Rule("backbone.conv1.a2.weight", "stem.temporal.conv.weight"),
    Rule("backbone.conv1.a2_bn.*", "stem.temporal.bn.*"),
    Rule(_BLOCK + "short_cut.weight", _OURS + "downsample.conv.weight"),
    Rule(_BLOCK + "short_cut_bn.*", _OURS + "downsample.bn.*"),
    *(
        rule
        for letter, conv in (("a", "conv1"), ("b", "conv2"), ("c", "conv3"))
        for part, ours in (("", conv), ("1", f"{conv}.spatial"), ("2", f"{conv}.temporal"))
        for rule in (
            Rule(f"{_BLOCK}conv_branch.{letter}{part}.weight", f"{_OURS}{ours}.conv.weight"),
            Rule(f"{_BLOCK}conv_branch.{letter}{part}_bn.*", f"{_OURS}{ours}.bn.*"),
        )
    ),
    *HEADS,
)
