"""Which operation did it?"""

import torch

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner


class AnomalyCB(Callback):
    """Lets a backward that makes a NaN fail by the name of its operation; slow.

    Lightning: `detect_anomaly`.
    """

    def __init__(self) -> None:
        self.before: tuple[bool, bool] | None = None

    def before_fit(self, learn: Learner) -> None:
        """Turn it on."""
        self.before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
        torch.autograd.set_detect_anomaly(True)

    def cleanup_fit(self, learn: Learner) -> None:
        """Leave it as it was."""
        if self.before is not None:
            torch.autograd.set_detect_anomaly(*self.before)
            self.before = None
