"""`python -m twinloop validate` and `test`: the metrics of a checkpoint on val or test."""

from typing import Any

from lightning.pytorch import Trainer

from twinloop.cli.experiment import files_of
from twinloop.cli.parser import Experiment
from twinloop.errors import UserError, as_user_error
from twinloop.loops.lightning import bare_trainer
from twinloop.runs.checkpoint import check_fits
from twinloop.runs.evaluation import evaluate
from twinloop.runs.settings import check_split


def validate(args: list[str]) -> int:
    """Print the metrics of val."""
    return _evaluate("val", args)


def test(args: list[str]) -> int:
    """Print the metrics of test."""
    return _evaluate("test", args)


def load(experiment: Experiment) -> Trainer:
    """Load the weights of the checkpoint, and make a Trainer with its precision.

    Raises:
        UserError: no checkpoint, or one of another network.
    """
    path, checkpoint = experiment.trained
    flags = experiment.flags
    if flags["precision"] is None:
        flags = flags | {"precision": _precision_of(checkpoint)}
    with as_user_error(f"{files_of(experiment.config)}, {path}: cannot be evaluated"):
        check_fits(checkpoint, experiment.task, path)
        trainer = bare_trainer(flags)
        # First the precision, or weights in float64 would be rounded.
        trainer.precision_plugin.convert_module(experiment.task)
        experiment.task.load_state_dict(checkpoint["state_dict"])
        return trainer


def _evaluate(stage: str, args: list[str]) -> int:
    experiment = Experiment(args)
    task, data = experiment.task, experiment.data
    trainer = load(experiment)
    path, checkpoint = experiment.trained
    if not data.sizes[stage]:
        raise UserError(f"data: {task.spec.name} has no images of {stage} to evaluate on")
    print(f"checkpoint: {path}")
    if stage == "val":
        check_split(checkpoint, data, path)
    data.trainer = trainer  # which may be read by data of a user's own
    task.to(trainer.strategy.root_device)
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
    """The precision that a checkpoint was trained in; None if it is not known."""
    return (checkpoint.get("settings") or {}).get("trainer", {}).get("precision")
