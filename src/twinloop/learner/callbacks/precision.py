"""Precision: mixed by autocast, or true by converting the model."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from twinloop.learner.callback import Callback, Order
from twinloop.learner.callbacks.device import changed
from twinloop.learner.callbacks.train import TrainCB
from twinloop.learner.learner import Learner


class MixedPrecisionCB(TrainCB):
    """Forward and loss under autocast, in place of `TrainCB`; Lightning: `precision="bf16-mixed"`.

    float16 has so small a range that gradients would underflow: the loss is scaled up before the
    backward, and gradients down again before the step (Micikevicius et al. 2017, arXiv:1710.03740).

    Args:
        dtype: torch.bfloat16 or torch.float16.
        device: The type of the model's device.
        n_inp: How many parts of a batch are the model's inputs.
    """

    order = Order.UNSCALE

    def __init__(
        self, dtype: torch.dtype = torch.bfloat16, device: str = "cpu", n_inp: int = 1
    ) -> None:
        super().__init__(n_inp)
        self.dtype = dtype
        self.device = device
        self.scaler = torch.amp.GradScaler(device) if dtype == torch.float16 else None
        self.opt_needs = ("param_groups",) if self.scaler else ()
        self.context = ExitStack()

    def before_fit(self, learn: Learner) -> None:
        """Keep the scale, but nothing of a step that the last fit was left in."""
        if self.scaler:
            state = self.scaler.state_dict()
            self.scaler = torch.amp.GradScaler(self.device)
            self.scaler.load_state_dict(state)

    def before_batch(self, learn: Learner) -> None:
        """Enter autocast without its cache, which would share the copies of tied weights."""
        self.context.enter_context(torch.autocast(self.device, self.dtype, cache_enabled=False))

    def after_loss(self, learn: Learner) -> None:
        """Leave autocast: backward runs in the types of forward."""
        self.context.close()

    def cleanup_batch(self, learn: Learner) -> None:
        """Leave autocast even where the batch ended before its loss."""
        self.context.close()

    def backward(self, learn: Learner) -> None:
        """Add the gradients, in float16 scaled up."""
        loss = self.scaler.scale(learn.loss) if self.scaler else learn.loss
        loss.backward()  # type: ignore[no-untyped-call]

    def before_step(self, learn: Learner) -> None:
        if self.scaler:
            self.scaler.unscale_(learn.opt)

    def step(self, learn: Learner) -> None:
        """Update the parameters, unless a gradient of float16 has overflowed."""
        if self.scaler:
            self.scaler.step(learn.opt)
            self.scaler.update()
        else:
            learn.opt.step()

    def state_dict(self) -> dict[str, Any]:
        """The scale, which adapts during a run."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler:
            self.scaler.load_state_dict(state)


class TruePrecisionCB(Callback):
    """Converts the model, and the floats of each batch; Lightning: `precision="64-true"`.

    The model stays converted after the fit.
    """

    order = Order.PRECISION

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.default: torch.dtype | None = None

    def before_fit(self, learn: Learner) -> None:
        """Convert the model in place, so that the optimiser keeps its parameters.

        An optimiser may have made state for them already, as Adagrad does.
        """
        learn.model.to(self.dtype)
        for weight, state in getattr(learn.opt, "state", {}).items():
            for name, value in state.items():
                if name != "step" and isinstance(value, Tensor) and value.shape == weight.shape:
                    state[name] = value.to(self.dtype)

    def before_batch(self, learn: Learner) -> None:
        """Convert the batch, and by the default type whatever the model creates in forward."""
        learn.batch = changed(learn.batch, self._convert)
        self.default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def after_loss(self, learn: Learner) -> None:
        self.cleanup_batch(learn)

    def cleanup_batch(self, learn: Learner) -> None:
        """Restore the default type even where the batch ended before its loss."""
        if self.default is not None:
            torch.set_default_dtype(self.default)
            self.default = None

    def _convert(self, part: Tensor) -> Tensor:
        return part.to(self.dtype) if part.is_floating_point() else part
