"""One process of a group; that several end with the same bits is shown with both loops."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tests.learner.learners import assert_equal, classes
from twinloop.learner import Callback, DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import (
    AccumulateCB,
    AverageCB,
    CheckpointCB,
    DistributedCB,
    MetricsCB,
    ResumeCB,
    lr_find,
)

DATA = classes(6, 6, 6, 6, 6)


@pytest.fixture
def _group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def learner(*cbs: Callback) -> Learner:
    torch.manual_seed(1)
    return TrainLearner(nn.Linear(4, 3), DataLoaders(DATA, DATA[:1]), lr=0.1, cbs=cbs)


def test_it_needs_a_process_group() -> None:
    learn = learner(DistributedCB())
    with pytest.raises(RuntimeError, match="needs a process group: start it with torchrun"):
        learn.fit(1)
    assert isinstance(learn.model, nn.Linear)


@pytest.mark.usefixtures("_group")
def test_the_model_is_wrapped_for_the_fit_only() -> None:
    class Look(Callback):
        def after_loss(self, learn: Learner) -> None:
            wrapped.append(isinstance(learn.model, DistributedDataParallel))
            if learn.epoch == 1:
                raise ValueError("here")

    wrapped: list[bool] = []
    learn = learner(DistributedCB(), Look())
    model = learn.model
    with pytest.raises(ValueError, match="here"):
        learn.fit(2)
    assert len(wrapped) == 7
    assert all(wrapped)
    assert learn.model is model


@pytest.mark.usefixtures("_group")
def test_alone_it_trains_as_without_it() -> None:
    one, other = learner(DistributedCB()), learner()
    for learn in (one, other):
        learn.fit(2)
    assert_equal(one.model.state_dict(), other.model.state_dict())


@pytest.mark.usefixtures("_group")
def test_processes_talk_only_in_a_batch_that_ends_in_a_step() -> None:
    class Look(Callback):
        order = DistributedCB.order + 1

        def before_batch(self, learn: Learner) -> None:
            if learn.training:
                talk.append(learn.model.require_backward_grad_sync)

    talk: list[object] = []
    learner(DistributedCB(), AccumulateCB(2), Look()).fit(1)
    assert talk == [False, True, False, True, True]


@pytest.mark.usefixtures("_group")
def test_average_checkpoint_resume_and_search_know_the_model_itself(tmp_path: Path) -> None:
    def cbs() -> list[Callback]:
        return [DistributedCB(), MetricsCB(), AverageCB(0.5), CheckpointCB(tmp_path)]

    whole = learner(*cbs())
    whole.fit(3)
    learner(*cbs()).fit(1)
    saved = torch.load(tmp_path / "last.ckpt")
    assert saved["model"].keys() == {"weight", "bias"}
    rest = learner(*cbs(), ResumeCB(saved))
    assert len(lr_find(rest).lrs) > 9
    rest.fit(3)
    assert_equal(rest.model.state_dict(), whole.model.state_dict())
    # And a checkpoint of several processes is one of one process.
    alone = learner(MetricsCB(), AverageCB(0.5), ResumeCB(saved))
    alone.fit(3)
    assert_equal(alone.model.state_dict(), whole.model.state_dict())
