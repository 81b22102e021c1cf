"""What `convolution/` has to show of an experiment: it brings data and networks to its pages."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from twinloop.convolution.summary import summarise, table
from twinloop.data.datamodule import ImageDataModule
from twinloop.tasks import Task


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
        parser.add_argument("--experiment", type=str, required=True, help="The name of it.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args` without Lightning's warning that `sys.argv` has them too."""
        self.config = parser.parse_args(args)

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


def print_summary(args: list[str]) -> None:
    """Print each layer of an experiment's network: sizes, costs, and what it sees of a picture.

    Raises:
        UserError: data that cannot be read.
    """
    from rich.console import Console
    from rich.measure import Measurement

    experiment = Experiment(args)
    spec = experiment.model.spec
    name = f"{experiment.config['experiment']} on {spec.name}"
    drawn = table(summarise(experiment.model.network, spec.image_shape), name)
    console = Console()
    # Every column whole, also where the terminal is narrower.
    console.width = Measurement.get(console, console.options.update(width=1000), drawn).maximum
    console.print(drawn, crop=False)
