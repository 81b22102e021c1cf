"""Lightning's `load_from_checkpoint` needs the path of a run's checkpoint, and nothing else."""

from functools import partial
from pathlib import Path

import pytest
from torch.optim import SGD

from tests.runs.trained import SPEC, assert_has, checkpoint, save
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.tasks import Classification, Reconstruction, Task


@pytest.mark.parametrize("kind", [Classification, Task])
def test_a_task_is_built_as_its_run_was(kind: type[Task], tmp_path: Path) -> None:
    path = save(tmp_path, "last", found := checkpoint())
    task = kind.load_from_checkpoint(path)
    assert isinstance(task, Classification)
    assert (task.spec, task.label_smoothing) == (SPEC, 0.25)
    assert_has(task, found)


class Own(Classification):
    """A user's own task."""


def test_a_subclass_is_built_from_the_run_of_its_base(tmp_path: Path) -> None:
    task = Own.load_from_checkpoint(save(tmp_path, "last", found := checkpoint()))
    assert type(task) is Own
    assert_has(task, found)


def test_arguments_replace_those_of_the_run(tmp_path: Path) -> None:
    path = save(tmp_path, "last", found := checkpoint())
    task = Classification.load_from_checkpoint(path, label_smoothing=0.5, tta_flip=True)
    assert (task.label_smoothing, task.tta_flip) == (0.5, True)
    assert_has(task, found)


def test_a_task_that_was_trained_from_python_needs_its_network_and_optimiser(
    tmp_path: Path,
) -> None:
    found = checkpoint()
    del found["settings"]
    path = save(tmp_path, "last", found)
    task = Classification.load_from_checkpoint(
        path, network=partial(MLP, hidden=3), optimizer=lambda weights: SGD(weights, 0.1)
    )
    assert task.spec == SPEC
    assert_has(task, found)


def test_a_run_of_another_task_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "last", checkpoint())
    with pytest.raises(UserError, match="the task is a Classification, not a Reconstruction"):
        Reconstruction.load_from_checkpoint(path)


def test_a_checkpoint_of_another_program_lacks_every_argument(tmp_path: Path) -> None:
    path = save(tmp_path, "last", {"state_dict": {}, "pytorch-lightning_version": "2.6.6"})
    with pytest.raises(TypeError, match="missing 3 required positional arguments: 'network'"):
        Classification.load_from_checkpoint(path)
