"""Autograd's anomaly mode."""

import torch

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner


class AnomalyCB(Callback):
    """Makes a backward that gives a NaN fail, naming the operation; slow.

    Lightning: `detect_anomaly`.
    """

    order = Order.PREPARE

    def __init__(self) -> None:
        self.before: tuple[bool, bool] | None = None

    def before_fit(self, learn: Learner) -> None:
        self.before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
        torch.autograd.set_detect_anomaly(True)

    def cleanup_fit(self, learn: Learner) -> None:
        if self.before is not None:
            torch.autograd.set_detect_anomaly(*self.before)
            self.before = None
