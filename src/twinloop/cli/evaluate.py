"""`python -m twinloop validate` and `test`: the metrics of a checkpoint on val or test."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from twinloop.cli.parser import Experiment
from twinloop.errors import as_user_error
from twinloop.loops.lightning import bare_trainer
from twinloop.runs.checkpoint import check_fits, read_checkpoint
from twinloop.runs.evaluation import evaluate
from twinloop.runs.settings import check_split


def validate(args: list[str]) -> int:
    """Print the metrics of val."""
    return _evaluate("val", args)


def test(args: list[str]) -> int:
    """Print the metrics of test."""
    return _evaluate("test", args)


def load(experiment: Experiment) -> tuple[Path, Trainer]:
    """Load the weights of the checkpoint that is meant, for a Trainer of the precision it had.

    Raises:
        UserError: no checkpoint, or one of another network.
    """
    path = experiment.checkpoint(default="best")
    assert path is not None
    checkpoint = read_checkpoint(path)
    flags = experiment.flags
    with experiment.mistakes():
        check_fits(checkpoint, experiment.task, path)
        experiment.task.load_state_dict(checkpoint["state_dict"])
        trainer = bare_trainer(flags)
    if flags["precision"] is None:
        with as_user_error(f"{path}: cannot be evaluated"):
            trainer = bare_trainer(flags | {"precision": _precision_of(checkpoint)})
    return path, trainer


def _evaluate(stage: str, args: list[str]) -> int:
    experiment = Experiment(args)
    task, data = experiment.task, experiment.data
    path, trainer = load(experiment)
    print(f"checkpoint: {path}")
    if stage == "val":
        check_split(read_checkpoint(path), data, path)
    task.to(trainer.strategy.root_device)
    trainer.precision_plugin.convert_module(task)
    found = evaluate(
        task,
        data,
        stage,
        limit=experiment.flags[f"limit_{stage}_batches"],
        forward_context=trainer.precision_plugin.forward_context,
    )
    for name, value in found.items():
        print(f"{stage}/{name}  {value:.4f}")
    return 0


def _precision_of(checkpoint: dict[str, Any]) -> Any:
    """The precision that a checkpoint was trained in; None where it is not known."""
    return (checkpoint.get("settings") or {}).get("trainer", {}).get("precision")
