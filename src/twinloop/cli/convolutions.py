"""`python -m twinloop convolutions`: figures, a page and a workbook of a classifier's layers."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn

from twinloop.cli.parser import Experiment
from twinloop.convolution import page, workbook
from twinloop.convolution.stages import stages_of
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.figures import save
from twinloop.loops.lightning import bare_trainer
from twinloop.runs.checkpoint import check_fits, read_checkpoint
from twinloop.runs.folder import checkpoint_of, latest_run, run_of
from twinloop.tasks import Classification

CLASSES = 6
"""How many classes the figures show an image of, at most."""
SEARCHED = 1000
"""How many images of val are searched for the strongest activations."""


class ExperimentWithOutput(Experiment):
    """An experiment, and the folder to write to."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--output",
            type=Path,
            default=Path("lightning_logs/convolutions"),
            help="The folder to write to.",
        )


def main(args: list[str]) -> int:
    """Write figures as PNG, one HTML page with all of them, and a workbook with formulas.

    Raises:
        UserError: not a classifier, not a chain of plain convolutions, or an invalid folder.
    """
    experiment = ExperimentWithOutput(args)
    task, data, folder = experiment.task, experiment.data, experiment.config.output
    _check(experiment, folder)
    assert isinstance(data, ImageDataModule)
    untrained = copy.deepcopy(task.network)
    source = _load_weights(experiment)
    network = task.network.eval().cpu()
    images, labels = _val(data)
    accuracy = _accuracy(network, images, labels)
    lead = (
        f"{experiment.name} on {data.spec.name}, with the weights of {source}: accuracy "
        f"{accuracy:.1%} on {len(images):,} images of val. The images shown are of val too. "
        "The same network as a spreadsheet is convolutions.xlsx beside this page."
    )
    names = data.spec.class_names
    shown, captions = _one_of_each_class(images, labels, names)
    sections = page.sections(shown, captions, images[:SEARCHED], untrained, network)
    for section in sections:
        save(section.figure, folder / f"{section.name}.png")
    page.write(
        folder / "convolutions.html",
        sections,
        title=f"Convolutions by hand: {data.spec.name}",
        lead=lead,
        model=network,
        image=shown[-1],
        class_names=names,
    )
    workbook.write(folder / "convolutions.xlsx", network, shown[-1], names)
    print(f"accuracy {accuracy:.1%} on val, with the weights of {source}")
    print(f"figures: {', '.join(f'{section.name}.png' for section in sections)}")
    print(f"convolutions.html, convolutions.xlsx and the figures: {folder}")
    return 0


def _check(experiment: Experiment, folder: Path) -> None:
    """Check the network and make the folder, before anything is trained."""
    if not isinstance(experiment.task, Classification):
        raise UserError(
            f"{experiment.name} is not a classifier; pass the --config of one, "
            "such as experiments/lesson-classifier.yaml"
        )
    if not isinstance(experiment.data, ImageDataModule):
        raise UserError("the figures are of the images of an ImageDataModule; data is of your own")
    try:
        stages_of(experiment.task.network, torch.zeros(experiment.data.spec.image_shape))
    except ValueError as error:
        raise UserError(f"model.network: {error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: cannot make the folder {folder}: {error.strerror}") from error


def _one_of_each_class(
    images: Tensor, labels: Tensor, names: Sequence[str]
) -> tuple[Tensor, list[str]]:
    """The first image of a few evenly spaced classes, and the names of these classes."""
    present = labels.bincount().nonzero().flatten()  # a small val may lack some
    chosen = torch.linspace(0, len(present) - 1, min(CLASSES, len(present))).long()
    classes: list[int] = present[chosen].tolist()
    shown = images[torch.stack([(labels == label).nonzero()[0, 0] for label in classes])]
    return shown, [names[label] for label in classes]


def _load_weights(experiment: Experiment) -> str:
    """Load the weights of a checkpoint, or train if there is none; return the source of them.

    Raises:
        UserError: no checkpoint at `--ckpt_path`, or one of another network.
    """
    task, path = experiment.task, experiment.checkpoint(default=None)
    if path is None:
        try:
            path = checkpoint_of(latest_run(experiment.logs, experiment.name, experiment.data.spec))
        except UserError:  # no run yet
            trainer = bare_trainer(experiment.flags)
            data: Any = experiment.data
            trainer.fit(task, datamodule=data)
            return f"{trainer.global_step} steps of training"
    checkpoint = read_checkpoint(path)
    check_fits(checkpoint, task, path)
    task.load_state_dict(checkpoint["state_dict"])
    return f"{run_of(path).parent.name}/{run_of(path).name}"


def _val(data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """All images of val `[N, C, H, W]` in [0, 1], and their labels."""
    rows = data.rows["val"] if len(data.rows["val"]) else data.rows["train"]
    return data.data.train.images[rows].float() / 255, data.data.train.labels[rows]


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())
