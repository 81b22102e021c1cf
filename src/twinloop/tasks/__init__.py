"""LightningModules: a network with its loss, metrics, optimiser and schedule."""

from twinloop.tasks.classification import Classification as Classification
from twinloop.tasks.multilabel import MultiLabel as MultiLabel
from twinloop.tasks.muon import Muon as Muon
from twinloop.tasks.optimizer import Group as Group
from twinloop.tasks.optimizer import Grouped as Grouped
from twinloop.tasks.reconstruction import Reconstruction as Reconstruction
from twinloop.tasks.regression import Regression as Regression
from twinloop.tasks.schedule import Cosine as Cosine
from twinloop.tasks.schedule import OneCycle as OneCycle
from twinloop.tasks.schedule import Plateau as Plateau
from twinloop.tasks.schedule import SequentialLR as SequentialLR
from twinloop.tasks.schedule import TorchSchedule as TorchSchedule
from twinloop.tasks.task import Task as Task
from twinloop.tasks.translation import ImageToImage as ImageToImage
