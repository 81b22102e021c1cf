"""An operation is named, and autograd's mode is restored."""

import pytest
import torch
from torch import Tensor

from tests.learner.learners import Raises, scalar
from twinloop.learner import Callback, Learner
from twinloop.learner.callbacks import AnomalyCB


def root(preds: Tensor, targets: Tensor) -> Tensor:
    """Finite, and its gradient 0 times infinity."""
    return (0 * preds).sqrt().sum() + targets.sum()


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_the_operation_is_named_and_the_mode_is_as_before() -> None:
    learn = scalar(AnomalyCB())
    learn.loss_func = root
    with pytest.raises(RuntimeError, match="Function 'MulBackward0' returned nan values"):
        learn.fit(1)
    assert not torch.is_anomaly_enabled()


def test_it_is_on_during_the_fit_and_as_before_after_it() -> None:
    class Looks(Callback):
        def after_loss(self, learn: Learner) -> None:
            self.seen = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()

    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        scalar(AnomalyCB(), looks := Looks()).fit(1)
        assert looks.seen == (True, True)
        assert torch.is_anomaly_enabled()
        assert not torch.is_anomaly_check_nan_enabled()


def test_a_fit_that_did_not_begin_turns_nothing_off() -> None:
    fails = Raises("before_fit", ArithmeticError(), order=AnomalyCB.order - 1)
    with torch.autograd.set_detect_anomaly(True, check_nan=False), pytest.raises(ArithmeticError):
        scalar(AnomalyCB(), fails).fit(1)
