"""The error of a load that must fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_zoo import NAMES, cached, files_of

import zoo
from zoo.errors import CheckpointError, DownloadError


def load_error(reason: str | None, message: str, name: str = NAMES["web"]) -> str:
    """Return the message of load()'s error, after checking that no file is cached and no digest recorded.

    Args:
        reason: of a DownloadError; None: a CheckpointError, as the file was downloaded, but is not usable.
        message: a regular expression.
    """
    with pytest.raises(CheckpointError, match=message) as caught:
        zoo.load(name, progress=False)
    assert type(caught.value) is (CheckpointError if reason is None else DownloadError)
    assert getattr(caught.value, "reason", None) == reason
    assert files_of(cached().parent) == []
    assert not (Path(os.environ["TEMPOZOO_CONFIG"]) / "digests.yaml").exists()
    assert "By hand: save " in str(caught.value) or reason is None
    assert str(cached().parent / "published") in str(caught.value) or reason is None
    return str(caught.value)
