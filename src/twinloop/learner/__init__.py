"""The homemade loop, in the lesson's terms: torch and torchmetrics, and no Lightning."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from twinloop.learner.callback import Callback as Callback
from twinloop.learner.callback import CancelBatchException as CancelBatchException
from twinloop.learner.callback import CancelEpochException as CancelEpochException
from twinloop.learner.callback import CancelFitException as CancelFitException
from twinloop.learner.callback import CancelStepException as CancelStepException
from twinloop.learner.callback import Order as Order
from twinloop.learner.hooks import Hook as Hook
from twinloop.learner.hooks import Hooks as Hooks
from twinloop.learner.learner import Learner as Learner
from twinloop.learner.learner import MomentumLearner as MomentumLearner
from twinloop.learner.learner import TrainLearner as TrainLearner
from twinloop.learner.lesson import CALLBACKS as _CALLBACKS
from twinloop.learner.lesson import missing as _missing
from twinloop.learner.loaders import DataLoaders as DataLoaders
from twinloop.learner.loaders import collate_dict as collate_dict
from twinloop.learner.metrics import Accuracy as Accuracy
from twinloop.learner.metrics import Loss as Loss
from twinloop.learner.metrics import Metric as Metric
from twinloop.learner.simple import SimpleLearner as SimpleLearner

if not TYPE_CHECKING:

    def __getattr__(name):
        """Find a callback here too, as the lesson's library has them."""
        if name.endswith("CB"):
            return getattr(_import_module(_CALLBACKS), name)
        raise _missing(__name__, name)
