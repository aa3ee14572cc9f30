"""The networks of the benchmarks, and their forms: adaptive, static twin, literal, fused, checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from benchmarks.operators import literal
from benchmarks.twins import static_twin
from zoo.models import has_option

TORCHVISION = "torchvision/"
CLASSES = 400
ADAPTIVE, TWIN, LITERAL, CHECKPOINTED = "adaptive", "static twin", "literal form", "gradient checkpointing"
SMALL = {"width": 8}
SMALL_TRANSFORMER = {"width": 48, "depth": 2, "patch": 8}


@dataclass(frozen=True)
class Case:
    """A network and its input.

    Args:
        title: name in tables.
        arch: an architecture of the zoo, or "torchvision/" and the name of a video network.
        frames, size, batch: of the input ``(batch, 3, frames, size, size)``.
        entry: index entry with the published accuracy.
        options: of ``zoo.create``.
    """

    title: str
    arch: str
    frames: int
    size: int
    batch: int = 1
    entry: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def clip(self) -> str:
        """Frames x height x width."""
        return f"{self.frames}x{self.size}x{self.size}"

    @property
    def of_zoo(self) -> bool:
        """Whether the network belongs to this package."""
        return not self.arch.startswith(TORCHVISION)

    def small(self) -> Case:
        """Return a tiny variant, with which the scripts can be tested."""
        options = self.options
        if self.of_zoo and not self.arch.startswith("ptv_"):
            options += tuple((SMALL_TRANSFORMER if has_option(self.arch, "patch") else SMALL).items())
        return replace(self, frames=min(self.frames, 4), size=32, batch=min(self.batch, 2), options=options)

    def build(self, form: str = ADAPTIVE) -> nn.Module:
        """Build the network with random weights, in evaluation mode."""
        torch.manual_seed(0)
        if not self.of_zoo:
            from torchvision.models import get_model

            return get_model(self.arch.removeprefix(TORCHVISION), weights=None, num_classes=CLASSES).eval()
        options: dict[str, Any] = {"num_frames": self.frames, "num_classes": CLASSES} | dict(self.options)
        if has_option(self.arch, "image_size"):
            options["image_size"] = self.size
        if form == TWIN:
            return static_twin(self.arch, **options).eval()
        network = zoo.create(self.arch, **options)
        if form == LITERAL:
            return literal(network).eval()
        network.set_grad_checkpointing(form == CHECKPOINTED)
        return network.eval()

    def clips(self) -> Tensor:
        """Return random clips ``(B, 3, T, H, W)``; for networks of the zoo, a view of frames like those it decodes."""
        shape = (self.batch, self.frames, 3, self.size, self.size)
        clips = torch.randn(shape, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
        return clips if self.of_zoo else clips.contiguous()


# inputs with 16 frames in total
NETWORKS = (
    Case("TAda2D-50", "tada2d_r50", 8, 224, batch=2),
    Case("TANet-50", "tanet_r50", 8, 224, batch=2),
    Case("TSM-50", "tsm_r50", 8, 224, batch=2),
    Case("STAM-50", "stam_r50", 8, 224, batch=2),
    Case("TAdaConvNeXtV2-T", "tadaconvnextv2_tiny", 16, 224),
    Case("TAdaFormer-B/16", "tadaformer_b16", 16, 224),
)
LITERAL_ARCHS = ("tada2d_r50", "tanet_r50", "tsm_r50", "tadaconvnextv2_tiny", "tadaformer_b16")  # all but STAM
# inputs of the published tests on Kinetics-400
PUBLISHED = (
    Case("TAda2D-50", "tada2d_r50", 8, 256, entry="tada2d_r50.k400_8x8"),
    Case("TANet-50", "tanet_r50", 8, 256, entry="tanet_r50.k400_8f"),
    Case("TSM-50", "tsm_r50", 8, 224, entry="tsm_r50.mma_k400_8f"),
    Case("TAdaConvNeXtV2-T", "tadaconvnextv2_tiny", 16, 256, entry="tadaconvnextv2_tiny.in1k_k400_16f"),
    Case("TAdaFormer-B/16", "tadaformer_b16", 16, 224, entry="tadaformer_b16.clip_k400_16f"),
    Case("Slow-R50", "ptv_slow_r50", 8, 256, entry="ptv_slow_r50.k400_8x8"),
    Case("SlowFast-R50", "ptv_slowfast_r50", 32, 256, entry="ptv_slowfast_r50.k400_8x8"),
    Case("X3D-M", "ptv_x3d_m", 16, 256, entry="ptv_x3d_m.k400_16x5"),
    Case("MViT-B", "ptv_mvit_b_16x4", 16, 224, entry="ptv_mvit_b_16x4.k400_16x4"),
    Case("Swin3D-T", "torchvision/swin3d_t", 32, 224),
    Case("MViTv2-S", "torchvision/mvit_v2_s", 16, 224),
    Case("R(2+1)D-18", "torchvision/r2plus1d_18", 16, 112),
)


def select(cases: Sequence[Case], names: Sequence[str] | None, quick: bool) -> list[Case]:
    """Return the cases whose architecture contains one of ``names`` (None: all), tiny if ``quick``.

    MViTv2 of torchvision has a fixed input size, so quick runs skip it.

    Raises:
        SystemExit: a name that matches nothing.
    """
    for name in names or ():
        if not any(name in case.arch for case in cases):
            raise SystemExit(f"No network matches {name!r}; choose from {', '.join(case.arch for case in cases)}.")
    chosen = [case for case in cases if names is None or any(name in case.arch for name in names)]
    return [case.small() for case in chosen if "mvit_v2" not in case.arch] if quick else chosen


def forward_step(network: nn.Module, clips: Tensor) -> Callable[[], Tensor]:
    """Return a function that runs the network without gradients."""

    @torch.inference_mode()
    def step() -> Tensor:
        return network(clips)

    return step


def prepare_forward(case: Case, form: str = ADAPTIVE, device: str = "cpu") -> Callable[[], Tensor]:
    """Build a network, and return its forward pass."""
    return forward_step(case.build(form).to(device), case.clips().to(device))


def prepare_training(
    case: Case, form: str, device: str = "cpu", precision: torch.dtype = torch.float32
) -> Callable[[], None]:
    """Build a network, and return a training step: forward, backward and optimizer.

    The optimizer is that of the published recipe: SGD with momentum for ResNets, otherwise AdamW. Its learning rate is
    so small that the weights, and with them the values in the network, remain as initialized.
    """
    network, clips = case.build(form).to(device).train(), case.clips().to(device)
    labels = torch.arange(case.batch, device=device)
    optimizer: torch.optim.Optimizer
    if case.arch.endswith(("r18", "r50")):
        optimizer = torch.optim.SGD(network.parameters(), 1e-9, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), 1e-9)

    def step() -> None:
        with torch.autocast(torch.device(device).type, precision, enabled=precision != torch.float32):
            loss = cross_entropy(network(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
