"""What `convolution/` has to show of an experiment: `python -m twinloop summary|convolutions`.

It brings data and networks, of which `convolution/` knows nothing.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor, nn

from twinloop.commands import STAND_IN
from twinloop.convolution import page, workbook
from twinloop.convolution.stages import stages_of
from twinloop.convolution.summary import summarise, table
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError, told_as_mistake
from twinloop.experiment import files_of, parse
from twinloop.figures import save
from twinloop.runs.checkpoint import check_fits, read_checkpoint
from twinloop.runs.folder import latest_run, run_of
from twinloop.tasks import Classification, Task

GARMENTS = 6
"""How many classes the figures show a picture of."""
MANY = 1000
"""How many pictures of val the strongest answers are looked up in."""


class Experiment(LightningCLI):
    """An experiment file and its overrides, built and not run."""

    model: Task
    datamodule: ImageDataModule

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            Task,
            ImageDataModule,
            args=args,
            run=False,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The experiment's name, and what the parts learn from each other."""
        parser.add_argument("--experiment", type=str, required=True, help="Its runs' name.")
        parser.add_argument(
            "--output",
            type=Path,
            default=Path("lightning_logs/convolutions"),
            help="The folder that `convolutions` writes to.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=Path | None,
            help="Whose weights `convolutions` shows; those of the latest run if unset.",
        )
        for name in ("--loop", "--run_folder", "--record", "--compile", "--weights"):
            parser.add_argument(name, type=str | None, help="Not used; a run's config.yaml has it.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args` without Lightning's warning that `sys.argv` has them too."""
        self.config = parse(parser, args)

    def instantiate_classes(self) -> None:
        """Make data, task and Trainer; what they refuse is a mistake in the experiment."""
        with told_as_mistake(f"{files_of(self.config)}: cannot be made"):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """One that leaves nothing behind."""
        return super().instantiate_trainer(
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **kwargs,
        )


def run(args: list[str]) -> int:
    """`summary` prints an experiment's network, `convolutions` writes pages about it.

    Returns:
        The exit status, 0.

    Raises:
        UserError: data that cannot be read, or a network that the pages cannot show.
    """
    command, *options = args
    experiment = Experiment(options)
    if experiment.datamodule.is_stand_in:
        print(STAND_IN, flush=True)
    if command == "summary":
        print_summary(experiment)
    else:
        write_convolutions(experiment)
    return 0


def print_summary(experiment: Experiment) -> None:
    """Print each layer of the network: sizes, costs, and what it sees of a picture.

    Raises:
        UserError: a network that does not take pictures of the data set.
    """
    from rich.console import Console
    from rich.measure import Measurement

    spec = experiment.model.spec
    name = f"{experiment.config['experiment']} on {spec.name}"
    with told_as_mistake("model.network"):
        rows = summarise(experiment.model.network, spec.image_shape)
    drawn = table(rows, name)
    console = Console(markup=False, emoji=False)
    # Every column whole, also where the terminal is narrower.
    console.width = Measurement.get(console, console.options.update(width=1000), drawn).maximum
    console.print(drawn, crop=False)


def write_convolutions(experiment: Experiment) -> None:
    """Write figures as PNG, one HTML page with all of them, and a workbook that computes.

    Raises:
        UserError: no classifier, one that is no chain of plain convolutions, or no folder to
            write to.
    """
    task, data, folder = experiment.model, experiment.datamodule, experiment.config["output"]
    if not isinstance(task, Classification):
        raise UserError(
            f"{experiment.config['experiment']} classifies nothing; pass the --config of a "
            "classifier, as experiments/lesson-classifier.yaml"
        )
    try:
        stages_of(task.network, torch.zeros(data.spec.image_shape))
    except ValueError as error:
        raise UserError(f"model.network: {error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: cannot make the folder {folder}: {error.strerror}") from error
    untrained = copy.deepcopy(task.network)
    source = _weigh(experiment)
    network = task.network.eval().cpu()
    images, labels = _val(data)
    names = data.spec.class_names
    accuracy = _accuracy(network, images, labels)
    there = labels.bincount().nonzero().flatten()  # a small val may lack some
    places = torch.linspace(0, len(there) - 1, min(GARMENTS, len(there))).long()
    classes: list[int] = there[places].tolist()
    shown = images[torch.stack([(labels == label).nonzero()[0, 0] for label in classes])]
    sections = page.sections(
        shown, [names[label] for label in classes], images[:MANY], untrained, network
    )
    for section in sections:
        save(section.figure, folder / f"{section.name}.png")
    page.write(
        folder / "convolutions.html",
        sections,
        title=f"Convolutions by hand: {data.spec.name}",
        lead=f"{experiment.config['experiment']} on {data.spec.name}, with the weights of "
        f"{source}: right on {accuracy:.1%} of {len(images):,} pictures of val. All pictures here "
        "are of val too. The same network as a spreadsheet is convolutions.xlsx beside this page.",
        model=network,
        image=shown[-1],
        class_names=names,
    )
    workbook.write(folder / "convolutions.xlsx", network, shown[-1], names)
    print(f"{accuracy:.1%} of val right, with the weights of {source}")
    print(f"figures: {', '.join(f'{section.name}.png' for section in sections)}")
    print(f"convolutions.html, convolutions.xlsx and the figures: {folder}")


def _weigh(experiment: Experiment) -> str:
    """Give the network its weights, and say whose: a checkpoint's, or those it is trained to here.

    Raises:
        UserError: no checkpoint at `--ckpt_path`, or one of another network.
    """
    task, path = experiment.model, experiment.config["ckpt_path"]
    logs = Path(experiment.trainer.default_root_dir) / "lightning_logs"
    if path is None:
        try:
            run_folder = latest_run(
                logs, experiment.config["experiment"], experiment.datamodule.spec
            )
        except UserError:  # none yet
            experiment.trainer.fit(task, datamodule=experiment.datamodule)
            return f"{experiment.trainer.global_step} steps of training"
        path = run_folder / "checkpoints" / "best.ckpt"
    checkpoint = read_checkpoint(path)
    check_fits(checkpoint, task, path)
    task.load_state_dict(checkpoint["state_dict"])
    return f"{run_of(path).parent.name}/{run_of(path).name}"


def _val(data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """All pictures of val `[N, C, H, W]` in [0, 1], and their labels; test is left alone."""
    rows = data.rows["val"] if len(data.rows["val"]) else data.rows["train"]
    return data.data.train.images[rows].float() / 255, data.data.train.labels[rows]


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())
