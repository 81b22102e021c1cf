"""Callbacks: whatever a run wants besides the bare loop, and how the loop calls them.

A callback is a class with methods named after events. The Learner asks each of its callbacks
whether it has a method of that name, and calls it with itself:

>>> class Count(Callback):
...     batches = 0
...     def after_batch(self, learn):
...         self.batches += 1

`before_x` comes before a loop and `after_x` after it, unless somebody has raised the loop's
cancel exception in between. `cleanup_x` always comes, also after an error, so whatever must be
undone (a hook on the model, an open file) is undone there and nowhere else.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, ClassVar

from torch import Tensor

LOOPS = ("fit", "epoch", "batch", "step")
"""What `with_cbs` wraps. An epoch is one pass over train or over valid: see `learn.training`."""
EVENTS = (
    *(f"{when}_{loop}" for loop in LOOPS for when in ("before", "after", "cleanup")),
    *("after_predict", "after_loss", "after_backward"),
)
VERBS = ("predict", "get_loss", "backward", "step", "zero_grad")
"""What is done with a batch, by exactly one callback each or by a subclass of Learner."""


class CancelFitException(Exception):  # noqa: N818 - the lesson's name
    """Ends the fit at once; `after_fit` is left out."""


class CancelEpochException(Exception):  # noqa: N818 - the lesson's name
    """Ends this pass over train or valid at once; its `after_epoch` is left out."""


class CancelBatchException(Exception):  # noqa: N818 - the lesson's name
    """Goes on with the next batch; `after_batch` is left out."""


class CancelStepException(Exception):  # noqa: N818 - the lesson's name
    """Leaves out the step and zeroing the gradients, so that they add up; and `after_step`."""


CANCELS = dict(
    zip(
        LOOPS,
        (CancelFitException, CancelEpochException, CancelBatchException, CancelStepException),
        strict=True,
    )
)


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

    def __call__(self, f: Callable[..., None]) -> Callable[..., None]:  # noqa: D102
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


class Callback:
    """Does one thing at some events. Methods get the Learner: `after_batch(self, learn)`.

    Callbacks are called in the order in which they are given, except that one comes after those
    whose classes it names in `follows` and before those that it names in `precedes`; subclasses
    of a named class are meant too.
    """

    follows: ClassVar[tuple[str, ...]] = ()
    precedes: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of this callback, in tensors and plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's `state`."""


class HasCallbacks:
    """What a Learner is to its callbacks: where it is, and how it calls them.

    Python calls `__getattr__` only for a name that it finds nowhere else. So a verb that a subclass
    defines is the subclass's; any other is looked for among the callbacks when it is called.

    >>> class Shout(Callback):
    ...     def predict(self, learn): print("predict!")
    >>> loop = HasCallbacks()
    >>> loop.cbs = [Shout()]
    >>> loop.predict()
    predict!
    """

    cbs: Sequence[Callback] = ()
    opt: Any = None  # the optimiser, once there is one
    batch: Any  # (xb, yb)
    preds: Tensor
    loss: Tensor
    dl: Any  # the loader of this pass
    passes: tuple[bool, ...] = (True, False)  # what an epoch goes through: train, valid
    training = True
    epoch = n_epochs = num = n_batches = 0  # in batch `num` of epoch `epoch`
    steps = 0  # of the optimiser, since the Learner was made
    stopping = False  # set by a callback: end the epoch after this batch, and with it the fit

    def __post_init__(self) -> None:
        self.cbs = in_order(self.cbs)
        self.metrics: dict[str, Tensor] = {}

    @property
    def stage(self) -> str:
        """'train' or 'val': what this pass goes through."""
        return "train" if self.training else "val"

    @property
    def ends_epoch(self) -> bool:
        """Whether this pass is the epoch's last, after which everything of it is known."""
        return self.training == self.passes[-1]

    def callback(self, event: str) -> None:
        """Tell every callback that `event` is here."""
        run_cbs(self.cbs, event, self)

    @contextmanager
    def with_more(self, cbs: Iterable[Callback]) -> Iterator[None]:
        """Have further callbacks for a while."""
        own = self.cbs
        self.cbs = in_order([*own, *cbs])
        try:
            check_owners(self)
            yield
        finally:
            self.cbs = own

    def summary(self) -> str:
        """The callbacks in the order in which they are called, and what each answers."""
        rows = [
            (type(cb).__name__, [n for n in (*EVENTS, *VERBS) if hasattr(cb, n)]) for cb in self.cbs
        ]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:{width}}  {', '.join(answers)}" for name, answers in rows)

    def __getattr__(self, name: str) -> Any:
        for cb in self.cbs if name in VERBS else ():
            if hasattr(cb, name):
                return partial(_call, cb, name, self)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def in_order(cbs: Iterable[Callback]) -> list[Callback]:
    """Sort callbacks by what they need, otherwise as they were given.

    Raises:
        TypeError: a method is named like an event and is none.
        ValueError: callbacks that each want to come before the other.
    """
    waiting, done = list(cbs), []
    for given in waiting:
        _check_events(given)
    while waiting:
        free = (
            cb for cb in waiting if not any(_comes_before(o, cb) for o in waiting if o is not cb)
        )
        cb = next(free, None)
        if cb is None:
            raise ValueError(f"callbacks each want to come before the other: {_names(waiting)}")
        waiting.remove(cb)
        done.append(cb)
    return done


def check_owners(learn: HasCallbacks) -> None:
    """Make sure that each of the five verbs is answered, and by one only.

    Raises:
        TypeError: a verb that nobody implements, or that two would.
    """
    for verb in VERBS:
        owners: list[object] = [cb for cb in learn.cbs if callable(getattr(cb, verb, None))]
        if hasattr(type(learn), verb):
            owners.insert(0, learn)
        if not owners:
            raise TypeError(
                f"nobody implements {verb!r}: add a TrainCB, or train with a TrainLearner"
            )
        if len(owners) > 1:
            raise TypeError(f"{_names(owners)} all want to do {verb!r}; keep one of them")


def run_cbs(cbs: Sequence[Callback], event: str, learn: HasCallbacks) -> None:
    """Call the method `event` of every callback that has one.

    On a cleanup the other callbacks are still called before the first error goes on, so that each
    can undo what it did; an error goes before a cancel, which would hide it.
    """
    failed: BaseException | None = None
    for cb in cbs:
        if not hasattr(cb, event):
            continue
        try:
            _call(cb, event, learn)
        except BaseException as error:
            if not event.startswith("cleanup_"):
                raise
            if failed is None or isinstance(failed, tuple(CANCELS.values())):
                failed = error
    if failed is not None:
        raise failed


def check_event(owner: object, name: str) -> None:
    """Make sure that `name` is an event.

    Raises:
        TypeError: it is none; the nearest is named.
    """
    if name not in EVENTS:
        near = difflib.get_close_matches(name, EVENTS, n=1, cutoff=0)[0]
        raise TypeError(f"{type(owner).__name__}.{name} is no event; did you mean {near!r}?")


def _call(cb: Callback, name: str, learn: HasCallbacks) -> None:
    """Call a callback's method; an error says in a note where it came from."""
    try:
        getattr(cb, name)(learn)
    except BaseException as error:
        if not isinstance(error, tuple(CANCELS.values())):
            error.add_note(f"in {type(cb).__name__}.{name}, epoch {learn.epoch}, batch {learn.num}")
        raise


def _comes_before(one: Callback, other: Callback) -> bool:
    """Whether `one` has to come before `other`."""
    return one is not other and (_is_named(one, other.follows) or _is_named(other, one.precedes))


def _is_named(cb: Callback, names: tuple[str, ...]) -> bool:
    return any(kind.__name__ in names for kind in type(cb).__mro__)


def _names(things: Iterable[object]) -> str:
    return ", ".join(type(thing).__name__ for thing in things)


def _check_events(cb: Callback) -> None:
    for name in dir(cb):
        if name.startswith(("before_", "after_", "cleanup_")):
            check_event(cb, name)
