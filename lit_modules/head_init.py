"""Logistic regression of the training videos as the classifier of a network."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_modules.frozen_features import compute_samples
from lit_modules.interfaces import evaluation_data
from lit_modules.linear_probe import LinearProbe, check_classes, fit_logistic_regression
from lit_modules.sharded import is_sharded
from zoo.errors import ConfigError
from zoo.models import VideoNetwork
from zoo.training_state import has_random_backbone, is_untrained

if TYPE_CHECKING:
    from lit_modules.base import VideoClassifier

log = logging.getLogger("lit_modules")
HEAD_INITS = ("default", "probe")


def check_head_init(head_init: str, heads: object) -> None:
    """Check the option ``head_init`` of a VideoClassifier.

    Raises:
        ConfigError: an unknown value, or "probe" for several classifiers.
    """
    if head_init not in HEAD_INITS:
        raise ConfigError(f"head_init is {head_init!r}; choose from {', '.join(HEAD_INITS)}.")
    if head_init == "probe" and heads:
        raise ConfigError("head_init=probe needs one classifier; this data set has several. Set it to default.")


def is_resumed(trainer: L.Trainer) -> bool:
    """Whether the Trainer restores a checkpoint of the run."""
    return trainer.ckpt_path is not None or bool(trainer._checkpoint_connector._loaded_checkpoint)


def reason_without_probe(trainer: L.Trainer, module: VideoClassifier) -> str | None:
    """Return why no logistic regression can be fitted to the training videos at the start of a run; None if it can."""
    data = evaluation_data(trainer)
    if is_sharded(trainer):
        return "FSDP shards the weights"
    if has_random_backbone(module.network):
        return "the weights of the network are random"
    if module.heads:
        return "the network has several classifiers"
    if module.multi_label:
        return "videos have several labels"
    if data is None:
        return "the videos are not from a data module of this package"
    if len(np.unique(data.datasets["train"].records.labels)) < 2:
        return "the training videos have fewer than 2 classes"
    return None


def fit_probe(trainer: L.Trainer, module: VideoClassifier) -> LinearProbe:
    """Fit a logistic regression to the training videos, one center view of each, with the network as it is.

    All processes must call this. The first process fits it, so that all have exactly the same result. A second call
    returns the result of the first.
    """
    if module.probe is None:
        data = evaluation_data(trainer)
        assert data is not None
        samples = compute_samples(trainer, module, data, "train", (1, 1))
        check_classes(samples)  # in all processes, as an error in the first one only would block the others
        probe = fit_logistic_regression(samples, sum(module.head_sizes)) if trainer.is_global_zero else None
        module.probe = trainer.strategy.broadcast(probe)
    assert module.probe is not None
    return module.probe


def initialize_head(trainer: L.Trainer, module: VideoClassifier) -> None:
    """Set the classifier to the logistic regression, unless the run is resumed or the backbone is random."""
    if is_resumed(trainer):
        return
    reason = reason_without_probe(trainer, module)
    if reason is not None:
        rank_zero_only(log.warning)("head_init=probe is skipped: %s", reason)
        return
    set_classifier(module.network, fit_probe(trainer, module))
    module.untrained = is_untrained(module.network)


def set_classifier(network: VideoNetwork, probe: LinearProbe) -> None:
    """Copy a logistic regression into the classifier of a network, which then counts as trained.

    Raises:
        ConfigError: the classifier is not a linear layer with a bias.
    """
    classifier = network.get_classifier()
    if not isinstance(classifier, torch.nn.Linear) or classifier.bias is None:
        raise ConfigError("A probe needs a network whose classifier is a linear layer with a bias.")
    with torch.no_grad():
        classifier.weight.copy_(probe.weight)
        classifier.bias.copy_(probe.bias)
    network.protocol = replace(network.protocol, temperature=1.0)
    keys = [key for key in network.state_dict() if key.startswith(network.head_prefix)]
    network.report = network.report.with_trained(network, keys)
