# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15. The learning-rate finder
#
# **You know already** that the learning rate decides whether a network learns, and that a callback
# can change anything between two batches.
#
# **The new idea** is Leslie Smith's ([arXiv:1506.01186](https://arxiv.org/abs/1506.01186)): do not
# guess the rate, measure it. Begin with one that is far too low, and multiply it by a factor after
# every batch. The losses of one short run show which rates are too low, which are right, and which
# are too high.

# %%
import os
from copy import deepcopy

import torch
from torch.nn import functional as F
from torch.optim import SGD

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import (
    Accuracy,
    Callback,
    CancelFitException,  # noqa: F401 - for the exercise
    DataLoaders,
    TrainLearner,
)
from twinloop.learner.callbacks import MetricsCB
from twinloop.models import MLP

torch.manual_seed(0)
data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
start = MLP(data.spec.image_shape, len(data.spec.class_names))


def batches():
    """The batches, in the same order each time."""
    return DataLoaders.from_data(data)


# %% [markdown]
# ## The search, by hand
#
# A copy of the network, so that the search costs it nothing. The loop ends where the loss is four
# times the lowest one so far, or where the rate would be above 10.


# %%
def search(model, lr=1e-5, gamma=1.03):
    """The rate and the loss of each batch."""
    model, dls, lrs, losses = deepcopy(model), batches(), [], []
    opt = SGD(model.parameters(), lr)
    while True:
        for xb, yb in dls.train:
            loss = F.cross_entropy(model(xb), yb)
            lrs.append(opt.param_groups[0]["lr"])
            losses.append(loss.item())
            if losses[-1] > 4 * min(losses) or lrs[-1] * gamma > 10:
                return lrs, losses
            loss.backward()
            opt.step()
            opt.zero_grad()
            opt.param_groups[0]["lr"] *= gamma


# %% [markdown]
# **Question.** Why is the rate *multiplied* by a factor, instead of raised by a fixed step?

# %% [markdown]
# <details><summary>Answer</summary>
#
# Because the right rate is known to within powers of ten at best. From 0.00001 to 10 there are six
# of them. A factor gives each the same number of batches. With fixed steps nine tenths of all
# batches would lie between 1 and 10.
#
# </details>

# %%
lrs, losses = search(start)
print(f"{len(lrs)} batches, from a rate of {lrs[0]:.5f} to {lrs[-1]:.2f}")


# %%
figure, axes = figures.subplots(1, 1, (6, 2.8))
axes[0, 0].plot(lrs, losses, linewidth=1)
axes[0, 0].set(xscale="log", xlabel="learning rate", ylabel="loss")
axes[0, 0].xaxis.set_major_formatter("{x:g}")
figure

# %% [markdown]
# From left to right: a plateau, where the steps are too small to change anything; a slope, where
# the network learns; a valley; and then noise, or an explosion.

# %% [markdown]
# **Question.** The loss is lowest in the valley. Why is that not the rate to train with?

# %% [markdown]
# <details><summary>Answer</summary>
#
# The loss there is the fruit of all the batches before it, at lower rates. The rate in the valley
# is the one that has *stopped* making it lower. It is the border of what the network can bear. A
# good rate is left of it, on the slope.
#
# </details>

# %% [markdown]
# ## Smoothing
#
# Each batch has other images, so its loss is noisy. A moving average keeps 98 % of itself and takes
# 2 % of each new loss, so it lags behind. It begins at 0, which is far too low. Division by
# `1 - 0.98 ** count` corrects that, as Adam does.

# %%
smoothed, average = [], 0.0
for count, loss in enumerate(losses, start=1):
    average = 0.98 * average + (1 - 0.98) * loss
    smoothed.append(average / (1 - 0.98**count))
print(f"lowest loss {min(losses):.2f}, lowest smoothed loss {min(smoothed):.2f}")

# %% [markdown]
# ## A rule for the eye
#
# Take the rate at which the smoothed loss has done nine tenths of its fall, and three tenths of
# that rate, to stay away from the border. It is a rule of thumb. The project's was chosen by trying
# it on networks of this size.

# %%
lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
enough = 0.9 * smoothed[lowest] + 0.1 * max(smoothed[: lowest + 1])
while lowest and smoothed[lowest - 1] <= enough:
    lowest -= 1
ours = 0.3 * lrs[lowest]
print(f"suggestion {ours:.3f}")

# %% [markdown]
# ## The project's own
#
# `learn.lr_find()` does all of this by a callback, in a fit of the Learner. All rates and losses
# have the same bits, and the Learner is as it was before. The figure has both curves and the
# suggestion.

# %%
learn = TrainLearner(deepcopy(start), batches())
finder = learn.lr_find()
assert (finder.lrs, finder.losses) == (lrs, losses)
assert finder.smoothed == smoothed
assert finder.suggestion == ours
for before, after in zip(start.parameters(), learn.model.parameters(), strict=True):
    assert torch.equal(before, after)
finder

# %% [markdown]
# **Question.** Is it any good? Three networks are trained for two epochs: at the suggestion, at a
# thirtieth of it, and at thirty times as much. Which accuracies do you expect?

# %%
accuracies = {}
for name, rate in {"1/30": ours / 30, "suggestion": ours, "x 30": ours * 30}.items():
    learn = TrainLearner(deepcopy(start), batches(), lr=rate, cbs=[MetricsCB(Accuracy())])
    learn.fit(2)
    accuracies[f"{name}: {rate:.3g}"] = float(learn.metrics["val/accuracy"])
figure, axes = figures.subplots(1, 1, (6, 1.7))
axes[0, 0].barh(list(accuracies), list(accuracies.values()))
axes[0, 0].invert_yaxis()
axes[0, 0].set(xlabel="accuracy on validation", xlim=(0, 1))
figure

# %% [markdown]
# ## Exercise
#
# Write the search as a callback. `before_fit` is there. After each batch of train it has to record
# the rate and the loss, end the fit where the loop above returns, and multiply the rate by `gamma`.


# %% tags=["exercise"]
class SearchCB(Callback):
    """Raises the learning rate from batch to batch, until the loss diverges or it is above 10."""

    def __init__(self, start=1e-5, gamma=1.03):
        self.start, self.gamma = start, gamma
        self.lrs, self.losses = [], []

    def before_fit(self, learn):
        for group in learn.opt.param_groups:
            group["lr"] = self.start

    def after_batch(self, learn): ...


# %% tags=["check"]
their_lrs, their_losses = search(start, gamma=2)
cb = SearchCB(gamma=2)
TrainLearner(deepcopy(start), batches(), cbs=[cb]).fit(3, valid=False)
assert cb.losses, "record learn.opt.param_groups[0]['lr'] in lrs, and learn.loss.item() in losses"
assert cb.lrs[1:2] == [2e-5], "multiply the rate by gamma, after the batch that has used it"
assert len(cb.losses) == len(their_losses), (
    "raise CancelFitException where the loop by hand returns"
)
assert (cb.lrs, cb.losses) == (their_lrs, their_losses), "the same rates and losses, to the bit"
cb = SearchCB(gamma=1)
TrainLearner(deepcopy(start), batches(), cbs=[cb]).fit(1)
assert len(cb.lrs) == len(batches().train), (
    "batches of validation are no part of the search: learn.training"
)

# %% [markdown]
# What is still missing is the way back: weights, optimiser and counters as they were, also after
# Ctrl-C. For that there is `cleanup_fit`.
#
# **Where it lives:**
# [`learner/callbacks/lr_finder.py`](../src/twinloop/learner/callbacks/lr_finder.py). It says how
# often the suggestion is a good one, measured.
#
# Next: [the same experiment under Lightning](16_lightning.py).
