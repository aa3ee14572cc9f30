"""Files of pytorchvideo's model zoo (facebookresearch/pytorchvideo, docs/source/model_zoo.md), from its own builders.

The network inside ours is built by the same builders, so every tensor keeps its name, behind ``net.``.
"""

from zoo.convert.rules import Rule

RULES = (
    Rule("blocks.*", "net.blocks.*"),
    # MViT's, beside its blocks
    Rule("patch_embed.*", "net.patch_embed.*"),
    Rule("cls_positional_encoding.*", "net.cls_positional_encoding.*"),
    Rule("norm_embed.*", "net.norm_embed.*"),
    Rule("head.proj.*", "net.head.proj.*"),
)
