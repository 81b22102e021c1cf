"""Events recorded in order, and breakpoints at them."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from twinloop.learner.callback import EVENTS, Callback, Order, check_event
from twinloop.learner.learner import Learner


class Traced(NamedTuple):
    """An event, and the position of the Learner."""

    event: str
    stage: str
    epoch: int
    num: int


class TraceCB(Callback):
    """Records every event in `events`, and its time in `times`, in seconds of `perf_counter`."""

    order = Order.TRACE

    def __init__(
        self, events: list[Traced] | None = None, times: list[float] | None = None
    ) -> None:
        self.events = events if events is not None else []
        self.times = times if times is not None else []
        for event in EVENTS:
            setattr(self, event, partial(self._record, event))

    def _record(self, event: str, learn: Learner) -> None:
        self.times.append(time.perf_counter())
        self.events.append(Traced(event, learn.stage, learn.epoch, learn.num))


class BreakpointCB(Callback):
    """Starts the debugger at an event.

    Args:
        event: The name of the event.
        when: The condition, `learn -> bool`, such as `lambda learn: not learn.loss.isfinite()`.

    Raises:
        TypeError: there is no such event.
    """

    def __init__(self, event: str, when: Callable[[Learner], Any] = bool) -> None:
        check_event(self, event)
        self.when = when
        setattr(self, event, self._stop)

    def _stop(self, learn: Learner) -> None:
        if self.when(learn):
            breakpoint()
