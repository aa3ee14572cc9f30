"""Which parameters a run trains, and which batch norms update their running statistics."""

from __future__ import annotations

import logging
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn

from zoo.adapt import name_parts
from zoo.errors import ConfigError
from zoo.models import VideoNetwork
from zoo.models.lora import is_adapter

log = logging.getLogger("lit_modules")

TrainedPart = Literal["all", "operator", "head", "lora"]
BatchNormMode = Literal["train", "frozen", "frozen_except_first"]
BatchNorm = nn.modules.batchnorm._BatchNorm


def check_trained_part(network: VideoNetwork, part: TrainedPart) -> None:
    """Check that a network has the parts to train.

    Raises:
        ConfigError: it has no temporal operator, or is not a transformer.
    """
    name, operator, layers = network.spec.arch, bool(network.operator_keys()), network.lora_layers
    choices = ["all", *["operator"] * operator, "head", *["lora"] * bool(layers)]
    if part in choices:
        return
    reason = "has no temporal operator"
    if part == "lora":
        reason = "is not a transformer, whose linear layers low-rank adapters extend"
    raise ConfigError(f"model.train is {part}, but {name} {reason}; choose from {', '.join(choices)}.")


class TrainedParts:
    """Freezes and unfreezes the parameters and batch norms of a network.

    A frozen batch norm normalizes with its running statistics and does not update them. With "operator" and "lora", the
    norms of the image network are frozen as well. Untrained batch norms are never frozen, except with "head".

    Args:
        network: network to train, before FSDP distributes it.
        part: parameters to train.
        batch_norm: norms that are frozen although the network is trained.
    """

    def __init__(self, network: VideoNetwork, part: TrainedPart, batch_norm: BatchNormMode) -> None:
        self.network, self.part = network, part
        self.head = {name for name, _ in network.named_parameters() if name.startswith(network.head_prefix)}
        self.trained = trained_parameters(network, part)
        self._frozen_norms = _frozen_norms(network, part, batch_norm)

    def apply(self, head_only: bool) -> None:
        """Freeze and unfreeze parameters, and set the training mode of all modules.

        Args:
            head_only: train the classifier only, in the first epochs.
        """
        head_only = head_only or self.part == "head"
        trained = self.head if head_only else self.trained
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in trained)
        self.network.train(not head_only)
        self.network.dropout.train()
        for norm in self._frozen_norms:
            norm.eval()

    def warn_untrained(self) -> None:
        """Log a warning that names untrained parts that the run does not train."""
        network = self.network
        names = set(network.state_dict()) if self.part == "head" else {name for name, _ in network.named_parameters()}
        keys = [key for key in network.report.untrained if key in names and key not in self.trained]
        if not keys:
            return
        parts = ", ".join(name_parts(network, keys))
        if set(network.state_dict()) == set(keys) | self.head:
            parts = "all weights except the classifier"
        rank_zero_only(log.warning)(
            "--model.train %s does not train all untrained parts: %s stay at their initial values. Train them with "
            "--model.train %s.",
            self.part, parts, _larger_part(network, self.part, keys),
        )  # fmt: skip


def trained_parameters(network: VideoNetwork, part: TrainedPart) -> set[str]:
    """Return the names of the parameters that a run trains."""
    names = {name for name, _ in network.named_parameters()}
    if part == "all":
        return names
    trained = {name for name in names if name.startswith(network.head_prefix)}
    if part in ("operator", "lora"):
        trained |= names & network.operator_keys()
    if part == "lora":
        trained |= {name for name in names if is_adapter(name)}
    return trained


def _frozen_norms(network: VideoNetwork, part: TrainedPart, batch_norm: BatchNormMode) -> list[nn.Module]:
    """Return the batch norms that keep their running statistics while more than the classifier is trained."""
    operator, untrained = network.operator_keys(), set(network.report.untrained)
    norms = {name: module for name, module in network.named_modules() if isinstance(module, BatchNorm)}
    frozen: list[nn.Module] = []
    for number, (name, norm) in enumerate(norms.items()):
        key = f"{name}.running_mean"
        of_frozen_part = part in ("operator", "lora") and key not in operator
        by_option = batch_norm == "frozen" or (batch_norm == "frozen_except_first" and number > 0)
        if key not in untrained and (of_frozen_part or by_option):
            frozen.append(norm)
    return frozen


def _larger_part(network: VideoNetwork, part: TrainedPart, keys: list[str]) -> str:
    """Return values of ``--model.train`` that train untrained parts, for a message."""
    return "operator or all" if part == "head" and set(keys) <= network.operator_keys() else "all"


def describe_parts(network: VideoNetwork, part: TrainedPart) -> str:
    """Return a phrase for the parameters that a run trains, such as "temporal operator and classifier"."""
    if part == "head":
        return "the classifier"
    parts = ["low-rank adapters"] * (part == "lora") + ["temporal operator"] * bool(network.operator_keys())
    return f"{', '.join(parts)} and classifier"
