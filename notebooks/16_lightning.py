# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16. The same experiment under Lightning
#
# **You know already** the Learner's loop, from the first batch to the last. Lightning's `Trainer`
# is another loop, by other people, with more than fifty thousand lines around it.
#
# **The new idea**: both end with the same weights, to the last bit. A training run is one long
# calculation with floats. It has the same result where three things are the same: the first
# weights, the order of the data, and each operation in its order. Which loop calls them is none of
# the three.

# %%
import logging
import os
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from twinloop import figures
from twinloop.comparison.differences import compare_tensors
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import Callback, DataLoaders, TrainLearner
from twinloop.loops.homemade import build_learner
from twinloop.models import MLP
from twinloop.tasks import Classification

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it says what hardware there is
warnings.filterwarnings("ignore", module="lightning")  # and that there is no validation here
EPOCHS = 2


def new_data():
    """The data set, before its first epoch."""
    return ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)


def new_model(seed=0):
    """A network with the first weights of a seed."""
    torch.manual_seed(seed)
    return MLP(spec.image_shape, len(spec.class_names))


spec = new_data().spec

# %% [markdown]
# ## The Trainer
#
# It is given a module with a step and an optimiser. We keep the first batch and every loss, to
# compare them.


# %%
class Module(LightningModule):
    """A network with its training step."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images, self.losses = model, None, []

    def training_step(self, batch, batch_idx):
        xb, yb = batch
        loss = F.cross_entropy(self.model(xb), yb)
        self.images = xb if self.images is None else self.images
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self):
        return SGD(self.model.parameters(), lr=0.1)


def new_trainer(**options):
    """A Trainer that writes nothing."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    return Trainer(
        max_epochs=EPOCHS, accelerator="cpu", enable_model_summary=False, **quiet, **options
    )


module = Module(new_model())
new_trainer(limit_val_batches=0).fit(module, datamodule=new_data())
print(f"{len(module.losses)} steps, from loss {module.losses[0]:.3f} to {module.losses[-1]:.3f}")

# %% [markdown]
# ## The Learner
#
# The same network, the same rate, the same data. The callback keeps the same things, and the
# weights of some steps.


# %%
class KeepCB(Callback):
    """Keeps the first batch, every loss, and all weights after each of the first 40 steps."""

    def __init__(self):
        self.images, self.losses, self.weights = None, [], []

    def after_loss(self, learn):
        self.images = learn.batch[0] if self.images is None else self.images
        self.losses.append(learn.loss.detach())

    def after_step(self, learn):
        if learn.steps < 40:
            flat = [parameter.detach().flatten() for parameter in learn.model.parameters()]
            self.weights.append(torch.cat(flat))


def by_learner(model, *cbs, loss_func=F.cross_entropy, lr=0.1):
    """What a fit of this network has kept."""
    keep, dls = KeepCB(), DataLoaders.from_data(new_data())
    TrainLearner(model, dls, loss_func, lr, cbs=[keep, *cbs]).fit(EPOCHS, valid=False)
    return keep


model = new_model()
kept = by_learner(model)

# %% [markdown]
# Here is what both loops have seen first.

# %%
figures.reconstructions({"Trainer": module.images[:4], "Learner": kept.images[:4]}, "")

# %%
assert torch.equal(module.images, kept.images)
assert torch.equal(torch.stack(module.losses), torch.stack(kept.losses))
ours, theirs = model.state_dict(), module.model.state_dict()
assert ours.keys() == theirs.keys()
assert all(torch.equal(ours[name], theirs[name]) for name in ours)
print(f"all {sum(weight.numel() for weight in ours.values()):,} weights have the same bits")

# %% [markdown]
# ## Why each operation counts

# %% [markdown]
# **Question.** Is `0.1 + 0.2 + 0.3` the same as `0.3 + 0.2 + 0.1`?

# %%
print(0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1, 0.1 + 0.2 + 0.3 == 0.3 + 0.2 + 0.1)

# %% [markdown]
# Each sum is rounded to the nearest float. In another order other values are rounded. So the bits
# are a witness: where all of them agree, the two loops have done the same operations in the same
# order, thousands of times.

# %% [markdown]
# ## One thing changed
#
# On paper, none of these three changes anything. `ReverseCB` turns each batch around: the mean of
# the same samples. `by_sum` divides the sum of the losses by their number. `tripled` has three
# times the loss, for a third of the rate.


# %%
class ReverseCB(Callback):
    """Turns each batch around."""

    def before_batch(self, learn):
        xb, yb = learn.batch
        learn.batch = xb.flip(0), yb.flip(0)


def by_sum(preds, targets):
    return F.cross_entropy(preds, targets, reduction="sum") / len(targets)


def tripled(preds, targets):
    return 3 * F.cross_entropy(preds, targets)


# %% [markdown]
# **Question.** How far apart are the weights after one step: not at all, by the last bit or so, or
# visibly? And after all steps? Another seed of the first weights is there to compare with.

# %%
changed = {
    "another seed": by_learner(new_model(seed=1)),
    "batches turned around": by_learner(new_model(), ReverseCB()),
    "sum / number": by_learner(new_model(), loss_func=by_sum),
    "loss * 3, rate / 3": by_learner(new_model(), loss_func=tripled, lr=0.1 / 3),
}
figure, axes = figures.subplots(1, 1, (6, 2.8))
for name, other in changed.items():
    pairs = zip(kept.weights, other.weights, strict=True)
    apart = [float((one - two).abs().max()) for one, two in pairs]
    print(f"{name:22} {apart[0]:.1e} after one step, {apart[-1]:.1e} after {len(apart)}")
    if apart[-1]:  # a logarithmic axis has no place for 0
        axes[0, 0].plot(range(1, len(apart) + 1), apart, label=name)
axes[0, 0].set(xlabel="step", ylabel="largest difference", yscale="log")
axes[0, 0].yaxis.set_major_formatter("{x:g}")
axes[0, 0].legend()
figure

# %% [markdown]
# The sum divided by the number is no change at all: that is how the mean is computed. The other two
# begin in the last bits: a float32 near 0.1 is stored to within 1e-8. Each step works with what the
# last one has left, so the difference grows. Such a run is as good as the other. But "about the
# same" proves nothing: a small mistake in a loop looks just like that.

# %% [markdown]
# **Question.** With dropout the network draws random numbers itself, in each batch. Are the same
# first weights and the same order of data enough then?


# %%
def with_dropout():
    layers = list(new_model().layers)
    return nn.Sequential(*layers[:-1], nn.Dropout(0.5), layers[-1])


runs = []
for seed in (7, 7, 8):
    model = with_dropout()
    torch.manual_seed(seed)
    runs.append(torch.stack(by_learner(model).losses))
module = Module(with_dropout())
torch.manual_seed(7)
new_trainer(limit_val_batches=0).fit(module, datamodule=new_data())
print("Learner, the same seed: ", torch.equal(runs[0], runs[1]))
print("Learner, another seed:  ", torch.equal(runs[0], runs[2]))
print("Trainer, the same seed: ", torch.equal(runs[0], torch.stack(module.losses)))

# %% [markdown]
# No: the generator must be in the same state, and nobody else may draw from it. So the data have
# generators of their own, made of the seed and the epoch. The global one is left to the network.

# %% [markdown]
# ## The project's own
#
# A *task* has the network, the loss, the metrics and the optimiser once, for both loops.
# `build_learner` makes the Learner that does what a Trainer with the same flags would do,
# validation inside the epoch included.

# %%
tasks = [Classification(MLP, lambda weights: SGD(weights, lr=0.1), spec) for _ in range(2)]
tasks[1].load_state_dict(tasks[0].state_dict())
new_trainer().fit(tasks[0], datamodule=new_data())
learn = build_learner(tasks[1], new_data(), {"max_epochs": EPOCHS, "accelerator": "cpu"})
learn.fit(learn.n_epochs, valid=False)
print(compare_tensors("weights", tasks[0].state_dict(), tasks[1].state_dict()) or "no difference")

# %% [markdown]
# ## Exercise
#
# A comparison is worth what it would notice. This one says True for pairs that are not the same.
# Write it so that two `state_dict`s are the same only if they have the same names, and under each
# name the same type and the same values.


# %% tags=["exercise"]
def same_state(one, other):
    """Whether two state_dicts are the same."""
    pairs = zip(one.values(), other.values(), strict=False)
    return all(torch.allclose(a.float(), b.float()) for a, b in pairs)


# %% tags=["check"]
state = {"weight": torch.tensor([[0.5, 0.25]]), "bias": torch.tensor([1.0])}
twin = {name: value.clone() for name, value in state.items()}
assert same_state(state, twin), "these are the same"
assert same_state(state, dict(reversed(twin.items()))), (
    "compare by name: the order of the names does not matter"
)
assert not same_state(state, {"weight": twin["weight"]}), (
    "a weight is missing: zip ends with the shorter one"
)
assert not same_state(state, twin | {"scale": torch.ones(1)}), "there is a weight too many"
renamed = {"weight": twin["weight"], "offset": twin["bias"]}
assert not same_state(state, renamed), "a weight has another name"
near = twin | {"bias": torch.nextafter(torch.tensor([1.0]), torch.tensor([2.0]))}
assert not same_state(state, near), "one bit differs: allclose does not see that"
double = {name: value.double() for name, value in twin.items()}
assert not same_state(state, double), "float64 is another type, though the values are equal"
assert not same_state(state, twin | {"bias": torch.ones(2)}), "a weight has another shape"

# %% [markdown]
# **Where it lives:** the two loops side by side,
# [`loops/lightning.py`](../src/twinloop/loops/lightning.py) and
# [`loops/homemade.py`](../src/twinloop/loops/homemade.py), and the comparison,
# [`comparison/differences.py`](../src/twinloop/comparison/differences.py).
#
# Next: [what to build next](17_what_next.py).
