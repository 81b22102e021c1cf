# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17. What to build next
#
# **You know already** every part, from a kernel to two loops that agree. What is left is to build
# something of your own.
#
# **The new idea**: a project is not code, it is a *question with a number as its answer*, and a
# second number beside it, the *baseline*. This notebook takes one question after the other: how
# good is no learning at all, how far apart are two seeds, which rate is best, what does other data
# need. Then there are three ideas, with their papers.

# %%
import os
from functools import partial

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import Accuracy, DataLoaders, TrainLearner
from twinloop.learner.callbacks import LimitStepsCB, MetricsCB
from twinloop.models import MLP, LessonClassifier

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
shape, classes = data.spec.image_shape, len(data.spec.class_names)
dls = DataLoaders.from_data(data)
xb, yb = next(iter(dls.valid))

# %% [markdown]
# ## Begin with a baseline
#
# The mean of all training images of a class is an image. Whoever learns nothing else can still
# compare: a new image is of the class whose mean is the nearest.

# %%
sums, counts = torch.zeros(classes, xb[0].numel()), torch.zeros(classes)
for images, labels in dls.train:
    sums.index_add_(0, labels, images.flatten(1))
    counts += torch.bincount(labels, minlength=classes)
means = sums / counts[:, None]
figures.show_images(means.view(-1, *shape)[:4], data.spec.class_names)

# %% [markdown]
# **Question.** Which share of the validation images does this classify correctly? Guess, before you
# look.

# %%
baseline = Accuracy()
for images, labels in dls.valid:
    baseline.update(-torch.cdist(images.flatten(1), means), labels)
print(f"nearest mean {float(baseline.value):.3f}, chance about {1 / classes:.3f}")

# %% [markdown]
# A network has to beat that number. An accuracy alone says little: on some data the mean images are
# hard to beat.

# %% [markdown]
# ## A run is a function
#
# Of everything that you want to vary. Here: the network, the rate, the seed. It takes 40 steps at
# most, so that trying is cheap.


# %%
def run(network, lr, seed, dls=dls):
    """The accuracy on validation after 40 steps."""
    torch.manual_seed(seed)
    cbs = [LimitStepsCB(40), MetricsCB(Accuracy())]
    learn = TrainLearner(network(), dls, lr=lr, cbs=cbs)
    learn.fit(100)
    return float(learn.metrics["val/accuracy"])


mlp = partial(MLP, shape, classes)


# %% [markdown]
# **Question.** A change of yours has gained a point, 0.01, in one run. Is it an improvement? Think
# of what else would have to be known.

# %%
seeds = [run(mlp, lr=0.3, seed=seed) for seed in range(5)]
print("five seeds:", [f"{accuracy:.3f}" for accuracy in seeds])
print(f"from worst to best: {max(seeds) - min(seeds):.3f}")

# %% [markdown]
# The spread of the seeds. A gain that is smaller may be luck. So a result is a mean, a spread, and
# how many runs they are of.

# %% [markdown]
# ## A sweep
#
# Three rates, three seeds each. The dot is the mean of the three, the line goes from the worst to
# the best.

# %%
rates = [0.1, 0.3, 1.0]
sweep = [[run(mlp, rate, seed) for seed in range(3)] for rate in rates if rate != 0.3]
sweep = torch.tensor([sweep[0], seeds[:3], sweep[1]])  # those of 0.3 are known
figure, axes = figures.subplots(1, 1, (6, 2.4))
low, high = sweep.min(1).values, sweep.max(1).values
axes[0, 0].vlines(range(3), low, high)
axes[0, 0].plot(range(3), sweep.mean(1), "o")
axes[0, 0].axhline(float(baseline.value), linestyle=":", color="black", label="nearest mean")
axes[0, 0].set(xticks=range(3), xticklabels=rates, xlabel="learning rate", ylabel="accuracy")
axes[0, 0].legend()
figure

# %% [markdown]
# **Question.** You take the best of these nine runs, and report its accuracy on validation. What is
# wrong with that number?

# %% [markdown]
# <details><summary>Answer</summary>
#
# It was chosen because it is high, and part of why it is high is luck. The best of nine dice is a
# six four times out of five, and the next throw of that die is no better than any other. So choose
# by validation, and measure what you have chosen on images that had no part in the choice: the test
# split, once, at the end.
#
# </details>

# %% [markdown]
# From the command line, `twinloop sweep` chooses the settings of an experiment by Optuna, ends weak
# trials early and resumes after a kill; `fit --seeds 3` prints a mean and a spread. See
# [Sweeps and seeds](../docs/sweeps.md).

# %% [markdown]
# ## Data of your own
#
# A Learner takes any two loaders. And a task needs no new images. Here is one that is made of those
# at hand: *is the image mirrored?* Half of them are, and the label says which.


# %%
def mirrored(images):
    """Images, every second one mirrored, and labels that say which."""
    labels = torch.arange(len(images)) % 2
    flips = labels[:, None, None, None] == 1
    return TensorDataset(torch.where(flips, images.flip(3), images), labels)


pixels, rows = data.split("train").images, data.rows
train = mirrored(pixels[rows["train"][:2000]].float() / 255)
valid = mirrored(pixels[rows["val"][:500]].float() / 255)
own = DataLoaders(DataLoader(train, 64, shuffle=True), DataLoader(valid, 500))
images, labels = next(iter(own.valid))
figures.show_images(images[:4], ["mirrored" if label else "as it was" for label in labels])

# %% [markdown]
# Can a network tell? Chance is one half. Each has 40 steps again.


# %%
for network in (MLP, LessonClassifier):
    print(f"{network.__name__:17}{run(partial(network, shape, 2), 0.3, 0, own):.3f}")

# %% [markdown]
# Both have had the same images and the same steps. Why they differ is the next question with a
# number as its answer. For images in folders, numbers as labels, or streams, see [your own
# data](../docs/own-data.md): there both loops train on it.

# %% [markdown]
# ## An experiment of your own
#
# What you have tried in a notebook becomes a file: an experiment with its settings, and a test that
# trains it in both loops and compares every bit. These lines write and run both.
#
# ```sh
# .venv/bin/python -m twinloop new my-idea
# .venv/bin/python -m pytest tests/test_my_idea.py
# ```
#
# [Your own experiments](../docs/own-experiments.md) goes on from there: a network, a data set and a
# callback, in one file each.

# %% [markdown]
# ## Three ideas
#
# Each has one change, one place for it, and one number to beat.
#
# - **Mixup** ([Zhang et al. 2017](https://arxiv.org/abs/1710.09412)): train on mixtures of two
#   images. *Where:* a callback with `before_batch`. *The number:* accuracy on test, where train has
#   few images.
# - **Residual connections** ([He et al. 2015](https://arxiv.org/abs/1512.03385)): add the input of
#   a block to its output. *Where:* a network of your own. *The number:* accuracy of 4, 8 and 16
#   blocks, with the connections and without.
# - **Variational autoencoder** ([Kingma and Welling 2013](https://arxiv.org/abs/1312.6114)): a code
#   that can be drawn at random, to make images that nobody has seen. *Where:* an autoencoder, and a
#   task whose loss has a second term. *The number:* the error of reconstruction, beside that of the
#   plain autoencoder.

# %% [markdown]
# Here is the first one, by hand: two images, and half of each.

# %%
figures.show_images([xb[0], xb[1], 0.5 * xb[0] + 0.5 * xb[1]], ["one", "other", "half of each"])

# %% [markdown]
# ## Exercise
#
# Write mixup for a batch. `order` says which image each one is mixed with, and `share` is the share
# that is left of the image itself. The target is mixed likewise: probabilities `[B, classes]` in
# place of labels. `F.cross_entropy` takes them as they are.


# %% tags=["exercise"]
def mixup(xb, yb, order, share):
    """Mix each image with that at `order`: images `[B, C, H, W]`, targets `[B, classes]`."""
    targets = F.one_hot(yb, classes).float()
    return xb, targets


# %% tags=["check"]
order, network = torch.arange(len(xb)).roll(1), mlp()
images, targets = mixup(xb, yb, order, 0.75)
assert torch.allclose(images[1], 0.75 * xb[1] + 0.25 * xb[0]), (
    "mix the images: share * xb + ... * xb[order]"
)
assert torch.allclose(targets.sum(1), torch.ones(len(xb))), (
    "the probabilities of an image add up to 1"
)
one, other = F.cross_entropy(network(images), yb), F.cross_entropy(network(images), yb[order])
assert torch.allclose(F.cross_entropy(network(images), targets), 0.75 * one + 0.25 * other), (
    "mix the targets with the same shares as the images"
)
assert torch.equal(mixup(xb, yb, order, 1.0)[0], xb), "a share of 1 leaves the images as they are"

# %% [markdown]
# In a callback, `before_batch` replaces `learn.batch` for train, with an order and a share of its
# own generator. The paper draws the share from a Beta distribution.
#
# **Where it lives:** what `twinloop new` writes is in [`cli/new.py`](../src/twinloop/cli/new.py).
# All that you build on is in the [README](../README.md#layout), one line for each folder.
