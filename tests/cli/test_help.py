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
    options = set(parser.add_class_arguments(one, "x"))
    assert {"x.batch_size", "x.clips"} < options or {
        "x.optimizer.lr",
        "x.schedule.gamma",
    } < options  # those of the base as well
    helped = {action.dest for action in parser._actions if action.help and action.help.strip()}
    assert options - helped == set()


def test_all_classes_are_asked():
    assert {"VideoDataModule", "VideoList", "Kinetics", "VideoClassifier", "TANet"} < {one.__name__ for one in CLASSES}
