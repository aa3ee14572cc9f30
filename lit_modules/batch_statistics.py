"""Running statistics of new batch norms in the first training steps.

A new batch norm starts with a running mean of 0 and a running variance of 1, which an average with a momentum of 0.1
forgets only after dozens of steps. A validation before that uses these values. TAdaConv multiplies activations with
factors that grow with them, so that activations of a wrong scale are squared in every block and overflow to NaN.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from zoo.models import VideoNetwork

BatchNorm = nn.modules.batchnorm._BatchNorm


class FirstStatistics:
    """Averages the first batches equally, until the momentum of the norm is reached after ten of them.

    The count is the norm's own ``num_batches_tracked``, so that a resumed run continues alike. Trained norms do not
    change: their statistics are better than those of a few batches.

    Args:
        network: its untrained batch norms are those whose statistics the load report lists as untrained.
    """

    def __init__(self, network: VideoNetwork) -> None:
        untrained = set(network.report.untrained)
        self._norms: list[tuple[BatchNorm, float]] = [
            (module, module.momentum)
            for name, module in network.named_modules()
            if isinstance(module, BatchNorm) and module.momentum and f"{name}.running_mean" in untrained
        ]

    def start_batch(self) -> None:
        """Set the momentum of the next update."""
        if not self._norms:
            return
        norm, default = self._norms[0]  # all norms are updated by the same batches
        count = int(cast(Tensor, norm.num_batches_tracked))
        for norm, default in self._norms:
            norm.momentum = max(default, 1 / (count + 1))
        if 1 / (count + 1) <= default:
            self._norms = []
