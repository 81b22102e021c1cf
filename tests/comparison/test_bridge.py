"""The Trainer's flags on the Learner: each has a counterpart, or is refused by name."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import SGD

from twinloop.cli import main
from twinloop.comparison.bridge import HANDLED, WITHOUT_EFFECT, Flags, build_learner
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.tasks import Classification

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

OTHER_VALUES: dict[str, Any] = {
    "num_nodes": 2,
    "logger": [],
    "min_epochs": 2,
    "min_steps": 5,
    "max_time": "00:00:01:00",
    "limit_predict_batches": 1,
    "enable_checkpointing": False,
    "benchmark": True,
    "use_distributed_sampler": False,
    "profiler": "simple",
    "barebones": True,
    "plugins": [],
    "sync_batchnorm": True,
    "reload_dataloaders_every_n_epochs": 1,
    "enable_autolog_hparams": False,
    "model_registry": "name",
}
"""A value that is not the default, for every flag that has no counterpart."""


def test_every_flag_of_the_trainer_is_handled_or_refused() -> None:
    flags = set(inspect.signature(Trainer).parameters)
    assert flags == {*HANDLED, *WITHOUT_EFFECT, *OTHER_VALUES}


@pytest.mark.parametrize(("name", "value"), OTHER_VALUES.items(), ids=OTHER_VALUES.keys())
def test_a_flag_without_counterpart_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"trainer\.{name}: .*accumulate_grad_batches"):
        Flags({name: value})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"precision": "transformer-engine"}, "trainer.precision"),
        ({"precision": "16-mixed", "accelerator": "cpu"}, "needs a GPU"),
        ({"accelerator": "tpu"}, "trainer.accelerator is 'tpu'"),
        ({"devices": 2}, "torchrun --nproc_per_node 2"),
        ({"strategy": "fsdp"}, "trainer.strategy is 'fsdp'"),
        ({"check_val_every_n_epoch": None}, "trainer.check_val_every_n_epoch"),
        ({"callbacks": [LearningRateFinder()]}, "LearningRateFinder"),
    ],
)
def test_a_value_without_counterpart_is_refused(
    flags: dict[str, Any], message: str, digits: ImageDataModule
) -> None:
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)
    with pytest.raises(UserError, match=message):
        build_learner(task, digits, flags)


def test_a_flag_is_refused_on_the_command_line_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(EXPERIMENTS / "mlp.yaml")
    options = ["--data.source", "digits", "--trainer.default_root_dir", str(tmp_path)]
    command = ["fit", "--config", config, *options, "--loop", "homemade"]
    assert main([*command, "--trainer.benchmark", "true"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: trainer.benchmark: the homemade loop has no counterpart")
    assert error.count("\n") == 1
    # Nothing of the run that did not begin is left.
    assert not (tmp_path / "lightning_logs").exists()


def read_scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def read_tags(run: Path) -> dict[str, list[str]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {kind: sorted(tags) for kind, tags in events.Tags().items() if isinstance(tags, list)}


@pytest.mark.parametrize("experiment", ["autoencoder", "classifier"])
def test_both_loops_leave_the_same_folder(experiment: str, tmp_path: Path) -> None:
    for loop in ("lightning", "homemade"):
        config = str(EXPERIMENTS / f"{experiment}.yaml")
        options = ["--data.source", "digits", "--trainer.default_root_dir", str(tmp_path)]
        short = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "5"]
        short += ["--trainer.accumulate_grad_batches", "2", "--trainer.log_every_n_steps", "2"]
        assert main(["fit", "--config", config, *options, *short, "--loop", loop]) == 0
    one, other = sorted((tmp_path / "lightning_logs" / experiment).iterdir())

    def files(run: Path) -> set[str]:
        found = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
        return {str(path) for path in found if "tfevents" not in path.name}

    assert files(one) == files(other)
    assert read_tags(one) == read_tags(other)
    scalars = read_scalars(one)
    assert scalars == read_scalars(other)
    assert scalars["lr-AdamW"]
    a, b = (json.loads((run / "results.json").read_text()) for run in (one, other))
    assert (a.pop("loop"), b.pop("loop")) == ("lightning", "homemade")
    for results in (a, b):
        del results["seconds"]
        for row in results["history"]:
            del row["seconds"]
    assert a == b


def test_fast_dev_run_leaves_nothing(tmp_path: Path) -> None:
    config = str(EXPERIMENTS / "mlp.yaml")
    options = ["--data.source", "digits", "--trainer.default_root_dir", str(tmp_path)]
    for loop in ("lightning", "homemade"):
        command = ["fit", "--config", config, *options, "--loop", loop]
        assert main([*command, "--trainer.fast_dev_run", "true"]) == 0
    assert not list(tmp_path.iterdir())


def test_the_learner_is_built_without_touching_the_generator(digits: ImageDataModule) -> None:
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)
    before = torch.get_rng_state()
    build_learner(task, digits, {"max_epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)
