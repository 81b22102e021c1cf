"""What is recorded of each batch, and drawn."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from tests.learner.learners import scalar
from twinloop.learner import Callback, Learner
from twinloop.learner.callbacks import AccumulateCB, BatchSchedCB, RecorderCB


class Keeps(Callback):
    """Keeps the loss of each batch of train."""

    order = RecorderCB.order - 1

    def before_fit(self, learn: Learner) -> None:
        self.losses: list[float] = []

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            self.losses.append(learn.loss.item())


def test_rate_momentum_and_loss_are_those_of_each_batch() -> None:
    schedule = BatchSchedCB(partial(StepLR, step_size=1, gamma=0.5))
    learn = scalar(schedule, keeps := Keeps(), recorder := RecorderCB(), AccumulateCB(2), lr=0.5)
    learn.opt_func = partial(torch.optim.SGD, momentum=0.75)
    for n_epochs in (3, 2):  # a fit begins anew
        learn.fit(n_epochs)
        # Of three batches two end in a step: the second, and the epoch's last one.
        rates = [0.5 * 0.5 ** (2 * epoch + late) for epoch in range(n_epochs) for late in (0, 0, 1)]
        assert recorder.recs["lr"] == rates
        assert recorder.recs["momentum"] == [0.75] * 3 * n_epochs
        assert recorder.recs["loss"] == keeps.losses
        assert len(set(keeps.losses)) > 2


@pytest.mark.parametrize(
    ("opt_func", "momentum"),
    [(torch.optim.SGD, 0.0), (partial(torch.optim.Adam, betas=(0.875, 0.999)), 0.875)],
)
def test_the_momentum_of_an_optimiser(opt_func: Any, momentum: float) -> None:
    learn = scalar(recorder := RecorderCB())
    learn.opt_func = opt_func
    learn.fit(1)
    assert recorder.recs["momentum"] == [momentum] * 3


def test_values_of_ones_own_are_recorded_and_drawn_as_in_the_lesson() -> None:
    recorder = RecorderCB(lr=lambda cb: cb.pg["lr"], double=lambda cb: 2 * cb.loss)
    scalar(recorder, keeps := Keeps()).fit(2)
    assert list(recorder.recs) == ["lr", "double"]
    assert recorder.recs["double"] == [2 * loss for loss in keeps.losses]
    axes = recorder.plot().axes
    assert [axis.get_title() for axis in axes] == ["lr", "double"]
    drawn = np.asarray(axes[1].lines[0].get_ydata()).tolist()
    assert drawn == recorder.recs["double"]
