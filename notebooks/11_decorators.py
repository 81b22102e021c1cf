# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. Decorators
#
# **You know already** that each of the three loops of training needs the same `try` block: an event
# before, an event after, an exception that ends this loop alone, and a cleanup in any case.
#
# **The new idea**: a function can take a function and return another one. So the block is written
# once, and `@with_cbs` puts it around each loop. We build it up from nothing in four steps.

# %%
import os
from functools import wraps

import torch
from torch.nn import functional as F

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    DataLoaders,
    TrainLearner,
)
from twinloop.learner.callback import with_cbs
from twinloop.learner.callbacks import TraceCB
from twinloop.models import MLP

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
dls = DataLoaders.from_data(data)

# %% [markdown]
# ## Before: the same block in every loop
#
# One of three. The other two differ in a word, three times each.


# %%
class Copied:
    """A loop with its events, written out."""

    def __init__(self):
        self.events = []

    def callback(self, event):
        self.events.append(event)

    def fit(self, n_epochs):
        try:
            self.callback("before_fit")
            for _ in range(n_epochs):
                self.callback("an epoch")
            self.callback("after_fit")
        except CancelFitException:
            pass
        finally:
            self.callback("cleanup_fit")


copied = Copied()
copied.fit(2)
copied.events

# %% [markdown]
# ## Step 1: a function in, a function out
#
# `announced` takes a function and makes another one, which calls the first. The name `work` then
# stands for the new one.


# %%
def announced(f):
    print(f"[announced is given {f.__name__}]")

    def _f():
        print("before")
        f()
        print("after")

    return _f


# %%
def work():
    print("  work")


work = announced(work)
work()

# %% [markdown]
# `@announced` above a function is short for that assignment, and nothing else.

# %% [markdown]
# **Question.** The next cell defines a function and calls it twice. How often is the line in
# brackets printed, and when?


# %%
@announced
def more_work():
    print("  more work")


print("defined")
more_work()
more_work()

# %% [markdown]
# Once, before `defined`. A decorator runs when the function is *defined*. What it returns runs at
# each call.

# %% [markdown]
# ## Step 2: a method, with any arguments
#
# A method is a function whose first argument is the object. So `_f` needs one argument more: `o`,
# what the method calls `self`. Whatever else there is passes through.


# %%
def with_events(f):
    def _f(o, *args, **kwargs):
        o.callback("before_fit")
        f(o, *args, **kwargs)
        o.callback("after_fit")

    return _f


class Second(Copied):
    @with_events
    def fit(self, n_epochs):
        for _ in range(n_epochs):
            self.callback("an epoch")


second = Second()
second.fit(2)
second.events

# %% [markdown]
# ## Step 3: an argument of its own
#
# The name `fit` must not be fixed: the other loops need it too. So there are two calls.
# `with_name("epoch")` makes an object that remembers the name: that is its *state*. The object is
# then called with the function, by `__call__`.


# %%
class with_name:  # noqa: N801 - read as a decorator
    def __init__(self, loop):
        self.loop = loop

    def __call__(self, f):
        def _f(o, *args, **kwargs):
            o.callback(f"before_{self.loop}")
            f(o, *args, **kwargs)
            o.callback(f"after_{self.loop}")

        return _f


class Third(Copied):
    @with_name("epoch")
    def one_epoch(self):
        self.callback("a batch")


third = Third()
third.one_epoch()
third.events

# %% [markdown]
# There are three functions now, and each is called at a time of its own: `__init__` with the name,
# `__call__` with the function, both when the class is defined; `_f` with the object, whenever the
# loop runs.

# %% [markdown]
# **Question.** Two Learners of one class train at the same time. Do they share what the decorator
# remembers?

# %% [markdown]
# <details><summary>Answer</summary>
#
# Yes. The class is defined once, so there is one object `with_name("epoch")` for all of its
# instances. That is why it remembers nothing but the name of the loop. Whatever belongs to one
# Learner (its callbacks, where it is) is asked of `o`, which is another one at each call.
#
# </details>

# %% [markdown]
# ## Step 4: cancels and cleanup
#
# The `try` block of the last notebook, once. And `wraps` copies the name and the docstring of the
# loop to `_f`.

# %%
CANCELS = {
    "fit": CancelFitException,
    "epoch": CancelEpochException,
    "batch": CancelBatchException,
}


class our_with_cbs:  # noqa: N801 - read as a decorator
    def __init__(self, loop):
        self.loop = loop

    def __call__(self, f):
        @wraps(f)
        def _f(o, *args, **kwargs):
            try:
                o.callback(f"before_{self.loop}")
                f(o, *args, **kwargs)
                o.callback(f"after_{self.loop}")
            except CANCELS[self.loop]:
                pass
            finally:
                o.callback(f"cleanup_{self.loop}")

        return _f


# %% [markdown]
# **Question.** What does `fit.__name__` say in step 2, and what would it say with `wraps`?

# %%
print(Second.fit.__name__, our_with_cbs("fit")(Copied.fit).__name__)

# %% [markdown]
# It is more than beauty: a traceback, `help` and every profiler show that name.

# %% [markdown]
# ## Compared with the project's own
#
# A Learner with three loops, by either decorator. `look` is called at each event, and may cancel
# something.


# %%
def mini_learner(decorator):
    """The class of a small Learner whose loops are decorated by `decorator`."""

    class Mini:
        def __init__(self, look):
            torch.manual_seed(0)
            self.model = MLP(data.spec.image_shape, len(data.spec.class_names))
            self.opt = torch.optim.SGD(self.model.parameters(), lr=0.1)
            self.look, self.events = look, []

        def callback(self, event):
            self.events.append(event)
            self.look(self, event)

        @decorator("fit")
        def fit(self, n_epochs):
            for self.epoch in range(n_epochs):
                dls.train.set_epoch(self.epoch)
                self.one_epoch()

        @decorator("epoch")
        def one_epoch(self):
            for self.num, (self.xb, self.yb) in enumerate(dls.train):
                self.one_batch()

        @decorator("batch")
        def one_batch(self):
            F.cross_entropy(self.model(self.xb), self.yb).backward()
            self.opt.step()
            self.opt.zero_grad()

    return Mini


# %%
def look(learn, event):
    """Cancel a batch and an epoch."""
    if event == "before_batch" and learn.num == 1:
        raise CancelBatchException
    if event == "after_batch" and learn.num == 4:
        raise CancelEpochException


ours, theirs = mini_learner(our_with_cbs)(look), mini_learner(with_cbs)(look)
ours.fit(2)
theirs.fit(2)
assert ours.events == theirs.events
for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
    assert torch.equal(a, b)
print(len(ours.events), "events, the same; all weights, the same")

# %% [markdown]
# Those events as a picture. Each bar is a loop from its first event to its cleanup. The bar of the
# cancelled batch is short, as nothing lies between `before_batch` and `cleanup_batch`.

# %%
figure, axes = figures.subplots(1, 1, (7, 1.8))
for height, loop in enumerate(("fit", "epoch", "batch")):
    places = [n for n, event in enumerate(ours.events) if event.endswith(loop)]
    begins = [n for n in places if ours.events[n].startswith("before")]
    ends = [n for n in places if ours.events[n].startswith("cleanup")]
    bars = [(a, b - a) for a, b in zip(begins, ends, strict=True)]
    axes[0, 0].broken_barh(bars, (2.1 - height, 0.8), edgecolor="white", facecolor=f"C{height}")
axes[0, 0].set(xlabel="event", yticks=[0.5, 1.5, 2.5], yticklabels=["batch", "epoch", "fit"])
figure

# %% [markdown]
# The real Learner has one loop more, the step, and events without a loop. The others come in the
# same order.

# %%
plain = mini_learner(our_with_cbs)(lambda *_: None)
plain.fit(1)
model, trace = MLP(data.spec.image_shape, len(data.spec.class_names)), TraceCB()
TrainLearner(model, dls, cbs=[trace]).fit(1, valid=False)
shared = [event for event, *_ in trace.events if event.endswith(("fit", "epoch", "batch"))]
assert shared == plain.events

# %% [markdown]
# ## Exercise
#
# Write a decorator with a state that changes. `@at_most(5)` lets a function run five times. At the
# sixth call it raises `CancelFitException` instead. Like every good decorator it keeps the name of
# the function, and passes on what that returns.


# %% tags=["exercise"]
class at_most:  # noqa: N801 - read as a decorator
    """Decorates a function that may be called `n` times; the next call ends the fit."""

    def __init__(self, n):
        self.n = n

    def __call__(self, f):
        return f


# %% tags=["check"]
def counts(look):
    """How many batches of train a fit begins, whose batches call `look`."""
    mini = mini_learner(with_cbs)(lambda _, event: look() if event == "before_batch" else None)
    mini.fit(1)
    return mini.events.count("after_batch")


@at_most(3)
def look_3():
    return "seen"


@at_most(5)
def look_5():
    return "seen"


assert counts(look_3) == 3, (
    "the fourth call must raise CancelFitException, and the first three must not"
)
assert counts(look_5) == 5, (
    "each decorated function has a count of its own: keep it in self, not in the class"
)
assert at_most(1)(lambda: 3)() == 3, "return what the function returns"
assert at_most(1)(max)(2, 7) == 7, "pass on whatever arguments there are"
assert look_3.__name__ == "look_3", "wraps keeps the name"

# %% [markdown]
# **Where it lives:** `with_cbs` in [`learner/callback.py`](../src/twinloop/learner/callback.py),
# and the loops that it decorates in [`learner/learner.py`](../src/twinloop/learner/learner.py).
#
# Next: [attributes that are found when asked for](12_getattr.py).
