# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12. `__getattr__`
#
# **You know already** that Python looks for `learn.step` in the object, and then in its class and
# the classes above it.
#
# **The new idea**: where none of them has it, Python asks the method `__getattr__`, if there is
# one. So an object can answer for names that it does not have. It is one of the shortest ways to
# write a loop, and to write one that never ends.

# %%
import copy
import os
import pickle
from functools import partial
from timeit import repeat

import torch
from torch.nn import functional as F

import twinloop.learner
from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import DataLoaders, Learner
from twinloop.learner.callbacks import TrainCB
from twinloop.models import MLP

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
dls = DataLoaders.from_data(data)


def new_model():
    """A network that always begins with the same weights."""
    torch.manual_seed(0)
    return MLP(data.spec.image_shape, len(data.spec.class_names))


# %% [markdown]
# ## When it is asked


# %%
class Asked:
    """Says what it is asked for."""

    here = 1

    def __getattr__(self, name):
        print(f"  asked for {name}")
        return 42


# %% [markdown]
# **Question.** Four lines are run below. In which of them is `__getattr__` asked?

# %%
asked = Asked()
print("here:", asked.here)
print("there:", asked.there)
asked.there = 5
print("there, once it is set:", asked.there)
print("hasattr:", hasattr(asked, "no_such_thing"))

# %% [markdown]
# In the second and the last. It is the last resort: an attribute that is found costs nothing extra.
# And `hasattr` is nothing but an attempt: it gets the attribute, and says False if that raises an
# `AttributeError`. This object never raises one, so it claims to have everything.

# %% [markdown]
# ## What the Learner does with it
#
# The loop calls five verbs that the Learner does not have. `__getattr__` looks for a callback that
# has the verb, and returns its method with the Learner filled in.

# %%
VERBS = ("predict", "get_loss", "backward", "step", "zero_grad")


class Mini:
    """A Learner that leaves the five verbs to its callbacks."""

    def __init__(self, model, cbs):
        self.model, self.cbs, self.loss_func = model, cbs, F.cross_entropy
        self.opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def fit(self):
        dls.train.set_epoch(0)
        for self.batch in dls.train:
            self.predict()
            self.get_loss()
            self.backward()
            self.step()
            self.zero_grad()

    def __getattr__(self, name):
        for cb in self.cbs if name in VERBS else ():
            if hasattr(cb, name):
                return partial(getattr(cb, name), self)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


# %%
mini = Mini(new_model(), [TrainCB()])
mini.fit()
learn = Learner(new_model(), dls, lr=0.1, cbs=[TrainCB()])
learn.fit(1, valid=False)
for ours, theirs in zip(mini.model.parameters(), learn.model.parameters(), strict=True):
    assert torch.equal(ours, theirs)
print("step" in vars(learn), hasattr(type(learn), "step"), hasattr(learn, "step"))

# %% [markdown]
# The Learner has no `step`, its class has none either, and yet `learn.step` is there.

# %% [markdown]
# ## What it costs
#
# Python has to fail first, and then to run a function of ours. Here is the time of one access each,
# in nanoseconds.

# %%
accesses = {
    "attribute": lambda: mini.model,
    "method": lambda: mini.fit,
    "verb, by __getattr__": lambda: mini.step,
    "missing, by hasattr": lambda: hasattr(mini, "nothing"),
}
nanoseconds = {name: min(repeat(f, number=2000, repeat=5)) / 2e-6 for name, f in accesses.items()}
figure, axes = figures.subplots(1, 1, (6, 1.8))
axes[0, 0].barh(list(nanoseconds), list(nanoseconds.values()))
axes[0, 0].invert_yaxis()
axes[0, 0].set(xlabel="nanoseconds")
figure

# %% [markdown]
# Each batch asks for five verbs. That is little beside what the batch itself takes:

# %%
batch = min(repeat(mini.fit, number=1, repeat=3)) / len(dls.train)
verbs = 5 * nanoseconds["verb, by __getattr__"] / 1e9
print(f"a batch takes {1e6 * batch:.0f} microseconds, the five names {1e6 * verbs:.1f} of them")
print(f"that is {100 * verbs / batch:.1f} %")

# %% [markdown]
# And this is one of the smallest networks there are. In the innermost loop of something else it
# would matter.

# %% [markdown]
# ## How it never ends
#
# A class that hands everything on to another object. It works, until somebody copies it.


# %%
class Proxy:
    """Has whatever `inner` has."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


proxy = Proxy([3, 1, 2])
print(proxy.count(1), proxy.index(2))
try:
    copy.copy(proxy)
except RecursionError as error:
    print("RecursionError:", error)

# %% [markdown]
# **Question.** Why? Copying and unpickling make an object *without* calling `__init__`. What does
# such an object have, and what happens when something is asked of it?

# %%
half = Proxy.__new__(Proxy)  # what copy and pickle begin with
print("it has", vars(half))
try:
    half.__setstate__  # what they ask for next
except RecursionError:
    print("__setstate__ -> inner -> inner -> inner -> ...")

# %% [markdown]
# There is no `__setstate__`, so `__getattr__` is asked, which needs `self.inner`. There is no
# `inner` yet, so `__getattr__` is asked, which needs `self.inner`. A checkpoint, a worker process
# of a data loader, `deepcopy` for an average of the weights: each of them gets there sooner or
# later.
#
# `__getattr__` must not use what may be missing. The Learner answers for five names only, and needs
# `self.cbs` for nothing else. So the question for `__setstate__` ends at once, in an
# `AttributeError`, as it should.

# %%
again = pickle.loads(pickle.dumps(Learner(learn.model, ([], []), cbs=[TrainCB()])))
assert torch.equal(again.model.layers[1].weight, learn.model.layers[1].weight)
assert copy.copy(mini).model is mini.model
again

# %% [markdown]
# ## How it hides an error


# %%
class Trap:
    """Has a property with a misspelt name inside."""

    training = True

    @property
    def stage(self):
        return "train" if self.trianing else "val"

    def __getattr__(self, name):
        raise AttributeError(f"there is no {name!r}")


# %% [markdown]
# **Question.** The property fails, because `trianing` is misspelt. Which name does the error show?

# %%
try:
    print(Trap().stage)
except AttributeError as error:
    print("AttributeError:", error)

# %% [markdown]
# The wrong one. The property raises an `AttributeError`, Python takes it for "not found", and asks
# `__getattr__` for `stage`. A class with `__getattr__` does well to have few properties, and short
# ones.

# %% [markdown]
# ## You have used it all the time
#
# `nn.Module` keeps its layers in a dictionary of its own, and `model.layers` is found by its
# `__getattr__`. Here is what one epoch has added to the weights of eight hidden units, as images.
# Each is a sum of training images, some of them with a minus.

# %%
print("layers" in vars(learn.model), "layers" in learn.model._modules)
added = learn.model.layers[1].weight - new_model().layers[1].weight
figures.show_images(added[:8].view(-1, *data.spec.image_shape))

# %% [markdown]
# A module, as in a file, may have a `__getattr__` too. That of `twinloop.learner` finds callbacks
# that live elsewhere, and tells whoever comes from the course what a name is here.

# %%
print(twinloop.learner.MetricsCB)
try:
    twinloop.learner.HooksCallback
except ImportError as error:
    print("ImportError:", error)

# %% [markdown]
# ## Exercise
#
# A row of results, whose values are attributes: `row.loss`. Make `hasattr` work, let the error for
# a name that is not there list the names that are, and let the row be copied.


# %% tags=["exercise"]
class Row:
    """Values by name, as attributes."""

    def __init__(self, values):
        self.values = values

    def __getattr__(self, name):
        return self.values[name]


# %% tags=["check"]
row = Row({"epoch": 2, "loss": 0.25})
assert (row.epoch, row.loss) == (2, 0.25), "row.loss is the value of that name"
try:
    assert not hasattr(row, "accuracy"), "there is no accuracy"
except KeyError as error:
    raise AssertionError(
        "a name that is missing is an AttributeError: hasattr waits for that"
    ) from error
message = ""
try:
    row.accuracy
except AttributeError as error:
    message = str(error)
assert "loss" in message, "the error should list the names that are there"
try:
    twin = copy.deepcopy(row)
except RecursionError as error:
    raise AssertionError("a copy has no values yet: see what vars(self) has") from error
assert twin.loss == 0.25, "a copy has the same values"

# %% [markdown]
# **Where it lives:** the last lines of the Learner in
# [`learner/learner.py`](../src/twinloop/learner/learner.py), and that of a module in
# [`learner/__init__.py`](../src/twinloop/learner/__init__.py).
#
# Next: [what callbacks do with all this](13_callbacks.py).
