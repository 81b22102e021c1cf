"""Build the loggers of a run: those of `trainer.logger`, or TensorBoard in its folder."""

from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from twinloop.cli.parser import Experiment
from twinloop.errors import as_user_error
from twinloop.processes import is_first
from twinloop.runs.board import RunLogger

HERE = "."
"""The `save_dir` that stands for the folder of the run, and the default of some loggers."""


def loggers_of(experiment: Experiment, folder: Path) -> list[Logger]:
    """Build the loggers of the run in `folder`; of several processes only the first one logs.

    Raises:
        UserError: a logger that cannot be built or started.
    """
    given = experiment.config.trainer.logger
    if given in (None, True):
        return [RunLogger(folder) if is_first() else DummyLogger()]
    specs = given if isinstance(given, list) else [given] if given else []
    if not is_first():
        return [DummyLogger() for _ in specs]
    return [_built(spec.as_dict(), experiment, folder) for spec in specs]


def _built(spec: dict[str, Any], experiment: Experiment, folder: Path) -> Logger:
    kind = spec["class_path"].rpartition(".")[2]
    args = spec.get("init_args", {})
    spec |= {"init_args": args | _in_folder(args, experiment.name, folder)}
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Logger, "logger")
    with as_user_error(f"trainer.logger: {kind} cannot be started"):
        logger: Any = parser.instantiate_classes(parser.parse_object({"logger": spec})).logger
        if hasattr(type(logger), "experiment"):
            _ = logger.experiment  # starts it
    assert isinstance(logger, Logger)
    return logger


def _in_folder(args: dict[str, Any], experiment: str, folder: Path) -> dict[str, str]:
    """The place and names of a logger that has no directory, and no database, of its own."""
    if "tracking_uri" in args:  # MLflow's
        where = {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}"}
        where |= {"artifact_location": str(folder / "mlflow"), "experiment_name": experiment}
        return {} if args["tracking_uri"] else where | {"run_name": folder.name}
    if str(args.get("save_dir")) != HERE:
        return {}
    found = {"save_dir": str(folder)}
    if args.get("name") == "lightning_logs":
        found["name"] = ""
        if "log_graph" in args and args["version"] is None:  # TensorBoard's: one file a run
            found["version"] = ""
    elif "name" in args and args["name"] is None:
        found["name"] = f"{experiment}/{folder.name}"
    return found
