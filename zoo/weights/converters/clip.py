"""CLIP's vision transformer (openai/CLIP, clip/model.py), for TAdaFormer.

Only the image tower is converted, without its projection to the embedding space shared with text.
"""

from zoo.weights.converters.rules import Rule

_LAYER = "visual.transformer.resblocks.{b}."
_OURS = "blocks.{b}."

RULES = (
    Rule("visual.conv1.weight", "stem.weight"),
    Rule("visual.class_embedding", "class_embedding"),
    Rule("visual.positional_embedding", "pos_embed"),
    Rule("visual.ln_pre.*", "norm_pre.*"),
    Rule("visual.ln_post.*", "norm.*"),
    Rule(_LAYER + "attn.in_proj_*", _OURS + "attn.qkv.*"),
    Rule(_LAYER + "attn.out_proj.*", _OURS + "attn.proj.*"),
    Rule(_LAYER + "ln_{n}.*", _OURS + "norm{n}.*"),
    Rule(_LAYER + "mlp.c_fc.*", _OURS + "fc1.*"),
    Rule(_LAYER + "mlp.c_proj.*", _OURS + "fc2.*"),
    Rule("visual.proj", None),
    # the text tower, and sizes that the archive stores as tensors
    Rule("transformer.resblocks.*", None),
    Rule("token_embedding.weight", None),
    Rule("positional_embedding", None),
    Rule("ln_final.*", None),
    Rule("text_projection", None),
    Rule("logit_scale", None),
    Rule("input_resolution", None),
    Rule("context_length", None),
    Rule("vocab_size", None),
)
