"""The optimiser of a fit, made of what the Learner has when the fit begins."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinloop.learner.learner import Learner


def begin_optimizer(learn: "Learner", lr: float | None) -> None:
    """Set `learn.opt` to a new optimiser of its model, by its `opt_func`, at `lr` or its own rate.

    What the optimiser of the last fit remembers of a parameter, such as its momentum, is copied if
    the same `opt_func` made it. Its rates are not: a schedule has used them up.

    Raises:
        TypeError: `opt_func` makes no optimiser, or one without what a callback uses.
        ValueError: an optimiser that was put into `learn.opt`, that was in a fit before, or that
            has none of the model's parameters.
    """
    last = learn.opt
    if last is not None and not hasattr(last, "made_by"):
        raise ValueError(
            "learn.opt was set, but a fit makes its own optimiser; set learn.opt_func to what "
            "makes yours: learn.opt_func = lambda parameters, lr: ..."
        )
    if not callable(learn.opt_func):
        name = type(learn.opt_func).__name__
        raise TypeError(f"opt_func is a {name}, not what makes one; give the class, or a function")
    opt: Any = learn.opt_func(learn.model.parameters(), learn.lr if lr is None else lr)
    check_methods(learn, opt)
    if opt is last:
        raise ValueError(
            "opt_func gave the optimiser of the last fit, whose rates a schedule has changed; it "
            "must make a new one in every fit"
        )
    check_parameters(learn, opt)
    if last is not None and last.made_by is learn.opt_func and hasattr(opt, "state"):
        for parameter in parameters_of(opt):
            if parameter in last.state:
                opt.state[parameter] = deepcopy(last.state[parameter])
    opt.made_by = learn.opt_func
    learn.opt = opt


@contextmanager
def whole_step(learn: "Learner") -> Iterator[None]:
    """Drop the gradients where a batch is left between backward and step, by an error or a cancel.

    They would be added to those of the next batch.
    """
    try:
        yield
    except BaseException:
        learn.opt.zero_grad()
        raise


def check_methods(learn: "Learner", opt: Any) -> None:
    """Make sure that the optimiser has what the loop and the callbacks use of it."""
    needs = [("a fit", name) for name in ("step", "zero_grad")]
    needs += [(type(cb).__name__, name) for cb in learn.cbs for name in cb.opt_needs]
    for who, name in needs:
        if not hasattr(opt, name):
            raise TypeError(
                f"{who} uses {name} of the optimiser, which opt_func's {type(opt).__name__} has "
                "not; derive it from torch.optim.Optimizer"
            )


def check_parameters(learn: "Learner", opt: Any) -> None:
    """Make sure that the optimiser changes the model."""
    ours = set(learn.model.parameters())
    if ours and hasattr(opt, "param_groups") and ours.isdisjoint(parameters_of(opt)):
        raise ValueError(
            "the optimiser has none of the model's parameters, so that nothing would be trained; "
            "opt_func must make it of the parameters that it is given"
        )


def parameters_of(opt: Any) -> list[Any]:
    """All parameters of an optimiser's groups."""
    return list(chain.from_iterable(group["params"] for group in opt.param_groups))
