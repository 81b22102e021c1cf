"""Statistics of activations, computed by hand."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from tests.learner.learners import Raises
from twinloop.learner import Callback, CancelFitException, DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import ActivationStatsCB

TRAIN = [
    (torch.tensor([[1.0], [2.0], [-3.0], [4.0]]), torch.zeros(4, 1)),
    (torch.tensor([[-1.0], [9.9], [10.0], [12.0]]), torch.zeros(4, 1)),
]
VALID = [(torch.full((4, 1), 5.0), torch.zeros(4, 1))]


def learner(*cbs: Callback) -> Learner:
    """The first ReLU gets the inputs as they are, at a rate of 0."""
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(1, 1), nn.Tanh())
    return TrainLearner(model, DataLoaders(TRAIN, VALID), nn.functional.mse_loss, 0.0, cbs)


def test_means_deviations_and_histograms_by_hand() -> None:
    learner(stats := ActivationStatsCB()).fit(1)
    assert stats.stats.keys() == stats.histograms.keys() == {"1"}  # by the name in the model
    found = stats.stats["1"]
    assert found.shape == (2, 2)
    # 1, 2, 0, 4: mean 7/4; sum of squared deviations 9/16 + 1/16 + 49/16 + 81/16, over 3.
    assert found[0].tolist() == pytest.approx([7 / 4, (140 / 16 / 3) ** 0.5])
    assert found[1].tolist() == pytest.approx(
        [31.9 / 4, torch.tensor([0, 9.9, 10, 12]).std().item()]
    )
    histogram = stats.histograms["1"]
    assert histogram.shape == (2, 50)  # bins of a fifth
    assert histogram.nonzero().tolist() == [[0, 0], [0, 5], [0, 10], [0, 20], [1, 0], [1, 49]]
    assert histogram[1, 49] == 3  # 9.9, 10 and 12


def test_only_train_counts_and_a_fit_begins_anew() -> None:
    learn = learner(stats := ActivationStatsCB((nn.ReLU, nn.Tanh)))
    assert stats.stats == stats.histograms == {}
    for n_epochs in (3, 1):
        learn.fit(n_epochs)
        assert stats.stats.keys() == {"1", "3"}
        assert stats.stats["1"].shape == (2 * n_epochs, 2)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ("before_fit", CancelFitException()),
        ("after_loss", KeyboardInterrupt()),
        ("cleanup_fit", ValueError()),
    ],
)
@pytest.mark.parametrize("order", [-1, 1])
def test_no_hook_is_left_however_a_fit_ends(event: str, error: BaseException, order: int) -> None:
    learn = learner(ActivationStatsCB(), Raises(event, error, order=order))
    with contextlib.suppress(KeyboardInterrupt, ValueError):
        learn.fit(1)
    assert not any(module._forward_hooks for module in learn.model.modules())


def test_the_figure_has_the_numbers_of_each_module() -> None:
    learner(stats := ActivationStatsCB((nn.ReLU, nn.Tanh))).fit(1)
    axes = stats.plot().axes
    titles = ["mean", "standard deviation", "share near 0", "1", "3"]
    assert [axis.get_title() for axis in axes if axis.axison] == titles
    lines = (*stats.stats["1"].T, torch.tensor([1 / 4, 1 / 4]))
    for axis, expected in zip(axes, lines, strict=False):
        assert axis.lines[0].get_label() == "1"
        np.testing.assert_array_equal(np.asarray(axis.lines[0].get_ydata()), expected)
    shown = np.asarray(axes[3].images[0].get_array())
    np.testing.assert_array_equal(shown, stats.histograms["1"].log1p().T)
    # Those of Tanh are at most 1, in the first five bins or the sixth.
    assert np.asarray(axes[4].images[0].get_array()).shape[0] <= 6


def test_a_search_leaves_the_statistics_of_the_fit() -> None:
    learn = learner(stats := ActivationStatsCB())
    learn.fit(1)
    learn.lr_find(n_epochs=3)
    assert stats.stats["1"].shape == (2, 2)
