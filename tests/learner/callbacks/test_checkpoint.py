"""A run that is resumed from a checkpoint ends as one that was never stopped."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from tests.learner.learners import Values, assert_equal, classes
from twinloop.errors import UserError
from twinloop.learner import Accuracy, Callback, DataLoaders, Learner
from twinloop.learner.callbacks import (
    AccumulateCB,
    AverageCB,
    BatchSchedCB,
    CheckpointCB,
    EarlyStoppingCB,
    EpochSchedCB,
    MetricsCB,
    PlateauSchedCB,
    ResumeCB,
    TrainCB,
    ValidateCB,
)
from twinloop.learner.callbacks.checkpoint import pack_state, unpack_state

TRAIN, VALID = classes(6, 6, 3), classes(7, seed=1)
EPOCHS = 5
one_cycle = partial(OneCycleLR, max_lr=0.1, total_steps=EPOCHS * len(TRAIN))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def learner(*cbs: Callback, seed: int = 1) -> Learner:
    opt_func = partial(torch.optim.AdamW, weight_decay=0.1)
    dls = DataLoaders(TRAIN, VALID)
    return Learner(network(seed), dls, lr=0.01, opt_func=opt_func, cbs=[TrainCB(), *cbs])


# --- resuming -----------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], list[Callback]]] = {
    "schedule by epoch": lambda: [EpochSchedCB(partial(StepLR, step_size=2, gamma=0.5))],
    "average, schedule by step": lambda: [AverageCB(0.8), BatchSchedCB(one_cycle)],
    "accumulation, two of a kind": lambda: [
        AccumulateCB(2),
        EarlyStoppingCB("val/loss", patience=9),
        EarlyStoppingCB("val/accuracy", "max", patience=3),
    ],
}


@pytest.mark.parametrize(
    ("stopped_after", "inside"), [(1, False), (3, True)], ids=["valid after", "valid inside"]
)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_ends_with_the_bits_of_a_run_that_was_not_stopped(
    make: Callable[[], list[Callback]], stopped_after: int, inside: bool, tmp_path: Path
) -> None:
    def run(folder: str, n_epochs: int, seed: int, *more: Callback) -> Any:
        cbs = [MetricsCB(accuracy=Accuracy()), CheckpointCB(tmp_path / folder), *make(), *more]
        cbs += [ValidateCB()] if inside else []
        learn = learner(*cbs, seed=seed)
        learn.fit(n_epochs, valid=not inside)
        return torch.load(tmp_path / folder / "last.ckpt"), learn

    whole, one = run("whole", EPOCHS, 1)
    run("part", stopped_after, 1)
    saved = torch.load(tmp_path / "part" / "last.ckpt")
    assert saved["epoch"] == stopped_after
    # Other weights, and another state of the generator, are what a new process would begin with.
    rest, other = run("rest", EPOCHS, 2, ResumeCB(saved))
    assert_equal(rest, whole)
    assert (other.epoch, other.steps) == (one.epoch, one.steps)
    assert_equal(other.model.state_dict(), one.model.state_dict())
    assert not torch.equal(whole["model"]["0.weight"], network(1)[0].weight)  # type: ignore[index]


def test_another_state_of_the_generator_is_not_equal() -> None:
    first = learner()
    first.fit(2)
    saved = pack_state(first)
    ends = []
    for seed in (None, 5):
        learn = learner()
        learn.fit(0, cbs=[ResumeCB(saved)])
        if seed is not None:
            torch.manual_seed(seed)
        learn.fit(1)
        ends.append(learn.model[0].weight)  # type: ignore[index]
    assert not torch.equal(*ends)


def test_a_plateau_does_not_know_of_the_epoch_that_was_saved(tmp_path: Path) -> None:
    # As in Lightning the checkpoint comes first, so the epoch's metric is lost by stopping there.
    def plateau() -> PlateauSchedCB:
        return PlateauSchedCB(partial(ReduceLROnPlateau, patience=0))

    cbs = [MetricsCB(), plateau(), CheckpointCB(tmp_path)]
    learner(*cbs).fit(1)
    saved = torch.load(tmp_path / "last.ckpt")
    assert saved["callbacks"]["PlateauSchedCB"]["last_epoch"] == 0
    assert cbs[1].state_dict()["last_epoch"] == 1


def test_it_may_begin_in_an_epoch() -> None:
    class Batches(Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def before_batch(self, learn: Learner) -> None:
            if learn.training:
                assert learn.batch is TRAIN[learn.num]
                self.seen.append((learn.epoch, learn.num))

    def unpack(learn: Learner, checkpoint: dict[str, Any]) -> int:
        learn.epoch = checkpoint["epoch"]
        return 2

    learn = learner(batches := Batches(), ResumeCB({"epoch": 1}, unpack))
    learn.fit(3)
    assert batches.seen == [(1, 2), (2, 0), (2, 1), (2, 2)]


def test_each_callback_gets_its_own_state_back_among_others_and_two_of_a_kind() -> None:
    def stops(*patience: int) -> list[EarlyStoppingCB]:
        return [EarlyStoppingCB(patience=n) for n in patience]

    one = learner(AverageCB(0.5), *stops(3, 4))
    other = learner(*(found := stops(8, 9)), MetricsCB(), AverageCB(0.5))
    for learn in (one, other):
        learn.fit(0)
    unpack_state(other, pack_state(one))
    assert [stop.patience for stop in found] == [3, 4]


# --- best and last ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("min", [3.0, 2.0, 4.0, 2.0], 2),  # the first of those that are as good
        ("max", [3.0, 2.0, 4.0, 2.5], 3),
        ("max", [torch.nan, 1.0, torch.nan], 2),
        ("min", [torch.nan, torch.nan], None),
    ],
)
def test_the_best_and_the_last_epoch(
    mode: str, scores: list[float], best: int | None, tmp_path: Path
) -> None:
    saver = CheckpointCB(tmp_path, "val/score", mode)
    learner(saver, Values(val_score=scores)).fit(len(scores))
    assert torch.load(saver.last_path)["epoch"] == len(scores)
    names = {"last.ckpt"} if best is None else {"best.ckpt", "last.ckpt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    if best is not None:
        assert torch.load(saver.best_path)["epoch"] == best
        assert saver.best == scores[best - 1]


def test_the_best_is_remembered_after_a_resume(tmp_path: Path) -> None:
    scores = [1.0, 2.0, 3.0]
    learner(CheckpointCB(tmp_path, "val/score"), Values(val_score=scores)).fit(1)
    resume = ResumeCB(torch.load(tmp_path / "last.ckpt"))
    learner(CheckpointCB(tmp_path, "val/score"), Values(val_score=scores), resume).fit(3)
    assert torch.load(tmp_path / "best.ckpt")["epoch"] == 1
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 3


def test_an_own_way_to_pack(tmp_path: Path) -> None:
    learner(CheckpointCB(tmp_path, None, pack=lambda learn: {"at": learn.epoch})).fit(2)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]  # without a metric no best
    assert torch.load(tmp_path / "last.ckpt") == {"at": 1}


def test_another_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode is 'least'; it must be 'min' or 'max'"):
        CheckpointCB(tmp_path, mode="least")


def test_a_metric_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metric 'val/acuracy'"):
        learner(CheckpointCB(tmp_path, "val/acuracy"), MetricsCB()).fit(1)


def test_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    cbs = [MetricsCB(), AverageCB(0.5), BatchSchedCB(one_cycle), EarlyStoppingCB()]
    learner(*cbs, CheckpointCB(tmp_path)).fit(1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved.keys() == {"epoch", "steps", "before", "model", "opt", "callbacks", "random"}
    names = {"AverageCB", "BatchSchedCB", "EarlyStoppingCB", "CheckpointCB"}
    assert saved["callbacks"].keys() == names


def test_a_later_fit_goes_on_from_the_first_and_is_not_resumed_again() -> None:
    first = learner()
    first.fit(1)
    learn, other = learner(ResumeCB(pack_state(first))), learner(seed=3)
    learn.fit(3)
    assert (learn.epoch, learn.steps) == (3, 6)  # what is packed after a fit has its epoch behind
    other.model.load_state_dict(learn.model.state_dict())
    learn.fit(1, lr=0.0)
    assert (learn.epoch, learn.steps) == (1, 9)
    assert_equal(dict(learn.model.named_parameters()), dict(other.model.named_parameters()))


def test_a_fit_that_only_validates_saves_nothing(tmp_path: Path) -> None:
    learn = learner(MetricsCB(), CheckpointCB(str(tmp_path)))
    learn.fit(2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"best.ckpt", "last.ckpt"}
    learn.model.load_state_dict(network(3).state_dict())
    learn.fit(1, train=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_metrics_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metric 'val/loss'; there are: none; add a MetricsCB"):
        learner(CheckpointCB(tmp_path)).fit(1)


def test_its_folder_is_created_before_the_first_step(tmp_path: Path) -> None:
    learn = learner(CheckpointCB(str(tmp_path / "a" / "b"), None))
    learn.fit(1, train=False)
    assert list(tmp_path.iterdir()) == []
    learn.fit(1)
    assert (tmp_path / "a" / "b" / "last.ckpt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        learner(CheckpointCB(tmp_path / "file", None), first := MetricsCB()).fit(1)
    assert first.history == []


def test_a_path_is_not_the_contents_of_a_checkpoint() -> None:
    path: Any = Path("last.ckpt")
    with pytest.raises(TypeError, match=r"checkpoint is 'last.ckpt'; .* torch.load\('last.ckpt'\)"):
        ResumeCB(path)
