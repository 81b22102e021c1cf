"""Parse an experiment file and its overrides, and build its parts, by the only LightningCLI."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from twinloop.cli.experiment import files_of, parse, read_experiment
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, as_user_error
from twinloop.files import expanded
from twinloop.loops import Loop
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.folder import latest_run
from twinloop.tasks import Task

STAND_IN = """
************************************************************************
*  NOT FASHION-MNIST: the Hub does not respond, its cache is empty.    *
*  This run uses scikit-learn's small handwritten digits instead.      *
*  For the real data: make ... DATA=FOLDER, or try again with network. *
************************************************************************
"""
PATHS = ("trainer.default_root_dir", "data.cache_dir", "ckpt_path", "run_folder", "weights")
"""Settings in which `~` and `$NAME` are written out; `data.source` and `data.images` do so."""
KEYWORDS = ("last", "best")
"""Names of checkpoints of the latest run, for `--ckpt_path`."""

OPTIONS: dict[str, tuple[Any, str | None, str]] = {
    "--loop": (
        Loop,
        "lightning",
        "Which loop trains: Lightning's Trainer or the homemade Learner, to the same weights.",
    ),
    "--compile": (
        Literal["no", "default", "reduce-overhead", "max-autotune"],
        "no",
        "Compile the network by torch.compile, in this mode.",
    ),
    "--ckpt_path": (
        str | Path | None,  # an empty one is no path
        None,
        "A checkpoint, or `last` or `best` of the latest run: fit resumes from it, other commands "
        "use its weights.",
    ),
    # torchrun would take --run for one of its own options.
    "--run_folder --run": (
        str | Path | None,
        None,
        "The folder of the run; by default a new one, or that of the run that is resumed.",
    ),
    "--weights": (
        str | Path | None,
        None,
        "Start a new run from the weights of this checkpoint, or of the best one in this run "
        "folder. Tensors of other names or shapes keep their initial values.",
    ),
    "--record": (
        Literal["no", "times", "all"],
        "no",
        "Record the time of every event, or the times and every value, for a comparison.",
    ),
}
"""Type, default and help of our own options; every command takes those in a run's config.yaml."""


class Experiment(LightningCLI):
    """An experiment: its data, its task and the flags of the Trainer.

    Args:
        args: The options of the command line.
        spec_of: Returns the DataSpec of the task; by default it is that of the data.

    Raises:
        UserError: an invalid file or option.
    """

    def __init__(
        self, args: list[str], spec_of: "Callable[[Experiment], DataSpec] | None" = None
    ) -> None:
        self.spec_of = spec_of
        super().__init__(
            Task,
            ImageDataModule,
            args=args,
            run=False,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "log_every_n_steps": 10,
            },
            # Errors are reported by the command, and options cannot be abbreviated.
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--experiment", type=str, required=True, help="Runs are kept under this name."
        )
        for option, (kind, default, text) in OPTIONS.items():
            parser.add_argument(*option.split(), type=kind, default=default, help=text)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments(
            "data", "model.init_args.spec", compute_fn=self._spec, apply_on="instantiate"
        )

    def _spec(self, data: ImageDataModule) -> DataSpec:
        if data.is_stand_in:
            print(STAND_IN, flush=True)
        self.data = data
        return self.spec_of(self) if self.spec_of else data.spec

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args`, without Lightning's warning about `sys.argv`.

        Raises:
            UserError: an invalid file, or a seed of the data that would not be used.
        """
        self.config = parse(parser, args)
        for name in PATHS:
            if (path := self.config.get(name)) is not None:
                self.config[name] = expanded(path) if str(path) else None
        for file in self.config.config or ():
            data = read_experiment(Path(str(file))).get("data")
            seeds = (None, self.config.seed_everything)
            if isinstance(data, dict) and data.get("seed") not in seeds:
                raise UserError(f"{file}: data.seed is set by seed_everything; set that instead")

    def instantiate_classes(self) -> None:
        """Build data, task, and the classes that the Trainer's flags name, but no Trainer."""
        with self.user_errors():
            self.config_init = self.parser.instantiate_classes(self.config)
        self.data, self.task = self.config_init.data, self.config_init.model
        self.flags: dict[str, Any] = vars(self.config_init.trainer)

    def user_errors(self) -> Any:
        """A context in which any exception becomes a UserError that names the files."""
        return as_user_error(f"{files_of(self.config)}: cannot be built")

    @property
    def name(self) -> str:
        return str(self.config.experiment)

    @property
    def logs(self) -> Path:
        """The folder of all runs."""
        return Path(self.config.trainer.default_root_dir or ".") / "lightning_logs"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings in plain types."""
        settings: dict[str, Any] = json.loads(self.parser.dump(self.config, format="json"))
        return settings

    def as_yaml(self) -> str:
        """The experiment as YAML, without the options of one run: its folder and checkpoint."""
        config = self.config.clone()
        config.run_folder = config.ckpt_path = None
        return str(self.parser.dump(config, skip_none=False))

    def checkpoint(self, default: str | None) -> Path | None:
        """The path of `--ckpt_path`: a file, or `last` or `best` of the latest run.

        Args:
            default: The value if the option is not given. A default of `best` is of the run whose
                config.yaml is the experiment, or else of the latest run.

        Raises:
            UserError: there is no such run.
        """
        name, run = str(self.config.ckpt_path or ""), None
        if not name:
            if default is None:
                return None
            name, run = default, self._own_run()
        if name not in KEYWORDS:
            return Path(name)
        run = run or latest_run(self.logs, self.name, self.data.spec)
        return best_of(run) if name == "best" else run / "checkpoints" / "last.ckpt"

    @cached_property
    def trained(self) -> tuple[Path, dict[str, Any]]:
        """The path and content of the checkpoint of `--ckpt_path`, by default the best.

        Raises:
            UserError: there is none, or it is invalid.
        """
        path = self.checkpoint(default="best")
        assert path is not None
        return path, read_checkpoint(path)

    def _own_run(self) -> Path | None:
        """The run whose config.yaml is the experiment."""
        folders = [Path(str(file)).parent for file in self.config.config or ()]
        return next((folder for folder in folders if (folder / "checkpoints").is_dir()), None)


def best_of(run: Path) -> Path:
    """The best checkpoint of a run, or its last one if nothing was validated."""
    best = run / "checkpoints" / "best.ckpt"
    return best if best.is_file() else best.with_name("last.ckpt")
