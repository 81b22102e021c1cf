# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13. Callbacks
#
# **You know already** the parts: loops with events, exceptions that end them, and verbs that are
# looked up by name.
#
# **The new idea** is what they are for. A callback is an object with methods named after events.
# Everything but the bare loop is one: metrics, progress, augmentation, schedules, checkpoints. The
# loop does not change for any of them. What you have to think about is their *order*.

# %%
import os
from itertools import islice

import torch

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import (
    Accuracy,
    Callback,
    DataLoaders,
    Learner,
    MomentumLearner,
    Order,
    TrainLearner,
)
from twinloop.learner.callbacks import AccumulateCB, MetricsCB, RecorderCB, TraceCB, TrainCB
from twinloop.models import MLP

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
dls = DataLoaders.from_data(data)


def new_model():
    """A network that always begins with the same weights."""
    torch.manual_seed(0)
    return MLP(data.spec.image_shape, len(data.spec.class_names))


def same(one, other):
    """Whether two networks have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# %% [markdown]
# ## All events, once
#
# `TraceCB` records each event. This is a fit with one batch of train and one of validation.

# %%
one_batch = DataLoaders(list(islice(dls.train, 1)), list(islice(dls.valid, 1)))
TrainLearner(new_model(), one_batch, cbs=[trace := TraceCB()]).fit(1)
for event, stage, *_ in trace.events:
    print(f"{stage:5}  {event}")

# %% [markdown]
# ## The first callback
#
# A class with one method. It is given the Learner, and sees whatever that has: model, batch,
# predictions, loss.


# %%
class CountCB(Callback):
    """Counts the images that a fit has been trained on."""

    def before_fit(self, learn):
        self.images = 0

    def after_batch(self, learn):
        if learn.training:
            self.images += len(learn.batch[0])


TrainLearner(new_model(), dls, cbs=[count := CountCB()]).fit(2)
print(f"{count.images:,} images")
assert count.images == 2 * data.sizes["train"]

# %% [markdown]
# ## Who calls it
#
# Four lines would do: sort the callbacks by `order`, and call those that have the method. The
# project's `run_cbs` does the same, and takes care of errors in a cleanup.


# %%
class ByHand(TrainLearner):
    """A Learner that calls its callbacks by itself."""

    def callback(self, event):
        for cb in sorted(self.cbs, key=lambda cb: cb.order):
            method = getattr(cb, event, None)
            if method is not None:
                method(self)


ours = ByHand(new_model(), dls, cbs=[our_trace := TraceCB(), MetricsCB(Accuracy())])
theirs = TrainLearner(new_model(), dls, cbs=[MetricsCB(Accuracy()), their_trace := TraceCB()])
ours.fit(2)
theirs.fit(2)
assert our_trace.events == their_trace.events
assert same(ours.model, theirs.model)
assert ours.metrics.keys() == theirs.metrics.keys()
assert all(torch.equal(ours.metrics[name], theirs.metrics[name]) for name in ours.metrics)

# %% [markdown]
# ## Several callbacks, and their order
#
# A callback may *change* what it sees. `ShiftCB` moves the images of each batch by up to an eighth
# of their width. It has a generator of its own, so no other random number of the fit changes.
# `KeepCB` keeps the first batch as it sees it.


# %%
class ShiftCB(Callback):
    """Moves the images of a batch of train by up to an eighth of their width."""

    def before_fit(self, learn):
        self.generator = torch.Generator().manual_seed(0)

    def before_batch(self, learn):
        if learn.training:
            xb, yb = learn.batch
            most = xb.shape[-1] // 8
            down, right = torch.randint(-most, most + 1, (2,), generator=self.generator).tolist()
            learn.batch = xb.roll((down, right), dims=(2, 3)), yb


class KeepCB(Callback):
    """Keeps the first images of the first batch."""

    def __init__(self, order):
        self.order, self.images = order, None

    def before_batch(self, learn):
        if self.images is None:
            self.images = learn.batch[0][:6]


# %% [markdown]
# **Question.** `ShiftCB` has the order 0, as every callback has that says nothing. Of two `KeepCB`s
# one has the order -1 and the other 1, and both are given last. What does each of them keep?

# %%
early, late = KeepCB(-1), KeepCB(1)
TrainLearner(new_model(), dls, cbs=[ShiftCB(), late, early]).fit(1)
figures.reconstructions({"order -1": early.images, "order 1": late.images}, "the same batch")

# %% [markdown]
# At *each* event the lowest number comes first, whatever the order in the list. Callbacks of one
# number are called as they were given.

# %% [markdown]
# **Question.** `AccumulateCB(4)` divides the loss by 4 in `after_loss`, so that four gradients add
# up to one mean. `RecorderCB` records the loss in `after_loss` too. Which of them has to come
# first?

# %%
learn = TrainLearner(new_model(), dls, cbs=[AccumulateCB(4), recorder := RecorderCB()])
learn.fit(1)
print({type(cb).__name__: int(cb.order) for cb in learn.cbs})
print(
    f"recorded {recorder.recs['loss'][0]:.3f}; log of {len(data.spec.class_names)} classes:",
    end=" ",
)
print(f"{torch.tensor(float(len(data.spec.class_names))).log():.3f}")

# %% [markdown]
# The recorder: it reports the loss of the batch, not a quarter of it. A network that knows nothing
# gives each class the same probability, so its loss is about the logarithm of the number of
# classes. The places are names, in `Order`:

# %%
print("  ".join(f"{place.name} {int(place)}" for place in Order))

# %% [markdown]
# ## A callback that is a verb
#
# The five verbs of a batch are a callback's too: `TrainCB`. A subclass may do one of them in
# another way. This one keeps a share of each gradient for the next batch, which is momentum.
# `MomentumLearner` does the same as a Learner.


# %%
class MomentumCB(TrainCB):
    """Scales the gradients down where `TrainCB` resets them."""

    def zero_grad(self, learn):
        for parameter in learn.model.parameters():
            parameter.grad *= 0.85


ours = Learner(new_model(), dls, lr=0.05, cbs=[MomentumCB()])
theirs = MomentumLearner(new_model(), dls, lr=0.05, momentum=0.85)
ours.fit(2)
theirs.fit(2)
assert same(ours.model, theirs.model)

# %% [markdown]
# **Question.** Events are called on *every* callback that has them. What should happen where two
# callbacks have the same verb?

# %%
try:
    Learner(new_model(), dls, cbs=[TrainCB(), MomentumCB()]).fit(1)
except TypeError as error:
    print("TypeError:", error)

# %% [markdown]
# Two steps for one batch would train, and train wrongly. So it is an error before the first batch.
# A method whose name is almost an event is one too. It would never be called, and nobody would
# notice.


# %%
class TypoCB(Callback):
    def after_bach(self, learn):
        print("never called")


try:
    TrainLearner(new_model(), dls, cbs=[TypoCB()])
except TypeError as error:
    print("TypeError:", error)

# %% [markdown]
# ## Exercise
#
# Your own callback: record the norm of the whole gradient, before each step. It tells how far the
# weights are about to move. All gradients together are one long vector. Its norm is the root of the
# sum of all squares.
#
# Which event is it? Look at the list at the top.


# %% tags=["exercise"]
class GradientNormCB(Callback):
    """Records the norm of the gradient of each batch of train, in `norms`."""

    def before_fit(self, learn):
        self.norms = []

    ...


# %% tags=["check"]
model = new_model()
TrainLearner(model, dls, lr=0.1, cbs=[grads := GradientNormCB()]).fit(1)
assert grads.norms, "nothing was recorded: after_backward is where the gradients are complete"
assert len(grads.norms) == len(dls.train), "there is one gradient for each batch of train"
dls.train.set_epoch(0)
xb, yb = next(iter(dls.train))
model = new_model()
torch.nn.functional.cross_entropy(model(xb), yb).backward()
everything = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
assert abs(float(grads.norms[0]) - float(everything.norm())) < 1e-5, (
    "the norm is that of all gradients together, before the step: is your event the right one?"
)

# %% [markdown]
# If you have solved it, draw it:
# `figures.batches({"norm": [float(norm) for norm in grads.norms]})`.
#
# **Where it lives:** [`learner/callback.py`](../src/twinloop/learner/callback.py) has the events
# and the order, and [`learner/callbacks/`](../src/twinloop/learner/callbacks/__init__.py) one file
# for each concern.
#
# Next: [how callbacks find errors](14_debugging.py).
