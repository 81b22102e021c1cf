"""Log everything but scalars to TensorBoard: graph, hyperparameters, histograms, images, codes."""

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers import TensorBoardLogger
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

    def save(self) -> None:
        self.experiment.flush()


def log_start(writer: SummaryWriter, task: Task, config: dict[str, Any]) -> None:
    """Log the graph of the network, and the hyperparameters; `log_end` adds their results.

    The graph of a network that cannot be traced is left out, with a line that gives the reason.
    """
    example = torch.zeros(1, *task.spec.image_shape).to(next(task.parameters()))
    with evaluating(task), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the graph is drawn by tracing, which torch deprecates
        traced = _traced(task.network, example)
        if traced is not None:
            writer.add_graph(traced, example)
    # The omitted first summary names the columns. TensorBoard would use one run's for all runs;
    # without it, it collects the settings that differ and the results of every experiment.
    _, start, end = hparams(_flat(config), {})  # type: ignore[no-untyped-call]
    file_writer = writer._get_file_writer()  # type: ignore[no-untyped-call]
    for summary in (start, end):
        file_writer.add_summary(summary)


def _traced(network: nn.Module, example: Tensor) -> Any:
    """The network traced on `example`, or None if it cannot be traced."""
    try:
        # By default TensorBoard's writer traces twice more, to compare.
        return torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # of any type, from the network or the tracer
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"TensorBoard's graph is left out: {escape_unprintable(reason)}", flush=True)
        return None


def log_epoch(writer: SummaryWriter, task: Task, data: Data, step: int) -> None:
    """Log weights as histograms; reconstructions or the confusion matrix of val."""
    for name, weight in task.network.named_parameters():
        writer.add_histogram(f"weights/{name}", weight, step)
    if isinstance(task, Reconstruction):
        grid = torch.cat(list(reconstructed(task, data, IMAGES).values()))
        columns = len(grid) // (3 if task.noise else 2)
        writer.add_image("val/reconstructions", _tile(grid, columns), step)
    elif "val/confusion" in task.last_metrics:
        title = f"{task.spec.name}, val: true class down, predicted across"
        counts = task.last_metrics["val/confusion"]
        image = figures.confusion_image(counts, task.spec.class_names, title)
        writer.add_image("val/confusion", image, step, dataformats="HWC")


def log_end(
    writer: SummaryWriter, task: Task, data: Data, results: dict[str, Any], step: int
) -> None:
    """Log the results of the hyperparameters; codes of test with thumbnails and classes.

    The codes are those of an ImageDataModule, whose images are at hand.
    """
    stage, _, name = task.monitor.partition("/")
    if name in results[stage]:
        writer.add_scalar(f"hp/{stage}_{name}", results[stage][name], step)
    if results["test"]:
        writer.add_scalar("hp/test_loss", results["test"]["loss"], step)
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
    writer.flush()


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


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b.c: value`, in the types that TensorBoard accepts.

    Names are those of the command line, without `class_path` and `init_args`: `model.network: MLP`,
    `model.network.hidden: 50`.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict):
            flat |= _flat(value, name)
        elif value is not None:
            flat[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
