"""Networks on a GPU compute as on the CPU; the tests are skipped without one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import small
from torch import Tensor

from zoo.ops.tadaconv_v2 import RouteTransformer

FAMILIES = (
    "c2d_r18", "tanet_r18", "tada2d_r18", "tada2dv2_r18", "stam_r18", "tsm_r18", "teinet_r18", "tadaconvnextv2_tiny",
    "tadaconvnext_tiny", "tadaformer_b16",
)  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("arch", FAMILIES)
def test_gpu_computes_as_the_cpu(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    network, clips = small(arch).eval(), torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = network(clips)
    network.cuda()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        rounded = network(clips.cuda())
    logits = network(clips.cuda())
    logits.square().mean().backward()
    scale = float(expected.abs().max())
    torch.testing.assert_close(logits.detach().cpu(), expected, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(rounded.float().cpu(), expected, rtol=0, atol=0.05 * scale)
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_has_contiguous_inputs(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 attention kernel of CUDA refuses the strides that a single head had."""
    attention, layouts = F.scaled_dot_product_attention, []

    def record(q: Tensor, k: Tensor, v: Tensor, **options: float) -> Tensor:
        layouts.extend(tensor.is_contiguous() for tensor in (q, k, v))
        return attention(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    RouteTransformer(96 * heads, head_dim=48)(torch.randn(2, 96 * heads, 4))
    assert layouts == [True] * 3
