"""What TensorBoard shows of a run besides its scalars. Called by either loop."""

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import escape_unprintable
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs.evaluation import evaluating
from twinloop.tasks import Reconstruction, Task

IMAGES = 8
"""How many images of val stand beside their reconstructions."""
PROJECTED = 500
"""How many codes of test are in the projector."""


class RunLogger(TensorBoardLogger):
    """Lightning's logger without its hparams.yaml: config.yaml has every setting of a run.

    Args:
        folder: The folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        # Lightning puts the three together again.
        super().__init__(folder.parent, name="", version=folder.name, default_hp_metric=False)

    def save(self) -> None:
        """Bring to disk what was logged."""
        self.experiment.flush()


def log_start(writer: SummaryWriter, task: Task, config: dict[str, Any]) -> None:
    """The graph of the network, and the hyperparameters; `log_end` adds their results.

    A network that cannot be traced is left out, and a line says why.
    """
    example = torch.zeros(1, *task.spec.image_shape).to(next(task.parameters()))
    with evaluating(task), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the graph is drawn by tracing, which torch deprecates
        traced = _traced(task.network, example)
        if traced is not None:
            writer.add_graph(traced, example)
    # The summary left out would name the columns. TensorBoard takes one run's for all runs; without
    # it, it collects the settings that differ and the results of every experiment.
    _, start, end = hparams(_flat(config), {})  # type: ignore[no-untyped-call]
    file_writer = writer._get_file_writer()  # type: ignore[no-untyped-call]
    for summary in (start, end):
        file_writer.add_summary(summary)


def _traced(network: nn.Module, example: Tensor) -> Any:
    """The network as `example` goes through it, or None where it cannot be traced."""
    try:
        # Left to itself, TensorBoard's writer has it traced twice more, to compare.
        return torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # of any type: it is the network's own, or the tracer's
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"TensorBoard's graph is left out: {escape_unprintable(reason)}", flush=True)
        return None


def log_epoch(writer: SummaryWriter, task: Task, data: ImageDataModule, step: int) -> None:
    """Weights as histograms; reconstructions or the confusion matrix of val."""
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
    writer: SummaryWriter, task: Task, data: ImageDataModule, results: dict[str, Any], step: int
) -> None:
    """The results of the hyperparameters, and the codes of test with thumbnails and classes."""
    stage, _, name = task.monitor.partition("/")
    if name in results[stage]:
        writer.add_scalar(f"hp/{stage}_{name}", results[stage][name], step)
    if results["test"]:
        writer.add_scalar("hp/test_loss", results["test"]["loss"], step)
    if isinstance(task.network, Autoencoder):
        # Spread over the whole split, which may be sorted by class.
        rows = torch.linspace(0, len(data.data.test) - 1, min(PROJECTED, len(data.data.test)))
        images = data.data.test.images[rows.long()].float() / 255
        labels = data.data.test.labels[rows.long()]
        with evaluating(task), torch.no_grad():
            codes = task.network.encode(images.to(next(task.parameters()))).flatten(1).float()
        names = [task.spec.class_names[label] if label >= 0 else "" for label in labels]
        # The projector cuts its sheet of thumbnails into squares.
        side = max(images.shape[2:])
        images = F.pad(images, (0, side - images.shape[3], 0, side - images.shape[2]))
        writer.add_embedding(codes.cpu(), names, images, step, "codes")
    writer.flush()


def reconstructed(task: Reconstruction, data: ImageDataModule, count: int) -> dict[str, Tensor]:
    """The first images of val, with noise if the task has any, and what comes out: `[N, ...]`."""
    rows = data.rows["val"] if len(data.rows["val"]) else data.rows["train"]
    images = data.data.train.images[rows[:count]].to(next(task.parameters())) / 255
    with evaluating(task), torch.no_grad():
        inputs, targets = task.inputs_and_targets((images, images.new_zeros(len(images)).long()))
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
    """Nested settings as `a.b.c: value`, values in the types that TensorBoard takes.

    A class is called by the name of its place, as on the command line: `model.network: MLP` and
    `model.network.hidden: 50`, without `class_path` and `init_args`.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict):
            flat |= _flat(value, name)
        elif value is not None:
            flat[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
