"""Callbacks: whatever a run needs besides the bare loop, and how the loop calls them.

A callback is a class with methods named after events. At each event the Learner calls the method of
that name of every callback that has one, and passes itself:

>>> class CountCB(Callback):
...     batches = 0
...     def after_batch(self, learn):
...         self.batches += 1

`before_x` is called before a loop and `after_x` after it, unless the loop was cancelled in between.
`cleanup_x` is always called, even after an error, so whatever must be undone (a hook on the model,
an open file) is undone there and nowhere else.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinloop.learner.learner import Learner

LOOPS = ("fit", "epoch", "batch", "step")
"""What `with_cbs` wraps. An epoch is one pass over train or over valid: see `learn.training`."""
EVENTS = (
    *(f"{when}_{loop}" for loop in LOOPS for when in ("before", "after", "cleanup")),
    *("after_predict", "after_loss", "after_backward"),
)
VERBS = ("predict", "get_loss", "backward", "step", "zero_grad")
"""What is done with a batch, each by exactly one callback or by a subclass of Learner."""


class CancelFitException(Exception):  # noqa: N818 - the lesson's name
    """Ends the fit at once, without `after_fit`."""


class CancelEpochException(Exception):  # noqa: N818 - the lesson's name
    """Ends this pass over train or valid at once, without its `after_epoch`."""


class CancelBatchException(Exception):  # noqa: N818 - the lesson's name
    """Continues with the next batch, without `after_batch`."""


class CancelStepException(Exception):  # noqa: N818 - the lesson's name
    """Skips the step and `zero_grad`, so that gradients add up, and `after_step`."""


CANCELS = {
    "fit": CancelFitException,
    "epoch": CancelEpochException,
    "batch": CancelBatchException,
    "step": CancelStepException,
}


class with_cbs:  # noqa: N801 - read as a decorator, by the lesson's name
    """Decorates a loop with its events: a decorator with state, the name of the loop.

    `@with_cbs("fit")` first makes an object that remembers "fit"; Python then calls the object
    with the method, and puts what it returns in the method's place. There, `try` begins before
    `before_fit`, so that a cancel is honoured from the first callback on; `except` swallows this
    loop's own cancel only, so a fit's cancel passes through epoch and batch; and `finally` is
    reached on each of the ways out: by the end, by a cancel, by an error.

    >>> class Loop:
    ...     def callback(self, event): print(event)
    ...     @with_cbs("batch")
    ...     def one_batch(self): raise CancelBatchException
    >>> Loop().one_batch()
    before_batch
    cleanup_batch
    """

    def __init__(self, loop: str) -> None:
        self.loop = loop

    def __call__(self, f: Callable[..., None]) -> Callable[..., None]:
        @wraps(f)
        def _f(o: Any, *args: Any, **kwargs: Any) -> None:
            try:
                o.callback(f"before_{self.loop}")
                f(o, *args, **kwargs)
                o.callback(f"after_{self.loop}")
            except CANCELS[self.loop]:
                pass
            finally:
                o.callback(f"cleanup_{self.loop}")

        return _f


class Order(IntEnum):
    """Places in the order of callbacks: at each event the lowest number is called first.

    One number holds for all events, so each place is justified by the event that needs it.
    """

    TRACE = -100  # records an event before any callback has acted on it
    PREPARE = -90  # order and number of batches, schedules; keeps the batch as it was loaded
    DEVICE = -80  # model and batch are on the device from here on
    AVERAGE = -70  # copies the weights before they are converted; swaps them before a pass
    METRICS = -60  # the loss is still undivided, and autocast is still on
    PRECISION = -50  # model and batch are converted from here on
    REPORT = -40  # metrics are known, and the loss is still undivided
    ACCUMULATE = -30  # divides the loss; cancels a step before its gradients are touched
    UNSCALE = -20  # leaves autocast; gradients have their own scale from here on
    DEFAULT = 0  # other callbacks: batch, loss and gradients are ready, nothing is saved yet
    SAVE = 10  # all that belongs to the epoch is in its checkpoint
    RESUME = 20  # restores what all callbacks above have set up before the fit
    DISTRIBUTE = 30  # wraps the model, once its weights are final
    CLIP = 40  # gradients are complete
    VALIDATE = 50  # the batch of train is done
    STOP = 60  # whatever was due after the batch is done


class Callback:
    """Does one thing at some events, by methods that get the Learner: `after_batch(self, learn)`.

    At each event callbacks are called by `order`, lowest first; those of one order are called as
    they were given. A number next to another callback's says which has to come first:
    `order = MetricsCB.order + 1`.
    """

    order: int = Order.DEFAULT
    given_to: int | None = None  # the number of the Learner that has it, or had it last
    opt_needs: tuple[str, ...] = ()  # what it uses of an optimiser beside step and zero_grad

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of this callback, in tensors and plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the `state` of a checkpoint."""


def sort_callbacks(*groups: Callback | Iterable[Callback]) -> list[Callback]:
    """Sort callbacks by `order`, otherwise as they were given.

    Each of the `groups` is a single callback or several.

    Raises:
        TypeError: no callback, or a method that is named like an event and is none.
        ValueError: one that is given twice, and would act twice at each event.
    """
    given = [cb for cbs in groups for cb in ([cbs] if isinstance(cbs, Callback) else cbs)]
    for number, cb in enumerate(given):
        if not isinstance(cb, Callback):
            made = f"; make one of it: {cb.__name__}(...)" if isinstance(cb, type) else ""
            raise TypeError(f"{cb!r} is no callback{made}")
        for name in dir(cb):
            if name.startswith(("before_", "after_", "cleanup_")):
                check_method(cb, name)
        if any(cb is other for other in given[:number]):
            raise ValueError(f"one and the same {type(cb).__name__} is given twice")
    return sorted(given, key=attrgetter("order"))


def check_method(cb: Callback, name: str) -> None:
    """Make sure that an attribute that is named like an event is one, unless it is mere data.

    Raises:
        TypeError: a method that is no event, or an event that is no method.
    """
    method = callable(getattr(cb, name))
    if method:
        check_event(cb, name)
    elif name in EVENTS:
        raise TypeError(f"{type(cb).__name__}.{name} is an event, and must be a method")


def check_event(owner: object, name: str) -> None:
    """Make sure that `name` is an event.

    Raises:
        TypeError: it is none; the nearest is named.
    """
    if name not in EVENTS:
        near = difflib.get_close_matches(name, EVENTS, n=1, cutoff=0)[0]
        raise TypeError(f"{type(owner).__name__}.{name} is no event; did you mean {near!r}?")


@contextmanager
def with_also(learn: "Learner", cbs: Callback | Iterable[Callback]) -> Iterator[None]:
    """Add `cbs` to those of a Learner until the fit has ended, as a tuple: nothing is added inside.

    Raises:
        TypeError: a verb that nobody implements, or that two would.
        ValueError: a callback that is given twice, or that another Learner was given since.
    """
    own, learn.cbs = learn.cbs, tuple(sort_callbacks(learn.cbs, cbs))
    try:
        check_verbs(learn)
        check_owner(learn, own)
        yield
    finally:
        learn.cbs = own


def check_owner(learn: "Learner", cbs: Iterable[Callback]) -> None:
    """Make sure that what callbacks remember is of this Learner.

    Raises:
        ValueError: another Learner was given one since.
    """
    for cb in cbs:
        if cb.given_to not in (None, learn.number):
            raise ValueError(
                f"another Learner was given this {type(cb).__name__} since, and it would mix up "
                "what it remembers of both; make new callbacks for each Learner"
            )


def check_verbs(learn: "Learner") -> None:
    """Make sure that each of the five verbs is implemented, and only once.

    Raises:
        TypeError: a verb that nobody implements, or that two would.
    """
    for verb in VERBS:
        owners = [type(cb).__name__ for cb in learn.cbs if callable(getattr(cb, verb, None))]
        if hasattr(type(learn), verb):
            owners.insert(0, type(learn).__name__)
        if not owners:
            raise TypeError(
                f"nobody implements {verb!r}: add a TrainCB, or train with a TrainLearner"
            )
        if len(owners) > 1:
            raise TypeError(f"{', '.join(owners)} all implement {verb!r}; keep one of them")


def run_cbs(cbs: Sequence[Callback], event: str, learn: "Learner") -> None:
    """Call the method `event` of every callback that has one.

    On a cleanup all callbacks are called before the first error is raised, so that each can undo
    what it did; an error is raised rather than a cancel, which would hide it.
    """
    failed: BaseException | None = None
    for cb in cbs:
        if not hasattr(cb, event):
            continue
        try:
            call(cb, event, learn)
        except BaseException as error:
            if not event.startswith("cleanup_"):
                raise
            if failed is None or isinstance(failed, tuple(CANCELS.values())):
                failed = error
    if failed is not None:
        raise failed


def call(cb: Callback, name: str, learn: "Learner") -> None:
    """Call one method of a callback; an error gets a note that says where it came from."""
    try:
        getattr(cb, name)(learn)
    except BaseException as error:
        if not isinstance(error, tuple(CANCELS.values())):
            error.add_note(f"in {type(cb).__name__}.{name}, epoch {learn.epoch}, batch {learn.num}")
        raise
