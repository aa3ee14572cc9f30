"""Files of pytorchvideo's model zoo (facebookresearch/pytorchvideo, docs/source/model_zoo.md).

Our networks contain those of pytorchvideo's builders as ``net``, so every key only gets that prefix.

``FROM_IMAGES`` converts torchvision's image ResNets for the same 3D networks. Their kernels remain 2D; the network
inflates them.
"""

from zoo.weights.converters.rules import Rule

RULES = (
    Rule("blocks.*", "net.blocks.*"),
    # MViT only
    Rule("patch_embed.*", "net.patch_embed.*"),
    Rule("cls_positional_encoding.*", "net.cls_positional_encoding.*"),
    Rule("norm_embed.*", "net.norm_embed.*"),
    Rule("head.proj.*", "net.head.proj.*"),
)

_BLOCK = "layer{s}.{b}."
_OURS = "net.blocks.{s}.res_blocks.{b}."

FROM_IMAGES = (
    Rule("conv1.weight", "net.blocks.0.conv.weight"),
    Rule("bn1.*", "net.blocks.0.norm.*"),
    Rule(_BLOCK + "conv1.weight", _OURS + "branch2.conv_a.weight"),
    Rule(_BLOCK + "bn1.*", _OURS + "branch2.norm_a.*"),
    Rule(_BLOCK + "conv2.weight", _OURS + "branch2.conv_b.weight"),
    Rule(_BLOCK + "bn2.*", _OURS + "branch2.norm_b.*"),
    Rule(_BLOCK + "conv3.weight", _OURS + "branch2.conv_c.weight"),
    Rule(_BLOCK + "bn3.*", _OURS + "branch2.norm_c.*"),
    Rule(_BLOCK + "downsample.0.weight", _OURS + "branch1_conv.weight"),
    Rule(_BLOCK + "downsample.1.*", _OURS + "branch1_norm.*"),
    Rule("fc.*", "net.blocks.5.proj.*"),
)
