"""Images of the report in TensorBoard and Weights & Biases."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lit_modules.mistakes import find_mistakes, parse_source, read_predictions
from lit_modules.report import Head, classifier, confusion_figure, list_heads
from lit_modules.run_file_names import VALIDATION, table_file
from lit_modules.run_record import read_record

Images = dict[str, tuple[np.ndarray, str]]  # title -> image uint8 (H, W, 3), caption


class ReportImages(Callback):
    """Logs the confusion matrix and the film strips of the most confident mistakes when ``fit`` ends.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the images to TensorBoard and Weights & Biases if the run uses them."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, (TensorBoardLogger, WandbLogger))]
        if not loggers or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        try:
            images = report_images(self.folder, list_heads(classifier(pl_module).network))
            for logger in loggers:
                log_images(logger, images, trainer.global_step)
        except Exception as error:  # the run is complete
            warnings.warn(f"The images of the report were not logged: {error}", stacklevel=2)


def report_images(folder: Path, heads: list[Head]) -> Images:
    """Return the confusion matrix of each head and the film strips of a run's validation.

    Args:
        folder: folder of the run.
        heads: classifiers of the network.
    """
    from lit_modules.html_report.film_strips import film_strip
    from lit_modules.html_report.run_files import parse_confusion

    record, images = read_record(folder), {}
    if not record.get("validation"):
        return {}
    rows = read_predictions(folder / VALIDATION)
    for head, names, _ in heads:
        path = folder / VALIDATION / table_file("confusion", head)
        if not path.exists():  # several labels per video
            continue
        images[path.stem] = (figure_pixels(confusion_figure(parse_confusion(path), names)), "rows: true classes")
    sources = record["validation"]["sources"]
    if sources is None:  # generated clips, whose videos would mislead
        return images
    mistakes, _ = find_mistakes(rows, bool(record.get("multi_label")))
    for number, mistake in enumerate(mistakes, start=1):
        answer = next(answer for answer in mistake.answers if not answer.correct)
        source = parse_source(mistake.name, sources.get(mistake.name))
        strip = film_strip(source, answer.predicted)
        if strip.image is not None:
            caption = f"{answer.true} predicted as {answer.predicted} ({100 * answer.score:.1f} %)"
            images[f"mistake {number}"] = (strip.image, caption)
    return images


def figure_pixels(figure: Any) -> np.ndarray:
    """Draw a matplotlib figure, uint8 ``(H, W, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def log_images(logger: TensorBoardLogger | WandbLogger, images: Images, step: int) -> None:
    """Log images at a step. TensorBoard has the captions as texts."""
    for title, (image, caption) in images.items():
        key = f"report/{title}"
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [image], step, caption=[caption])
        else:
            logger.experiment.add_image(key, image, step, dataformats="HWC")
            logger.experiment.add_text(key, caption, step)
