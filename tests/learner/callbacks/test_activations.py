"""Statistics of layers, by hand."""

import pytest
import torch
from torch import nn

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


def hooks(learn: Learner) -> int:
    return sum(len(module._forward_hooks) for module in learn.model.modules())


def test_means_deviations_and_histograms_by_hand() -> None:
    learner(stats := ActivationStatsCB()).fit(1)
    assert stats.stats.keys() == stats.histograms.keys() == {"1"}  # by the name in the model
    found = stats.stats["1"]
    assert found.shape == (2, 2)
    # 1, 2, 0, 4: mean 7/4; squares of what is left over 9/16 + 1/16 + 49/16 + 81/16, by 3.
    assert found[0].tolist() == pytest.approx([7 / 4, (140 / 16 / 3) ** 0.5])
    assert found[1].tolist() == pytest.approx(
        [31.9 / 4, torch.tensor([0, 9.9, 10, 12]).std().item()]
    )
    histogram = stats.histograms["1"]
    assert histogram.shape == (2, 50)  # bins of a fifth
    assert histogram.nonzero().tolist() == [[0, 0], [0, 5], [0, 10], [0, 20], [1, 0], [1, 49]]
    assert histogram[1, 49] == 2  # 9.9 and 10; 12 is outside


def test_only_train_counts_and_a_fit_begins_anew() -> None:
    learn = learner(stats := ActivationStatsCB())
    learn.fit(3)
    assert stats.stats["1"].shape == (6, 2)
    learn.fit(1)
    assert stats.stats["1"].shape == (2, 2)
    learn.fit(1, train=False)
    assert stats._stats == {"1": []}


def test_other_modules() -> None:
    learner(stats := ActivationStatsCB((nn.Tanh, nn.Linear))).fit(1)
    assert stats.stats.keys() == {"2", "3"}


def test_before_a_fit_there_is_nothing() -> None:
    assert ActivationStatsCB().stats == ActivationStatsCB().histograms == {}


@pytest.mark.parametrize("event", ["before_fit", "after_loss", "after_epoch", "cleanup_fit"])
@pytest.mark.parametrize("error", [CancelFitException(), ValueError(), KeyboardInterrupt()])
@pytest.mark.parametrize("first", [False, True])
def test_no_hook_is_left_however_a_fit_ends(event: str, error: BaseException, first: bool) -> None:
    class Ends(Callback):
        def __init__(self) -> None:
            setattr(self, event, self._raise)

        def _raise(self, learn: Learner) -> None:
            assert hooks(learn) == 1 or first
            raise error

    cbs: list[Callback] = [ActivationStatsCB(), Ends()]
    learn = learner(*(cbs[::-1] if first else cbs))
    caught = None
    try:
        learn.fit(1)
    except BaseException as found:
        caught = found
    assert caught is (None if isinstance(error, CancelFitException) else error) or (
        event == "cleanup_fit"
    )
    assert hooks(learn) == 0
