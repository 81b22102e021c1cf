"""Parse an experiment file and its overrides, and build its parts, by the only LightningCLI."""

import json
from collections.abc import Callable, Container, Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from twinloop.cli.experiment import (
    expand_paths,
    files_of,
    local_file,
    parse,
    read_experiment,
)
from twinloop.cli.precision import resolved
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.own import as_data
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, as_user_error
from twinloop.learner import Callback
from twinloop.loops import Loop
from twinloop.processes import is_first
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.folder import checkpoint_of, latest_run
from twinloop.tasks import Task

STAND_IN = """
************************************************************************
*  NOT FASHION-MNIST: the Hub does not respond, its cache is empty.    *
*  This run uses scikit-learn's small handwritten digits instead.      *
*  For the real data: make ... DATA=FOLDER, or try again with network. *
************************************************************************
"""
IMAGES = "twinloop.data.datamodule.ImageDataModule"
"""The class of the data where an experiment names none."""
SEEDED = ("--data.seed", "--data.init_args.seed")
"""Options that another one sets."""
KEYWORDS = ("last", "best")
"""Names of checkpoints of the latest run, for `--ckpt_path`."""

OPTIONS: dict[str, tuple[Any, str | int | list[str] | None, str]] = {
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
        "use its weights, or the best ones of a run's folder.",
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
        "Start a new run from the weights of this checkpoint, or of the best one in this folder of "
        "a run or an export. Tensors of other names or shapes keep their initial values.",
    ),
    "--tags": (list[str], [], "Words to find the run by, in results.json and TensorBoard."),
    "--notes": (str | None, None, "A text about the run, in results.json and TensorBoard."),
    "--seeds": (
        PositiveInt,
        1,
        "How many runs fit trains, of seeds counting up from seed_everything; it then prints their "
        "mean and spread. --ckpt_path last resumes the latest such series.",
    ),
    "--record": (
        Literal["no", "times", "all"],
        "no",
        "Record the time of every event, or the times and every value, for a comparison.",
    ),
}
"""Type, default and help of our own options; every command takes those in a run's config.yaml."""


class _Trainer(Trainer):
    """The Trainer's flags for the parser, with callbacks of either loop, and precision `auto`."""

    def __init__(
        self,
        *,
        callbacks: list[LightningCallback | Callback] | LightningCallback | Callback | None = None,
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        **flags: Any,
    ) -> None:
        super().__init__(callbacks=callbacks, precision=precision, **flags)  # type: ignore[arg-type]


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
            LightningDataModule,
            trainer_class=_Trainer,
            args=args,
            run=False,
            subclass_mode_model=True,
            subclass_mode_data=True,
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
        parser.set_defaults({"data": {"class_path": IMAGES}})
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.link_arguments(
            "data", "model.init_args.spec", compute_fn=self._spec, apply_on="instantiate"
        )

    def _spec(self, data: LightningDataModule) -> DataSpec:
        if getattr(data, "is_stand_in", False):
            print(STAND_IN, flush=True)
        self.data = as_data(data, int(self.config.seed_everything))
        return self.spec_of(self) if self.spec_of else self.data.spec

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args`, without Lightning's warning about `sys.argv`.

        Raises:
            UserError: an invalid file, or a seed of the data that would not be used.
        """
        self.config = parse(parser, args)
        if self.config.config and local_file() and is_first():
            print(f"settings of {local_file()} apply", flush=True)
        expand_paths(self.config)
        trainer = self.config.trainer
        trainer.precision = resolved(trainer.precision, trainer.accelerator)
        given = given_of_data(self.config, [str(arg) for arg in args])
        if self.config.data.class_path != IMAGES:
            restore_defaults(self.config.data, given)

    def instantiate_classes(self) -> None:
        """Build data, task, and the classes that the Trainer's flags name, but no Trainer.

        Loggers are built where a run begins, see `twinloop.cli.loggers`.
        """
        config = self.config.clone()
        config.trainer.logger = None
        self.config_dump = self._dumped(skip_link_targets=False, skip_unset=False)
        with self.user_errors():
            self.config_init = self.parser.instantiate_classes(config)
        self.task = self.config_init.model
        if not hasattr(self, "data"):  # a task without `spec`
            self._spec(self.config_init.data)
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
        settings = self._dumped()
        if settings["data"]["class_path"] == IMAGES:
            settings["data"] = settings["data"]["init_args"]
        return settings

    def as_yaml(self) -> str:
        """The experiment as YAML, without the options of one run: its folder and checkpoint."""
        config = self.config.clone()
        config.run_folder = config.ckpt_path = None
        return str(self.parser.dump(config, skip_unset=False, skip_validation=True))

    def _dumped(self, **options: bool) -> dict[str, Any]:
        """The settings as the parser dumps them, who has validated them already."""
        text = self.parser.dump(self.config, format="json", skip_validation=True, **options)
        return dict(json.loads(text))

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
        return checkpoint_of(run) if name == "best" else run / "checkpoints" / "last.ckpt"

    @cached_property
    def trained(self) -> tuple[Path, dict[str, Any]]:
        """The path and content of the checkpoint of `--ckpt_path`, by default the best.

        Raises:
            UserError: there is none, or it is invalid.
        """
        path = self.checkpoint(default="best")
        assert path is not None
        path = checkpoint_of(path)
        return path, read_checkpoint(path)

    def _own_run(self) -> Path | None:
        """The run whose config.yaml is the experiment."""
        folders = [Path(str(file)).parent for file in self.config.config or ()]
        return next((folder for folder in folders if (folder / "checkpoints").is_dir()), None)


def given_of_data(config: Namespace, args: Sequence[str]) -> set[str]:
    """The arguments of the data that the options and the experiment files set.

    Raises:
        UserError: its seed, which would not be used.
    """
    if any(arg.partition("=")[0] in SEEDED for arg in args):
        raise UserError("data.seed is set by seed_everything; set that instead")
    given = {arg.removeprefix("--data.").partition("=")[0] for arg in args}
    for file in config.config or ():
        data = read_experiment(Path(str(file))).get("data")
        data = data.get("init_args") or data if isinstance(data, dict) else {}
        if data.get("seed") not in (None, config.seed_everything):
            raise UserError(f"{file}: data.seed is set by seed_everything; set that instead")
        given |= data.keys()
    return {name.removeprefix("init_args.") for name in given}


def restore_defaults(data: Any, given: Container[str]) -> None:
    """Undo what the parser does for another class of data: it keeps the defaults of IMAGES.

    Raises:
        UserError: an argument is missing that has no default.
    """
    kind = resolve_name(data.class_path)
    for name in {*signature(ImageDataModule).parameters} - {"seed"}:
        own = signature(kind).parameters.get(name)
        if own is None or name in given:
            continue
        if own.default is own.empty:
            raise UserError(f"data.{name} is not set, which {kind.__name__} needs; set it")
        data.init_args[name] = own.default
