"""Gradient clipping."""

from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner


class GradientClipCB(Callback):
    """Clips before each step; Lightning: `gradient_clip_val`, `gradient_clip_algorithm`.

    Args:
        limit: The largest norm of all gradients together, or the largest absolute value.
        algorithm: 'norm' scales all gradients by one factor; 'value' clamps each value by itself.

    Raises:
        ValueError: another algorithm.
    """

    order = Order.CLIP
    opt_needs = ("param_groups",)

    def __init__(self, limit: float, algorithm: str = "norm") -> None:
        if algorithm not in ("norm", "value"):
            raise ValueError(f"algorithm is {algorithm!r}; it must be 'norm' or 'value'")
        self.limit = limit
        self.algorithm = algorithm

    def before_step(self, learn: Learner) -> None:
        parameters = [p for group in learn.opt.param_groups for p in group["params"]]
        if self.algorithm == "norm":
            clip_grad_norm_(parameters, self.limit)
        else:
            clip_grad_value_(parameters, self.limit)
