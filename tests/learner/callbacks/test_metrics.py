"""The metrics of an epoch."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tests.learner.learners import Batch, Raises, classes
from twinloop.errors import UserError
from twinloop.learner import (
    Accuracy,
    Callback,
    CancelBatchException,
    CancelEpochException,
    DataLoaders,
    Learner,
    Loss,
    TrainLearner,
)
from twinloop.learner.callbacks import EarlyStoppingCB, LimitBatchesCB, MetricsCB, ValidateCB

TRAIN, VALID = classes(5, 5, 2), classes(6, 1, seed=1)


def learner(*cbs: Callback, lr: float = 0.0) -> Learner:
    torch.manual_seed(1)
    return TrainLearner(nn.Linear(4, 3), DataLoaders(TRAIN, VALID), lr=lr, cbs=cbs)


def whole(learn: Learner, batches: list[Batch]) -> dict[str, float]:
    """Loss and accuracy over all rows at once."""
    xb, yb = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    preds = learn.model(xb)
    accuracy = (preds.argmax(1) == yb).double().mean().item()
    return {"loss": F.cross_entropy(preds, yb).item(), "accuracy": accuracy}


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "torchmetrics"])
def test_the_metrics_of_an_epoch_are_those_of_all_its_rows(theirs: bool) -> None:
    accuracy = MulticlassAccuracy(3, average="micro") if theirs else Accuracy()
    learn = learner(metrics := MetricsCB(accuracy=accuracy))
    learn.fit(2)
    train, valid = whole(learn, TRAIN), whole(learn, VALID)
    expected = {f"train/{name}": value for name, value in train.items()}
    expected |= {f"val/{name}": value for name, value in valid.items()}
    assert [row["epoch"] for row in metrics.history] == [1, 2]
    for row in metrics.history:
        assert list(row)[1:] == ["train/loss", "train/accuracy", "val/loss", "val/accuracy"]
        assert row == pytest.approx(expected | {"epoch": row["epoch"]}, rel=1e-6)
    assert {name: float(value) for name, value in learn.metrics.items()} | {
        "epoch": 2
    } == metrics.history[1]


def test_several_metrics_by_their_names() -> None:
    f1 = MulticlassF1Score(3, average="macro")
    learn = learner(MetricsCB(a=Accuracy(), f1=f1))
    learn.fit(1)
    xb, yb = (torch.cat([batch[part] for batch in VALID]) for part in (0, 1))
    expected = MulticlassF1Score(3, average="macro")(learn.model(xb), yb)
    assert learn.metrics["val/f1"] == expected
    assert f1.update_count == 0  # each stage has its copy


def test_validation_inside_an_epoch_leaves_those_of_train() -> None:
    after = MetricsCB(accuracy=Accuracy())
    learner(after, lr=0.1).fit(2)
    inside = MetricsCB(accuracy=Accuracy())
    learner(inside, ValidateCB(), lr=0.1).fit(2, valid=False)
    assert len(inside.history) == 2
    assert inside.history == after.history


def test_a_cancelled_batch_counts_if_its_loss_was_there() -> None:
    skip = Raises("after_predict", CancelBatchException(), lambda learn: learn.num == 1)
    learn = learner(MetricsCB(), skip)
    learn.fit(1)
    assert learn.metrics["train/loss"].item() == pytest.approx(
        whole(learn, [TRAIN[0], TRAIN[2]])["loss"], rel=1e-6
    )


def test_a_cancelled_pass_has_no_metrics() -> None:
    stop = Raises("after_batch", CancelEpochException(), lambda learn: not learn.training)
    learn = learner(metrics := MetricsCB(), stop)
    learn.fit(1)
    assert learn.metrics.keys() == {"train/loss"}
    assert metrics.history == []


def test_a_pass_of_no_batches_has_no_metrics_and_a_fit_has_its_own_history() -> None:
    learn = learner(metrics := MetricsCB(), LimitBatchesCB(val=0))
    for n_epochs in (2, 1):
        learn.fit(n_epochs)
        assert [row.keys() for row in metrics.history] == [{"epoch", "train/loss"}] * n_epochs


def test_a_fit_has_no_metrics_of_the_one_before() -> None:
    learn = learner(metrics := MetricsCB(accuracy=Accuracy()), lr=0.1)
    learn.fit(1)
    learn.fit(1, valid=False)
    assert learn.metrics.keys() == {"train/loss", "train/accuracy"}
    assert metrics.history[-1].keys() == {"epoch", "train/loss", "train/accuracy"}
    learn.cbs = [MetricsCB()]
    learn.fit(1)
    assert learn.metrics.keys() == {"train/loss", "val/loss"}


def test_what_was_not_measured_in_this_fit_is_missing_and_not_an_old_value() -> None:
    learn = learner(MetricsCB())
    learn.fit(1)
    with pytest.raises(UserError, match="EarlyStoppingCB: there is no metric 'val/loss'"):
        learn.fit(1, valid=False, cbs=[EarlyStoppingCB("val/loss", when="epoch")])


def test_metrics_by_position_have_the_names_of_their_classes() -> None:
    learn = learner(MetricsCB(Accuracy(), MulticlassF1Score(3), top=Accuracy()))
    learn.fit(1, valid=False)
    names = ("loss", "top", "accuracy", "multiclassf1score")
    assert list(learn.metrics) == [f"train/{name}" for name in names]
    assert learn.metrics["train/accuracy"] == learn.metrics["train/top"]


@pytest.mark.parametrize(
    ("given", "named", "error", "message"),
    [
        ([], {"loss": Accuracy()}, ValueError, "'loss' is the mean of the Learner's loss_func"),
        ([Loss()], {}, ValueError, "'loss' is the mean of the Learner's loss_func"),
        ([Accuracy(), Accuracy()], {}, ValueError, "two metrics are 'accuracy'; name them"),
        ([], {"accuracy": Accuracy}, TypeError, r"no metric; .* such as Accuracy\(\)"),
        (["accuracy"], {}, TypeError, "str is 'accuracy', which is no metric"),
    ],
)
def test_what_metrics_cannot_be_is_an_error(
    given: list[Any], named: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MetricsCB(*given, **named)
