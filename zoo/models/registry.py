"""Registry of architectures by name. It does not import torch; the module of a network is imported when it is used.

To add an architecture, write its network in a module of this folder and add a line below.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.models.network import VideoNetwork

# end of the message for an unknown architecture
ALL_ARCHITECTURES = "zoo.models.ARCHITECTURES lists all names."

Builder = Callable[..., "VideoNetwork"]


class ArchitectureRegistry(MutableMapping[str, Builder]):
    """Name -> function that builds the network. Looking up a name imports the module of its function."""

    def __init__(self) -> None:
        self._loaders: dict[str, Callable[[], Builder]] = {}

    def add(self, name: str, module: str, function: str, *args: Any, **options: Any) -> None:
        """Add an architecture of this package.

        Args:
            name: name of the architecture.
            module: module of ``zoo.models`` that has the function.
            function: name of a class or function in it.
            args, options: its first arguments.
        """

        def load_builder() -> Builder:
            return functools.partial(getattr(import_module(f"zoo.models.{module}"), function), *args, **options)

        self._loaders[name] = functools.cache(load_builder)

    def __getitem__(self, name: str) -> Builder:
        return self._loaders[name]()

    def __setitem__(self, name: str, builder: Builder) -> None:
        self._loaders[name] = lambda: builder

    def __delitem__(self, name: str) -> None:
        del self._loaders[name]

    def __contains__(self, name: object) -> bool:
        return name in self._loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)


# family of video ResNets -> its temporal operator
RESNETS = {
    "c2d": "none",
    "c2d_pool": "pool",
    "c2d_tconv": "tconv",
    "i3d": "i3d",
    "tsm": "tsm",
    "teinet": "tei",
    "tanet": "tam",
    "tada2d": "tadaconv",
    "tada2dv2": "tadaconv_v2",
    "stam": "stam",
}
DEPTHS = (18, 50, 101)
HOSTS = ("shufflenetv2", "mobilenetv2", "inceptionv3", "resnext50")  # of TAM's paper; see ``zoo.models.hosts.HOSTS``

ARCHITECTURES = ArchitectureRegistry()
_add = ARCHITECTURES.add

for _family, _op in RESNETS.items():
    for _depth in DEPTHS:
        _add(f"{_family}_r{_depth}", "resnet", "VideoResNet", _op, _depth)
for _depth in DEPTHS:
    _add(f"nonlocal_r{_depth}", "resnet", "VideoResNet", "none", _depth, non_local={})

_add("tadaconvnext_tiny", "convnext", "TAdaConvNeXt", 1, (3, 3, 9, 3), width=96)
_add("tadaconvnextv2_tiny", "convnext", "TAdaConvNeXt", 2, (3, 3, 9, 3), width=96)
_add("tadaconvnextv2_small", "convnext", "TAdaConvNeXt", 2, (3, 3, 27, 3), width=96)
_add("tadaconvnextv2_base", "convnext", "TAdaConvNeXt", 2, (3, 3, 27, 3), width=128)

_add("tadaformer_b16", "vit", "TAdaFormer", patch=16, width=768, depth=12, heads=12)
_add("tadaformer_l14", "vit", "TAdaFormer", patch=14, width=1024, depth=24, heads=16)

_add("vivit_b16", "vivit", "ViViT", patch=16, width=768, depth=12, heads=12)

_add("csn_r152", "resnet3d", "ResNet3D", "csn", num_frames=32)
_add("r2d3d_r18", "resnet3d", "ResNet3D", "r2d3d", num_frames=16)
_add("r2plus1d_r10", "resnet3d", "ResNet3D", "r2plus1d", num_frames=16)

_add("ptv_c2d_r50", "pytorchvideo", "c2d")
_add("ptv_i3d_r50", "pytorchvideo", "i3d")
_add("ptv_slow_r50", "pytorchvideo", "slow")
_add("ptv_slowfast_r50", "pytorchvideo", "PTVSlowFast", 50)
_add("ptv_slowfast_r101", "pytorchvideo", "PTVSlowFast", 101, fusion_kernel=5)
_add("ptv_slowfast_16x8_r101", "pytorchvideo", "slowfast_16x8", num_frames=64, fusion_kernel=5)
_add("ptv_r2plus1d_r50", "pytorchvideo", "PTVNet", "r2plus1d", "create_r2plus1d", {}, num_frames=16)
_add("ptv_csn_r101", "pytorchvideo", "csn", num_frames=32)
_add("ptv_x3d_xs", "pytorchvideo", "PTVX3D", 160, num_frames=4, width=12)
_add("ptv_x3d_s", "pytorchvideo", "PTVX3D", 160, num_frames=13, width=12)
_add("ptv_x3d_m", "pytorchvideo", "PTVX3D", 224, num_frames=16, width=12)
_add("ptv_x3d_l", "pytorchvideo", "PTVX3D", 312, 5.0, num_frames=16, width=12)

_add("ptv_mvit_b_16x4", "mvit", "PTVMViT", num_frames=16)
_add("ptv_mvit_b_32x3", "mvit", "PTVMViT", num_frames=32)

_add("slowonly_tada_r50", "plugins", "slowonly_tada")
_add("slowfast_tada_r50", "plugins", "TAdaSlowFast", 50)
_add("slowfast_tam_r50", "plugins", "TAMSlowFast", 50)
_add("r2plus1d_tada_r50", "plugins", "r2plus1d_tada")
_add("r3d_r50", "plugins", "r3d")
_add("r3d_tada_r50", "plugins", "r3d_tada")

for _host in HOSTS:
    _add(f"c2d_{_host}", "hosts", "build_host", _host, "none")
for _host in HOSTS:
    _add(f"tanet_{_host}", "hosts", "build_host", _host, "tam")
_add("c2d_resnext101", "hosts", "build_host", "resnext101", "none")
_add("tsm_mobilenetv2", "hosts", "build_host", "mobilenetv2", "tsm")


def register_architecture(name: str, builder: Builder) -> None:
    """Add an architecture for ``zoo.create(name, **options)`` and for index entries.

    Args:
        name: a name that is not registered yet.
        builder: function with the keyword arguments ``num_classes``, ``num_frames``, ``in_channels``, and any others.

    Raises:
        ConfigError: the name is already registered.
    """
    if name in ARCHITECTURES:
        raise ConfigError(f"An architecture named {name!r} is already registered; choose another name.")
    ARCHITECTURES[name] = builder
