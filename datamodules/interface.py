"""The interface of the LightningModule that a data module works with; ``lit_modules.VideoClassifier`` implements it."""

from __future__ import annotations

import typing

from zoo.protocol import Protocol


class Network(typing.Protocol):
    """Network whose protocol determines clips, pixels and views; ``zoo.VideoNetwork`` is one."""

    @property
    def protocol(self) -> Protocol:
        """Frames, sampling, sizes, mean and std, views."""
        ...


class Classifier(typing.Protocol):
    """LightningModule that trains or tests a network."""

    @property
    def network(self) -> Network:
        """The network, which is set before ``setup`` of the data module."""
        ...


def is_classifier(module: object) -> typing.TypeGuard[Classifier]:
    """Return whether a LightningModule has a network.

    A runtime-checkable protocol would not do: from Python 3.12 on, ``isinstance`` does not find submodules.
    """
    return hasattr(module, "network")
