"""Plain `nn.Module`s, created from the shape of an image."""

from twinloop.models.autoencoder import Autoencoder as Autoencoder
from twinloop.models.autoencoder import BottleneckAutoencoder as BottleneckAutoencoder
from twinloop.models.autoencoder import LessonAutoencoder as LessonAutoencoder
from twinloop.models.classifier import LessonClassifier as LessonClassifier
from twinloop.models.classifier import SequentialClassifier as SequentialClassifier
from twinloop.models.libraries import Timm as Timm
from twinloop.models.libraries import Torchvision as Torchvision
from twinloop.models.mlp import MLP as MLP
