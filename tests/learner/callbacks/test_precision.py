"""The types that a batch is computed in, and that they are restored after it."""

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.learner.learners import Raises, assert_equal, classes, weights
from twinloop.learner import (
    Callback,
    CancelBatchException,
    CancelFitException,
    DataLoaders,
    Learner,
    Order,
)
from twinloop.learner.callbacks import (
    AccumulateCB,
    GradientClipCB,
    MetricsCB,
    MixedPrecisionCB,
    TrainCB,
    TruePrecisionCB,
    ValidateCB,
)

DATA = classes(6, 6, 6)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def learner(*cbs: Callback, model: nn.Module | None = None) -> Learner:
    return Learner(model or network(), DataLoaders(DATA, DATA[:1]), lr=0.1, cbs=cbs)


class Types(Callback):
    """Writes down the types that a batch is computed in."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.dtype, ...]] = []

    def after_predict(self, learn: Learner) -> None:
        self.preds = learn.batch[0].dtype, learn.preds.dtype

    def after_loss(self, learn: Learner) -> None:
        assert_left()
        self.seen.append((*self.preds, learn.loss.dtype))


def assert_left() -> None:
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_default_dtype() == torch.float32


def test_mixed_bfloat16_is_a_loop_written_by_hand() -> None:
    learn = learner(MixedPrecisionCB(), types := Types())
    learn.fit(2)
    assert set(types.seen) == {(torch.float32, torch.bfloat16, torch.float32)}

    model = network()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    for xb, yb in DATA * 2:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(xb), yb)
        loss.backward()  # type: ignore[no-untyped-call]
        opt.step()
        opt.zero_grad()
    assert_equal(learn.model.state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_true_precision_is_a_loop_written_by_hand(dtype: torch.dtype) -> None:
    learn = learner(TrainCB(), TruePrecisionCB(dtype), types := Types())
    learn.fit(2)
    assert set(types.seen) == {(dtype, dtype, dtype)}

    model = network().to(dtype)
    opt = torch.optim.SGD(model.parameters(), 0.1)
    for xb, yb in DATA * 2:
        F.cross_entropy(model(xb.to(dtype)), yb).backward()  # type: ignore[no-untyped-call]
        opt.step()
        opt.zero_grad()
    assert_equal(learn.model.state_dict(), model.state_dict())


def test_what_a_model_makes_anew_has_the_true_precision_and_labels_stay_whole() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            made.append(torch.zeros(1).dtype)
            preds: Tensor = self.layer(x)
            return preds

    made: list[torch.dtype] = []
    labels: list[torch.dtype] = []

    class Labels(Callback):
        def after_loss(self, learn: Learner) -> None:
            labels.append(learn.batch[1].dtype)

    learner(TrainCB(), TruePrecisionCB(torch.float64), Labels(), model=Noisy()).fit(1)
    assert set(made) == {torch.float64}
    assert set(labels) == {torch.int64}


FIRST, LAST = Order.PREPARE, Order.DEFAULT  # before precision has acted on the event, and after it


@pytest.mark.parametrize(
    ("event", "error", "order"),
    [
        ("before_batch", CancelBatchException(), FIRST),
        ("before_batch", CancelFitException(), LAST),
        ("after_predict", ValueError(), LAST),
        ("after_loss", KeyboardInterrupt(), FIRST),
    ],
)
@pytest.mark.parametrize("kind", ["mixed", "true"])
def test_neither_autocast_nor_a_default_is_left_however_a_batch_ends(
    kind: str, event: str, error: BaseException, order: int
) -> None:
    cbs: list[Callback] = [Raises(event, error, lambda learn: learn.num == 1, order)]
    cbs += [TrainCB(), TruePrecisionCB(torch.float64)] if kind == "true" else [MixedPrecisionCB()]
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        learner(*cbs).fit(2)
    assert_left()


def test_an_error_of_the_model_leaves_neither() -> None:
    bad = nn.Linear(5, 3)
    for cbs in ([MixedPrecisionCB()], [TrainCB(), TruePrecisionCB(torch.float64)]):
        with pytest.raises(RuntimeError, match="shapes"):
            learner(*cbs, model=bad).fit(1)
        assert_left()


def test_validation_inside_a_batch_leaves_the_types_as_they_are() -> None:
    cbs = [TrainCB(), TruePrecisionCB(torch.float64), MetricsCB(), ValidateCB(every_n_batches=1)]
    one = learner(*cbs)
    one.fit(1, valid=False)
    other = learner(*cbs[:3])
    other.fit(1)
    assert_equal(weights(one), weights(other))


# --- float16, whose scaler works on a CPU too ---------------------------------------------------


def test_float16_is_scaled_before_backward_and_down_before_other_callbacks_see_it() -> None:
    class Norms(Callback):
        def after_backward(self, learn: Learner) -> None:
            self.scaled = self.norm(learn)

        def before_step(self, learn: Learner) -> None:
            norms.append((self.scaled / self.norm(learn)).item())

        def norm(self, learn: Learner) -> Tensor:
            return nn.utils.get_total_norm([p.grad for p in learn.model.parameters()])  # type: ignore[misc]

    norms: list[float] = []
    mixed = MixedPrecisionCB(torch.float16)
    learner(mixed, Norms(), GradientClipCB(1.0)).fit(1)
    assert norms == pytest.approx([2.0**16] * 3, rel=1e-4)


def test_a_gradient_that_overflows_is_no_step_and_halves_the_scale() -> None:
    class Overflow(Callback):
        order = MixedPrecisionCB.order - 1

        def before_step(self, learn: Learner) -> None:
            weight = next(learn.model.parameters())
            assert weight.grad is not None
            weight.grad[0, 0] = torch.inf

    learn = learner(mixed := MixedPrecisionCB(torch.float16), Overflow())
    before = weights(learn)
    learn.fit(1)
    assert_equal(weights(learn), before)
    assert mixed.scaler is not None
    assert mixed.scaler.get_scale() == 2.0**16 / 2**3
    # A checkpoint keeps the scale.
    other = MixedPrecisionCB(torch.float16)
    other.load_state_dict(mixed.state_dict())
    assert other.state_dict() == mixed.state_dict()
    assert MixedPrecisionCB().state_dict() == {}


def test_float16_and_accumulation_scale_a_window_down_once() -> None:
    learn = learner(MixedPrecisionCB(torch.float16), AccumulateCB(2))
    learn.fit(1)
    reference = learner(TrainCB(), AccumulateCB(2))
    reference.fit(1)
    assert learn.steps == 2
    for one, other in zip(learn.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_state_that_an_optimiser_has_made_already_is_converted() -> None:
    learn = learner(TrainCB(), TruePrecisionCB(torch.bfloat16))
    learn.opt_func = torch.optim.Adagrad
    learn.fit(1, valid=False)
    states = [learn.opt.state[p] for p in learn.model.parameters()]
    assert {(s["sum"].dtype, s["step"].dtype) for s in states} == {(torch.bfloat16, torch.float32)}
