"""What a Learner offers at a prompt, beside `fit`: methods of it, which the loop does not need."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twinloop.learner.callback import EVENTS, VERBS, Callback, sort_callbacks
from twinloop.learner.lesson import refuse

if TYPE_CHECKING:
    from twinloop.learner.callbacks import LRFinderCB
    from twinloop.learner.learner import Learner


def add_cb(learn: "Learner", *cbs: Callback | Iterable[Callback]) -> None:
    """Add callbacks, which from now on are this Learner's.

    Raises:
        TypeError: no callback, or a method that is named like an event and is none.
        ValueError: one that is there already.
        RuntimeError: inside a fit.
    """
    check_outside(learn)
    new = sort_callbacks(*cbs)
    learn.cbs = sort_callbacks(learn.cbs, new)
    for cb in new:
        cb.given_to = learn.number


def rm_cb(learn: "Learner", *which: Callback | type[Callback]) -> None:
    """Remove callbacks: one of them, or all of a class such as `ProgressCB`.

    Raises:
        ValueError: there is none.
        RuntimeError: inside a fit.
    """
    check_outside(learn)
    for one in which:
        rest = [
            cb
            for cb in sort_callbacks(learn.cbs)
            if not (isinstance(cb, one) if isinstance(one, type) else cb is one)
        ]
        if len(rest) == len(learn.cbs):
            name = one.__name__ if isinstance(one, type) else f"such {type(one).__name__}"
            there = ", ".join(type(cb).__name__ for cb in rest) or "none"
            raise ValueError(f"there is no {name} among the callbacks; there are: {there}")
        learn.cbs = rest


def check_outside(learn: "Learner") -> None:
    """Make sure that no fit is running: one callback would miss its beginning, or its cleanup."""
    if isinstance(learn.cbs, tuple):
        raise RuntimeError(
            "callbacks cannot be added or removed inside a fit; do so before it, or give them to "
            "fit(cbs=...)"
        )


def lr_find(learn: "Learner", **options: Any) -> "LRFinderCB":
    """Search for a learning rate; as the last line of a cell it shows the figure.

    The `options` and what is found are those of `twinloop.learner.callbacks.lr_find`.
    """
    from twinloop.learner.callbacks import lr_find  # callbacks import the Learner

    refuse(options, start_lr="start", max_epochs="n_epochs", lr_mult="gamma")
    return lr_find(learn, **options)


def summary_of(learn: "Learner") -> str:
    """One line per callback in the order of calls: its class, and what it implements."""
    names = [type(cb).__name__ for cb in learn.cbs]
    has = [", ".join(n for n in (*EVENTS, *VERBS) if hasattr(cb, n)) for cb in learn.cbs]
    width = max(map(len, names), default=0)
    return "\n".join(f"{name:{width}}  {what}" for name, what in zip(names, has, strict=True))


def text_of(learn: "Learner") -> str:
    """The Learner on one screen: model, batches, optimiser, callbacks, and where it is."""
    parameters = sum(parameter.numel() for parameter in learn.model.parameters())
    rows = {
        "model": f"{type(learn.model).__name__}, {parameters:,} parameters",
        "batches": f"{len(learn.dls.train)} of train, {len(learn.dls.valid)} of valid",
        "loss": name_of(learn.loss_func),
        "optimiser": f"{name_of(learn.opt_func)}, lr {learn.lr:g}",
        "callbacks": ", ".join(type(cb).__name__ for cb in learn.cbs) or "none",
        "steps": f"{learn.steps:,}",
        "metrics": "  ".join(f"{name} {float(v):.4f}" for name, v in learn.metrics.items()),
    }
    lines = (f"  {name:9}  {what}" for name, what in rows.items() if what)
    return "\n".join([type(learn).__name__, *lines])


def name_of(made: Any) -> str:
    """The name of a function or a class, also of one with some arguments given, or of an object."""
    made = getattr(made, "func", made)
    return str(getattr(made, "__name__", type(made).__name__))
