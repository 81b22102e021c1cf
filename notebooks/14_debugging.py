# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14. Debugging
#
# **You know already** that a callback sees everything at each event, and changes nothing in the
# loop.
#
# **The new idea**: that makes it the place to look from. A *hook* is the same for a model: a
# function that sees the output of a layer. With both you can stop at the batch that matters, and
# find the layer that matters.

# %%
import os
import sys

import torch
from torch import nn

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.finite import NotFiniteError, first_not_finite, random_state
from twinloop.learner import Callback, DataLoaders, Hook, Hooks, TrainLearner
from twinloop.learner.callbacks import BreakpointCB, FiniteLossCB, MetricsCB
from twinloop.models import LessonClassifier

torch.manual_seed(0)
data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
dls = DataLoaders.from_data(data)
classes = len(data.spec.class_names)
xb, yb = next(iter(dls.train))
model = LessonClassifier(data.spec.image_shape, classes)
print(f"a batch has the shape {tuple(xb.shape)}")

# %% [markdown]
# ## Shapes by hooks
#
# Each block of this network is a convolution of stride 2, which halves height and width, down to
# one pixel. The blocks have 4, 8, 16, 16 channels, and the last one has a channel for each class.

# %% [markdown]
# **Question.** Which shapes do the blocks give? Write them down. The next cell asks the model
# itself.

# %%
shapes = []


def keep_shape(module, inputs, output):
    shapes.append(tuple(output.shape))
    print(f"{type(module).__name__:12} {tuple(inputs[0].shape)} -> {tuple(output.shape)}")


handles = [layer.register_forward_hook(keep_shape) for layer in model.layers]
model(xb)
for handle in handles:
    handle.remove()

# %% [markdown]
# A hook stays until it is removed. Forget it, run the cell again, and each line is printed twice.
# `Hooks` of the project removes them at the end of a `with` block, even after an error. Its
# function is given the hook too, as a place to keep things.


# %%
def keep_own_shape(hook, module, inputs, output):
    hook.shape = tuple(output.shape)


with Hooks(model.layers, keep_own_shape) as hooks:
    model(xb)
assert [hook.shape for hook in hooks] == shapes
assert not any(layer._forward_hooks for layer in model.layers)

# %% [markdown]
# A hook may keep the output itself. Here are an image and the four responses of the first block to
# it. They are those of kernels that have learned nothing yet.


# %%
def keep_output(hook, module, inputs, output):
    hook.output = output


with Hook(model.layers[0], keep_output) as hook:
    model(xb)
figures.show_images([xb[0], *hook.output[0]])

# %% [markdown]
# ## A breakpoint at one batch
#
# `breakpoint()` stops a program and starts the debugger. In a loop it would stop at every batch. A
# callback stops where a condition holds.


# %%
class StopCB(Callback):
    """Starts the debugger after the loss, where `when(learn)` holds."""

    def __init__(self, when):
        self.when = when

    def after_loss(self, learn):
        if self.when(learn):
            breakpoint()


# %% [markdown]
# In this notebook nobody is there to type. So `breakpoint()` is told to print instead of to ask: it
# calls whatever is in `sys.breakpointhook`. Delete the line that sets it to `report`, and you have
# a prompt: `p learn.loss` prints, `n` goes to the next line, `u` goes up to the caller, `c`
# continues, `q` quits.

# %%
stops = []


def report():
    """Print what `p learn.loss` would show where the program has stopped, and continue."""
    learn = sys._getframe(1).f_locals["learn"]
    stops.append((learn.epoch, learn.num, learn.loss.item()))
    print(f"epoch {learn.epoch}, batch {learn.num}: loss {learn.loss.item():.4f}")


def is_fifth(learn):
    return learn.training and learn.num == 4


asks = sys.breakpointhook
sys.breakpointhook = report
for cb in (StopCB(is_fifth), BreakpointCB("after_loss", when=is_fifth)):
    torch.manual_seed(0)
    again = LessonClassifier(data.spec.image_shape, classes)
    TrainLearner(again, dls, lr=0.1, cbs=[cb]).fit(1)
sys.breakpointhook = asks
assert stops[0] == stops[1]

# %% [markdown]
# `BreakpointCB` is the project's, for any event. Both have stopped at the same batch.

# %% [markdown]
# ## A NaN hunt
#
# This network gives each pixel mean 0 and deviation 1 before its layers. It looks like a good idea.


# %%
class Standardise(nn.Module):
    """Gives each pixel mean 0 and standard deviation 1 over the batch."""

    def forward(self, x):
        return (x - x.mean(0)) / x.std(0)


def network(first):
    """A small network that begins with the layer `first`, always with the same weights."""
    torch.manual_seed(0)
    pixels = xb[0].numel()
    layers = nn.Linear(pixels, 50), nn.ReLU(), nn.Linear(50, classes)
    return nn.Sequential(first, nn.Flatten(), *layers)


broken = network(Standardise())
learn = TrainLearner(broken, dls, lr=0.05, cbs=[MetricsCB()])
learn.fit(1)
{name: float(value) for name, value in learn.metrics.items()}

# %% [markdown]
# **Question.** A loss that is not a number, once. Which share of the weights is not a number after
# one step?

# %%
broken = network(Standardise())
nn.functional.cross_entropy(broken(xb), yb).backward()
torch.optim.SGD(broken.parameters(), lr=0.05).step()
weights = torch.cat([parameter.detach().flatten() for parameter in broken.parameters()])
print(f"{float(weights.isnan().float().mean()):.0%}")

# %% [markdown]
# So a look at the weights comes too late. The hunt has three steps.
#
# **When?** At the first batch. `FiniteLossCB` stops the fit there, before the step.
#
# **Where?** Send the batch through, layer by layer, and look at each output.

# %%
broken = network(Standardise())
x = xb
for name, layer in broken.named_children():
    x = layer(x)
    print(f"{name} {type(layer).__name__:12} finite: {bool(x.isfinite().all())}")

# %% [markdown]
# `FiniteLossCB` does both: it finds the batch, and computes it once more to name the first layer.

# %%
try:
    TrainLearner(network(Standardise()), dls, lr=0.05, cbs=[FiniteLossCB()]).fit(1)
except NotFiniteError as error:
    print(error)

# %% [markdown]
# **Why?** Look at what goes into that layer, at the images themselves.

# %%
nans = ~Standardise()(xb).isfinite().all(0)
titles = "an image", "deviation of each pixel", "not finite"
figures.show_images([xb[0], xb.std(0), nans.float()], titles)

# %% [markdown]
# There are pixels, at the border, that are black in every image of the batch. Their deviation is 0,
# and 0 divided by 0 is not a number. The usual remedy is a small constant in the denominator.


# %%
class Standardised(nn.Module):
    """Gives each pixel mean 0 and about standard deviation 1, or 0 where it never changes."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0) + 0.1)


learn = TrainLearner(network(Standardised()), dls, lr=0.05, cbs=[FiniteLossCB(), MetricsCB()])
learn.fit(1)
{name: round(float(value), 3) for name, value in learn.metrics.items()}

# %% [markdown]
# **Question.** Can a loss be finite, and the weights not a number after the step all the same?

# %%
x = torch.zeros(1, requires_grad=True)
loss = (0 * x.sqrt()).sum()
loss.backward()
print(f"loss {loss.item()}, gradient {x.grad.item()}")

# %% [markdown]
# It can. The slope of a square root at 0 is infinite, and 0 times infinity is not a number. Hooks
# on the outputs do not see that. `AnomalyCB` turns on a check of each backward operation, which is
# slow, and names the one that fails.

# %% [markdown]
# ## Exercise
#
# The walk from layer to layer works for an `nn.Sequential` without branches. Hooks work for every
# model. Write `first_broken`: put a hook on every module that has no modules inside, send the batch
# through, and return the name of the first one whose output is not finite, or None. Leave no hook
# behind.


# %% tags=["exercise"]
def first_broken(model, xb):
    """The name of the first layer whose output is not finite, such as '1.0', or None."""
    found = []
    for _name, module in model.named_modules():
        if not list(module.children()):
            ...
    with torch.no_grad():
        model(xb)
    return found[0] if found else None


# %% tags=["check"]
broken = network(Standardise())
assert first_broken(broken, xb) == "0", (
    "the first layer gives NaN: append its name to found, in a hook"
)
nested = nn.Sequential(network(Standardised()), nn.Sequential(nn.Identity(), Standardise()))
assert first_broken(nested, torch.cat([xb[:1], xb[:1]])) == "1.1", (
    "use the name of named_modules, and give each hook its own: a loop changes its variable"
)
assert first_broken(network(Standardised()), xb) is None, (
    "all is finite here, so there is no such layer"
)
assert not any(module._forward_hooks for module in broken.modules()), (
    "a hook is still there: remove it"
)
theirs = first_not_finite(broken, lambda: broken(xb).sum(), random_state())
assert first_broken(broken, xb) in theirs, "the project's own says the same"
print(theirs)

# %% [markdown]
# **Where it lives:** [`learner/hooks.py`](../src/twinloop/learner/hooks.py),
# [`learner/callbacks/trace.py`](../src/twinloop/learner/callbacks/trace.py) has the breakpoint, and
# [`finite.py`](../src/twinloop/finite.py) hunts for NaN.
#
# Next: [a short run that finds the learning rate](15_learning_rate_finder.py).
