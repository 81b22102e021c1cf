"""Several labels for an image: loss, metrics, and targets that are none."""

import pytest
import torch
from torch.nn import functional as F
from torch.optim import SGD

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.tasks import MultiLabel

SPEC = DataSpec("tags", "", (1, 2, 2), ("cat", "dog"))


def task(spec: DataSpec = SPEC) -> MultiLabel:
    return MultiLabel(MLP, lambda weights: SGD(weights, 0.1), spec)


def test_a_positive_logit_is_a_label_however_small() -> None:
    labels = task()
    logits = torch.tensor([[0.2, 0.1], [0.3, 0.4], [0.2, 0.1]])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    loss = labels.loss(logits, target)
    assert loss == F.binary_cross_entropy(logits.sigmoid(), target)
    labels.count("val", logits, target, loss)
    found = {name: round(float(value), 4) for name, value in labels.compute("val").items()}
    # All are found: cat is right in one of three rows, dog in two.
    assert found["val/accuracy"] == round((1 / 3 + 2 / 3) / 2, 4)
    assert found["val/f1"] == round((2 / 4 + 4 / 5) / 2, 4)


def test_what_is_no_labels_is_refused() -> None:
    with pytest.raises(UserError, match="needs the names of at least two labels, and tags has 0"):
        task(SPEC._replace(class_names=()))
    with pytest.raises(UserError, match=r"targets have the shape \[3\].*set data.target to labels"):
        task().loss(torch.zeros(3, 2), torch.zeros(3))
