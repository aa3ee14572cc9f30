"""Checks of the options that all data sets share."""

from __future__ import annotations

import math

from zoo.errors import ConfigError
from zoo.protocol import CHOICES, CROPS
from zoo.video.names import DECODERS

BALANCES = ("none", "sampler", "loss")


def check_options(
    *,
    num_workers: int | None,
    batch_size: int,
    repeats: int,
    clips: int | None,
    crops: int | None,
    augment: str | None,
    decoder: str,
    erasing: float,
    max_missing: float,
    max_bad_fraction: float,
    color_jitter: float,
    time_limit: float | None,
    balance: str,
) -> None:
    """Check the options of ``VideoDataModule``.

    Raises:
        ConfigError: a value is out of range or not among the choices.
    """
    if num_workers is not None and num_workers < 0:
        raise ConfigError(f"num_workers is {num_workers}; it must be at least 0.")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    if repeats < 1 or batch_size % repeats:
        raise ConfigError(f"repeats is {repeats}; it must be at least 1 and divide batch_size, {batch_size}.")
    if clips is not None and clips < 1:
        raise ConfigError(f"clips is {clips}; it must be at least 1.")
    if crops is not None and crops not in CROPS:
        raise ConfigError(f"crops is {crops}; choose from {', '.join(map(str, CROPS))}.")
    if augment is not None and augment not in CHOICES["augment"]:
        raise ConfigError(f"augment is {augment!r}; choose from {', '.join(CHOICES['augment'])}.")
    if balance not in BALANCES:
        raise ConfigError(f"balance is {balance!r}; choose from {', '.join(BALANCES)}.")
    if decoder not in DECODERS:
        raise ConfigError(f"decoder is {decoder!r}; choose from {', '.join(DECODERS)}.")
    for name, value in (("erasing", erasing), ("max_missing", max_missing), ("max_bad_fraction", max_bad_fraction)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; it must be from 0 to 1.")
    if not 0 <= color_jitter < math.inf:
        raise ConfigError(f"color_jitter is {color_jitter}; it must be at least 0.")
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise ConfigError(f"time_limit is {time_limit}; it must be above 0 seconds, or null for none.")
