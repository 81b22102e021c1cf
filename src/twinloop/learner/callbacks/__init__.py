"""The callbacks, one concern per file; `Order` has their places."""

from typing import TYPE_CHECKING

from twinloop.learner.callbacks.accumulate import AccumulateCB as AccumulateCB
from twinloop.learner.callbacks.activations import ActivationStatsCB as ActivationStatsCB
from twinloop.learner.callbacks.anomaly import AnomalyCB as AnomalyCB
from twinloop.learner.callbacks.average import AverageCB as AverageCB
from twinloop.learner.callbacks.checkpoint import CheckpointCB as CheckpointCB
from twinloop.learner.callbacks.checkpoint import ResumeCB as ResumeCB
from twinloop.learner.callbacks.clip import GradientClipCB as GradientClipCB
from twinloop.learner.callbacks.device import DeviceCB as DeviceCB
from twinloop.learner.callbacks.distributed import DistributedCB as DistributedCB
from twinloop.learner.callbacks.early_stopping import EarlyStoppingCB as EarlyStoppingCB
from twinloop.learner.callbacks.finite import FiniteLossCB as FiniteLossCB
from twinloop.learner.callbacks.limits import LimitBatchesCB as LimitBatchesCB
from twinloop.learner.callbacks.limits import LimitStepsCB as LimitStepsCB
from twinloop.learner.callbacks.limits import SingleBatchCB as SingleBatchCB
from twinloop.learner.callbacks.logger import LoggerCB as LoggerCB
from twinloop.learner.callbacks.logger import TensorBoardCB as TensorBoardCB
from twinloop.learner.callbacks.lr_finder import LRFinderCB as LRFinderCB
from twinloop.learner.callbacks.lr_finder import lr_find as lr_find
from twinloop.learner.callbacks.metrics import MetricsCB as MetricsCB
from twinloop.learner.callbacks.precision import MixedPrecisionCB as MixedPrecisionCB
from twinloop.learner.callbacks.precision import TruePrecisionCB as TruePrecisionCB
from twinloop.learner.callbacks.progress import ProgressCB as ProgressCB
from twinloop.learner.callbacks.recorder import RecorderCB as RecorderCB
from twinloop.learner.callbacks.schedule import BatchSchedCB as BatchSchedCB
from twinloop.learner.callbacks.schedule import EpochSchedCB as EpochSchedCB
from twinloop.learner.callbacks.schedule import PlateauSchedCB as PlateauSchedCB
from twinloop.learner.callbacks.trace import BreakpointCB as BreakpointCB
from twinloop.learner.callbacks.trace import TraceCB as TraceCB
from twinloop.learner.callbacks.train import TrainCB as TrainCB
from twinloop.learner.callbacks.validate import ValidateCB as ValidateCB
from twinloop.learner.lesson import missing as _missing

if not TYPE_CHECKING:

    def __getattr__(name):
        raise _missing(__name__, name)
