"""One process of a group; that several end with the same bits is shown with both loops."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from tests.learner.learners import Values, assert_equal, classes
from twinloop.learner import Callback, DataLoaders, Learner, Metric, TrainLearner
from twinloop.learner.callbacks import (
    AccumulateCB,
    AverageCB,
    CheckpointCB,
    DistributedCB,
    EarlyStoppingCB,
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


def fit_as_one_of_two(rank: int, folder: str) -> None:
    """Fit on own data, whose val loss falls in the first process and rises in the second."""
    store = f"file://{folder}/store"
    distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=150)
    )
    train = [(torch.ones(2, 1), torch.ones(2, 1))]
    valid = [(torch.ones(2 + rank, 1), torch.full((2 + rank, 1), 1.0 - 2 * rank))]
    torch.manual_seed(0)
    model, data = nn.Linear(1, 1), DataLoaders(train, valid)
    metrics, stop = MetricsCB(own=Own()), EarlyStoppingCB(patience=1)
    TrainLearner(model, data, nn.functional.mse_loss, 0.1, [DistributedCB(), metrics, stop]).fit(5)
    torch.save(metrics.history, f"{folder}/{rank}")
    # Also by a metric that is each process's own.
    learn = TrainLearner(model, data, nn.functional.mse_loss, 0.1, [DistributedCB(), MetricsCB()])
    own = Values(val_own=[3.0, 2.0 + 2 * rank, 1.0, 0.0])
    learn.fit(4, cbs=[own, EarlyStoppingCB("val/own", patience=1)])
    assert learn.epoch == 2
    distributed.barrier()  # the other may still be listening
    distributed.destroy_process_group()


class Own(Metric):
    """The mean of the predictions."""

    def calc(self, inps: Tensor, targs: Tensor | None) -> Tensor:
        """The mean of a batch."""
        return inps.mean()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_metrics_are_of_all_processes_and_all_stop_where_one_does(tmp_path: Path) -> None:
    spawn(fit_as_one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    one, other = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert one == other
    assert len(one) == 2  # the val loss of both together rises at once
    # By hand: two rows of train in each process, and 2 and 3 of val.
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    learn = TrainLearner(
        model,
        DataLoaders(
            [(torch.ones(4, 1), torch.ones(4, 1))],
            [(torch.ones(5, 1), torch.tensor([[1.0], [1.0], [-1.0], [-1.0], [-1.0]]))],
        ),
        nn.functional.mse_loss,
        0.1,
        [alone := MetricsCB(own=Own())],
    )
    learn.fit(2)
    for row, expected in zip(one, alone.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
