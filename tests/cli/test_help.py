"""`tempozoo fit --data.help CLASS` and `--model.help CLASS` say what every option is."""

import pytest
from jsonargparse import ArgumentParser

import datamodules
import lit_modules

MODULES = (datamodules.VideoDataModule, lit_modules.VideoClassifier)
PUBLIC = [vars(module)[name] for module in (datamodules, lit_modules) for name in module.__all__]
CLASSES = [one for one in PUBLIC if isinstance(one, type) and issubclass(one, MODULES)]


@pytest.mark.parametrize("one", CLASSES, ids=[one.__name__ for one in CLASSES])
def test_every_option_has_help(one):
    parser = ArgumentParser()
    parser.add_class_arguments(one, "x")
    actions = [action for action in parser._actions if action.dest.startswith("x.")]
    options = {action.dest for action in actions}
    assert {"x.batch_size", "x.clips"} < options or {"x.optimizer.lr", "x.schedule.gamma"} < options  # of the base
    assert [action.dest for action in actions if not (action.help and action.help.strip())] == []


def test_all_classes_are_asked():
    assert {"VideoDataModule", "VideoList", "Kinetics", "VideoClassifier", "TANet"} < {one.__name__ for one in CLASSES}
