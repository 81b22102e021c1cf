"""An operation is named, and nothing stays turned on."""

import pytest
import torch
from torch import Tensor, nn

from twinloop.learner import Callback, DataLoaders, Learner
from twinloop.learner.callbacks import AnomalyCB, TrainCB

BATCH = (torch.ones(1, 1), torch.zeros(1, 1))


def root(preds: Tensor, targets: Tensor) -> Tensor:
    """Finite, and its gradient 0 times infinity."""
    return (0 * preds).sqrt().sum() + targets.sum()


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_the_operation_is_named_and_the_mode_is_as_before() -> None:
    learn = Learner(nn.Linear(1, 1), DataLoaders([BATCH], []), root, cbs=[TrainCB(), AnomalyCB()])
    with pytest.raises(RuntimeError, match="Function 'MulBackward0' returned nan values"):
        learn.fit(1, valid=False)
    assert not torch.is_anomaly_enabled()


def test_it_is_on_during_the_fit_and_as_before_after_it() -> None:
    class Looks(Callback):
        def after_loss(self, learn: Learner) -> None:
            self.seen = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()

    cbs = [TrainCB(), AnomalyCB(), looks := Looks()]
    learn = Learner(nn.Linear(1, 1), DataLoaders([BATCH], []), nn.functional.mse_loss, cbs=cbs)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        learn.fit(1, valid=False)
        assert looks.seen == (True, True)
        assert torch.is_anomaly_enabled()
        assert not torch.is_anomaly_check_nan_enabled()


def test_a_fit_that_did_not_begin_turns_nothing_off() -> None:
    class Fails(Callback):
        precedes = ("AnomalyCB",)

        def before_fit(self, learn: Learner) -> None:
            raise ArithmeticError

    cbs = [TrainCB(), AnomalyCB(), Fails()]
    learn = Learner(nn.Linear(1, 1), DataLoaders([BATCH], []), nn.functional.mse_loss, cbs=cbs)
    with torch.autograd.set_detect_anomaly(True, check_nan=False), pytest.raises(ArithmeticError):
        learn.fit(1, valid=False)
