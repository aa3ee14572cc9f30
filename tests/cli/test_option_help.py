"""`tempozoo fit --data.help CLASS` and `--model.help CLASS` describe every option."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentParser

import datamodules
import lit_modules

BASE_CLASSES = (datamodules.VideoDataModule, lit_modules.VideoClassifier)
PUBLIC = [getattr(package, name) for package in (datamodules, lit_modules) for name in package.__all__]
CLASSES = [value for value in PUBLIC if isinstance(value, type) and issubclass(value, BASE_CLASSES)]


@pytest.mark.parametrize("cls", CLASSES, ids=[cls.__name__ for cls in CLASSES])
def test_every_option_has_help(cls: type) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(cls, "x")
    actions = [action for action in parser._actions if action.dest.startswith("x.")]
    options = {action.dest for action in actions}
    options_of_base_classes = {"x.batch_size", "x.num_workers"}, {"x.optimizer.lr", "x.schedule.gamma"}
    assert any(inherited < options for inherited in options_of_base_classes)
    assert [action.dest for action in actions if not (action.help and action.help.strip())] == []


def test_classes_of_both_packages_are_covered() -> None:
    names = {cls.__name__ for cls in CLASSES}
    assert {"VideoDataModule", "VideoList", "Kinetics", "VideoClassifier", "TANet"} < names
