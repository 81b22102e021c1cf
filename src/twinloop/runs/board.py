"""Log everything but the scalars of training: hyperparameters, images, results.

TensorBoard also has the graph, histograms of the weights, and codes.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop import figures
from twinloop.data.columns import UNLABELLED
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.protocol import Data
from twinloop.errors import escape_unprintable
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs.evaluation import evaluating
from twinloop.runs.settings import flat_settings, varied
from twinloop.tasks import Reconstruction, Task

IMAGES = 8
"""How many images of val are shown with their reconstructions."""
PROJECTED = 500
"""How many codes of test are in the projector, at most."""


class RunLogger(TensorBoardLogger):
    """Lightning's logger to the folder of a run, without an hparams.yaml beside config.yaml."""

    def __init__(self, folder: Path) -> None:
        # Lightning joins root, name and version to the path of the folder.
        super().__init__(folder.parent, name="", version=folder.name, default_hp_metric=False)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values by name, but for `epoch`, which Lightning adds: it would draw a chart."""
        super().log_metrics({k: value for k, value in metrics.items() if k != "epoch"}, step)

    def save(self) -> None:
        self.experiment.flush()


def log_start(
    loggers: Sequence[Logger], task: Task, config: dict[str, Any], *, resumed: bool = False
) -> None:
    """Log all settings; to TensorBoard those that users vary, and the graph, unless `resumed`.

    The graph of a network that cannot be traced is left out, with a line that gives the reason.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(_plain(dict(flat_settings(config))))
        elif not resumed:
            _start_tensorboard(logger.experiment, task, config)


def _start_tensorboard(writer: SummaryWriter, task: Task, config: dict[str, Any]) -> None:
    """Write the graph, and the hyperparameters; `log_end` adds their results."""
    example = torch.zeros(1, *task.spec.image_shape).to(next(task.parameters()))
    with evaluating(task), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the graph is drawn by tracing, which torch deprecates
        traced = _traced(task.network, example)
        if traced is not None:
            writer.add_graph(traced, example)
    # The omitted first summary names the columns. TensorBoard would use one run's for all runs;
    # without it, it collects the settings that differ and the results of every experiment.
    _, start, end = hparams(_plain(varied(config)), {})  # type: ignore[no-untyped-call]
    file_writer = writer._get_file_writer()  # type: ignore[no-untyped-call]
    for summary in (start, end):
        file_writer.add_summary(summary)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in the types that TensorBoard accepts."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
    }


def _traced(network: nn.Module, example: Tensor) -> Any:
    """The network traced on `example`, or None if it cannot be traced."""
    try:
        # By default TensorBoard's writer traces twice more, to compare.
        return torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # of any type, from the network or the tracer
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"TensorBoard's graph is left out: {escape_unprintable(reason)}", flush=True)
        return None


def log_epoch(
    loggers: Sequence[Logger], task: Task, data: Data, step: int, measured: Mapping[str, float]
) -> None:
    """Log reconstructions or the confusion matrix of val, and what was `measured` of the loop.

    TensorBoard gets the weights as histograms too.
    """
    image = _image(task, data) if loggers else None
    for logger in loggers:
        if measured:
            logger.log_metrics(dict(measured), step)
        if isinstance(logger, TensorBoardLogger):
            for name, weight in task.network.named_parameters():
                logger.experiment.add_histogram(f"weights/{name}", weight, step)
        if image:
            _log_image(logger, *image, step)


def _image(task: Task, data: Data) -> tuple[str, np.ndarray] | None:
    """The name and pixels of the image of an epoch, uint8 `[H, W, C]`; None if it has none."""
    if isinstance(task, Reconstruction):
        grid = torch.cat(list(reconstructed(task, data, IMAGES).values()))
        tiled = _tile(grid, len(grid) // (3 if task.noise else 2)).permute(1, 2, 0)
        return "val/reconstructions", (tiled * 255).byte().numpy()
    if "val/confusion" in task.last_metrics:
        title = f"{task.spec.name}, val: true class down, predicted across"
        counts = task.last_metrics["val/confusion"]
        return "val/confusion", figures.confusion_image(counts, task.spec.class_names, title)
    return None


def _log_image(logger: Logger, name: str, image: np.ndarray, step: int) -> None:
    """Log an image if the logger has images: `log_image` is the method of W&B's."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, image, step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, image, key=name, step=step)
    elif hasattr(logger, "log_image"):
        logger.log_image(name, [image], step)


def log_end(
    loggers: Sequence[Logger],
    task: Task,
    data: Data,
    results: dict[str, Any],
    step: int,
) -> None:
    """Log the results of the best checkpoint, at its step: of test, and of its monitored metric.

    In TensorBoard their names come first, among the metrics that its table of HPARAMS opens with.
    """
    stage, _, name = task.monitor.partition("/")
    best = results[stage].get(name)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            pairs = ((stage, name), ("test", name), ("test", "loss"))
            chosen = {f"hp/{part}_{metric}": results[part].get(metric) for part, metric in pairs}
            logger.log_metrics({k: value for k, value in chosen.items() if value is not None}, step)
            _log_codes(logger.experiment, task, data, step)
        else:
            final = {f"test/{k}": v for k, v in results["test"].items() if isinstance(v, float)}
            logger.log_metrics(
                final | ({} if best is None else {f"{task.monitor}_best": best}), step
            )
        logger.save()


def _log_codes(writer: SummaryWriter, task: Task, data: Data, step: int) -> None:
    """Write the codes of test to TensorBoard, with thumbnails and classes.

    They are those of an ImageDataModule, whose images are at hand.
    """
    if isinstance(task.network, Autoencoder) and isinstance(data, ImageDataModule):
        # Evenly spaced, since the split may be sorted by class.
        rows = torch.linspace(0, len(data.data.test) - 1, min(PROJECTED, len(data.data.test)))
        images = data.data.test.images[rows.long()].float() / 255
        labels = data.data.test.labels[rows.long()]
        with evaluating(task), torch.no_grad():
            codes = task.network.encode(images.to(next(task.parameters()))).flatten(1).float()
        classes = labels if labels.ndim == 1 else torch.full([len(labels)], UNLABELLED)
        names = [task.spec.class_names[label] if label >= 0 else "" for label in classes]
        # The projector requires square thumbnails.
        side = max(images.shape[2:])
        images = F.pad(images, (0, side - images.shape[3], 0, side - images.shape[2]))
        writer.add_embedding(codes.cpu(), names, images, step, "codes")


def reconstructed(task: Reconstruction, data: Data, count: int) -> dict[str, Tensor]:
    """The first images of val, with noise if the task has any, and reconstructed: `[N, ...]`."""
    batch = move_data_to_device(data.examples(count), task.device)
    with evaluating(task), torch.no_grad():
        inputs, targets = task.inputs_and_targets(batch)
        outputs = task(inputs)
    given = {"original": targets, "with noise": inputs} if task.noise else {"original": targets}
    return {
        name: part.float().cpu() for name, part in (given | {"reconstruction": outputs}).items()
    }


def _tile(images: Tensor, columns: int, scale: int = 3) -> Tensor:
    """`[N, C, H, W] -> [C, rows * H, columns * W]`, each pixel `scale` times as large."""
    _, channels, height, width = images.shape
    grid = images.clamp(0, 1).view(-1, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    grid = grid.reshape(channels, -1, columns * width)
    return grid.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
