# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. A Learner on one screen
#
# **You know already** the loop that trains: predict, loss, backward, step, zero the gradients.
#
# **The new idea:** make it a class of three methods, `fit`, `one_epoch` and `one_batch`. Each calls
# the next, and what they share is in `self`. Then any part can be replaced without copying the
# others. The next nine notebooks do just that.

# %%
import contextlib
import io
import os
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import DataLoaders, MomentumLearner, SimpleLearner
from twinloop.models import MLP

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
torch.manual_seed(0)
start = MLP(data.spec.image_shape, len(data.spec.class_names))  # every run begins with a copy


def batches() -> DataLoaders:
    """Batches of train and of valid, from epoch 0 on."""
    return DataLoaders.from_data(data)


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same weights, to the bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(weight, twin) for weight, twin in pairs)


# %% [markdown]
# ## The loop, as a script

# %%
plain, dls = deepcopy(start), batches()
optimizer = SGD(plain.parameters(), lr=0.2)
for epoch in range(2):
    plain.train()
    for xb, yb in dls.train:
        loss = F.cross_entropy(plain(xb), yb)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    plain.eval()
    with torch.no_grad():
        hits = sum(int((plain(xb).argmax(1) == yb).sum()) for xb, yb in dls.valid)
    print(f"epoch {epoch} accuracy {hits / data.sizes['val']:.3f}")

# %% [markdown]
# It works, and it is a dead end: for validation loss, another optimiser, a bar, half precision or
# early stopping you would edit it, and copy it for each combination.

# %% [markdown]
# **Question.** Which lines must *not* run in validation? Find all, there are more than you think.

# %% [markdown]
# <details><summary>Answer</summary>
#
# `backward`, `step` and `zero_grad`, and the recording of the graph that `backward` would need
# (`torch.no_grad`). Also the mode of the model: dropout and batch norm behave differently after
# `train()` and `eval()`. The rest, predicting and the loss, is the same, so one method can do both
# if it knows which of the two it is in.
#
# </details>

# %% [markdown]
# ## The class


# %%
class Learner:
    """Trains a classifier; `one_batch` is told by `self.model.training` what to do."""

    def __init__(
        self,
        model: nn.Module,
        dls: DataLoaders,
        loss_func: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        lr: float = 0.1,
        opt_func: Callable[..., torch.optim.Optimizer] = SGD,
    ) -> None:
        self.model, self.dls, self.loss_func = model, dls, loss_func
        self.lr, self.opt_func = lr, opt_func

    def fit(self, n_epochs: int) -> None:
        self.opt = self.opt_func(self.model.parameters(), self.lr)
        for self.epoch in range(n_epochs):
            self.one_epoch(True)
            with torch.no_grad():
                self.one_epoch(False)

    def one_epoch(self, training: bool) -> None:
        self.model.train(training)
        self.losses, self.hits, self.ns = [], [], []
        dl = self.dls.train if training else self.dls.valid
        for self.batch in dl:
            self.one_batch()
        loss = sum(loss * n for loss, n in zip(self.losses, self.ns, strict=True)) / sum(self.ns)
        accuracy = sum(self.hits) / sum(self.ns)
        stage = "train" if training else "valid"
        print(f"epoch {self.epoch} {stage} loss {loss:.3f} accuracy {accuracy:.3f}")

    def one_batch(self) -> None:
        xb, yb = self.batch
        preds = self.model(xb)
        loss = self.loss_func(preds, yb)
        if self.model.training:
            loss.backward()
            self.opt.step()
            self.zero_grad()
        self.losses.append(loss.item())
        self.hits.append(int((preds.argmax(1) == yb).sum()))
        self.ns.append(len(yb))

    def zero_grad(self) -> None:
        self.opt.zero_grad()


learn = Learner(deepcopy(start), batches(), lr=0.2)
learn.fit(2)
assert same(learn.model, plain)

# %% [markdown]
# The same weights as the script, to the bit. And the project's `SimpleLearner` has the same weights
# and prints the same lines:


# %%
def printed(learner: Any, epochs: int) -> str:
    """What a learner prints while it trains."""
    lines = io.StringIO()
    with contextlib.redirect_stdout(lines):
        learner.fit(epochs)
    return lines.getvalue()


ours, theirs = (
    Learner(deepcopy(start), batches(), lr=0.2),
    SimpleLearner(deepcopy(start), batches(), lr=0.2),
)
assert printed(ours, 2) == printed(theirs, 2)
assert same(ours.model, theirs.model)

# %% [markdown]
# Notice `for self.epoch in range(...)`: a loop variable may be an attribute. So whoever has the
# Learner can see at any moment which epoch and which batch it is in. Callbacks will live on that.
#
# ## The forgotten line
#
# Everybody forgets `zero_grad` once. Here it takes one method to forget it.

# %% [markdown]
# **Question.** Gradients then add up over all batches. In the first 30 steps, will the loss
# explode, stay, or fall more slowly?


# %%
class Forgetful(Learner):
    """Never resets a gradient."""

    def zero_grad(self) -> None:
        pass


first = [batch for batch, _ in zip(batches().train, range(10), strict=False)]
few = DataLoaders(first, list(batches().valid))
for learner in (Learner, Forgetful):
    for lr in (0.02, 0.2, 2.0):
        lines = printed(learner(deepcopy(start), few, lr=lr), 3)
        print(f"{learner.__name__:10} {lr:<4} {lines.splitlines()[-1]}")

# %% [markdown]
# **The surprise:** with a small rate the bug *helps*, for these 30 steps. An old gradient that is
# not forgotten goes on pushing: that is momentum, with nothing to slow it down, which is why it
# never settles in a longer run. Keep only a share of the old gradient instead of all of it, and the
# bug becomes a method of 1964 (Polyak). Compare it with PyTorch's own:


# %%
class Momentum(Learner):
    """Keeps a share of each gradient for the next step."""

    def zero_grad(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad *= 0.85


heavy = Learner(
    deepcopy(start), batches(), lr=0.05, opt_func=lambda ps, lr: SGD(ps, lr, momentum=0.85)
)
ours = Momentum(deepcopy(start), batches(), lr=0.05)
printed(heavy, 2)
printed(ours, 2)
theirs = MomentumLearner(deepcopy(start), batches(), lr=0.05, momentum=0.85)
theirs.fit(2)
assert same(ours.model, heavy.model)
assert same(ours.model, theirs.model)
print("three times momentum, the same bits")

# %% [markdown]
# ## Fit, and fit again

# %% [markdown]
# **Question.** `fit(2)`, or `fit(1)` twice: is the result the same? With SGD? With AdamW?

# %%
for optimiser in (SGD, AdamW):
    once = Learner(deepcopy(start), batches(), lr=0.01, opt_func=optimiser)
    twice = Learner(deepcopy(start), batches(), lr=0.01, opt_func=optimiser)
    printed(once, 2)
    printed(twice, 1)
    printed(twice, 1)
    print(f"{optimiser.__name__:6} same weights: {same(once.model, twice.model)}")

# %% [markdown]
# `fit` makes a new optimiser. SGD has no memory, so nothing is lost. AdamW remembers the size of
# every gradient, and its second fit begins without. The project's full `Learner` keeps that memory
# from fit to fit.
#
# ## Exercise
#
# A Learner should say how good a model is at any time, not only while it trains. Write `accuracy`.
# This attempt forgets the mode of the model: dropout is still on, so every call says something
# else.


# %% tags=["exercise"]
def accuracy(model: nn.Module, batches: DataLoaders) -> float:
    """The share of validation that is classified right; the model's mode is as it was before."""
    hits = total = 0
    with torch.no_grad():
        for xb, yb in batches.valid:
            hits += int((model(xb).argmax(1) == yb).sum())
            total += len(yb)
    return hits / total


# %% tags=["check"]
noisy = nn.Sequential(nn.Dropout(0.5), learn.model).train()
torch.manual_seed(0)
says = [accuracy(noisy, batches()) for _ in range(3)]
assert says == [accuracy(learn.model, batches())] * 3, (
    f"three calls say {says}: dropout must be off, so call `eval()` first"
)
assert noisy.training, (
    "afterwards the model must train on as before: call `train` with the old mode"
)
accuracy(noisy.eval(), batches())
assert not noisy.training, "a model that was in evaluation mode must stay in it"

# %% [markdown]
# **Where it lives:** [`learner/simple.py`](../src/twinloop/learner/simple.py) is this class, and
# [`learner/learner.py`](../src/twinloop/learner/learner.py) what it grows into. Next:
# [metrics](09_metrics.py).
