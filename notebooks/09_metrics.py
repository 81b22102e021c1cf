# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9. Metrics
#
# **You know already** how a Learner goes through the batches of an epoch and prints a loss and an
# accuracy.
#
# **The new idea** is small, and often missed: the last batch of an epoch has fewer samples than the
# others. A mean over batches gives its samples too much weight. A mean over samples has to remember
# how many each batch had.

# %%
import os

import torch
from torchmetrics.classification import MulticlassAccuracy

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import Accuracy, DataLoaders, Metric, TrainLearner
from twinloop.learner.callbacks import MetricsCB
from twinloop.models import MLP

torch.manual_seed(0)
data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=60)
dls = DataLoaders.from_data(data)
classes = len(data.spec.class_names)

# %% [markdown]
# How many images does each batch of validation have?

# %%
sizes = [len(yb) for _, yb in dls.valid]
print(
    f"{sum(sizes)} images, {len(sizes)} batches: {sizes[0]} in the first, {sizes[-1]} in the last"
)

# %% [markdown]
# A network that has seen every training image twice, so that it is right often but not always.

# %%
model = MLP(data.spec.image_shape, classes)
TrainLearner(model, dls, lr=0.1).fit(2)

# %% [markdown]
# Now the accuracy of each batch of validation: the share of its images whose largest logit is that
# of the label.

# %%
shares, hits = [], 0
with torch.no_grad():
    for xb, yb in dls.valid:
        right = model(xb).argmax(1) == yb
        shares.append(right.float().mean())
        hits += int(right.sum())
print(
    [f"{float(share):.3f}" for share in [shares[0], shares[-1]]], "in the first and the last batch"
)

# %% [markdown]
# **Question.** The mean of these numbers is an accuracy too. Is it the share of all validation
# images that the network classified correctly?

# %%
mean_of_means = float(torch.stack(shares).mean())
print(f"mean of the batches   {mean_of_means:.4f}")
print(f"share of all images   {hits / sum(sizes):.4f}")

# %% [markdown]
# It is not. Here is the last batch, with the label and what the network says. Each of these few
# images moves the mean of means as much as several images of a full batch do. With few batches the
# error is large; with hundreds it is small, and an error all the same.

# %%
said = model(xb).argmax(1)
names = data.spec.class_names
titles = [f"{names[y]}\nsays {names[p]}" for y, p in zip(yb, said, strict=True)]
figures.show_images(xb[:8], titles[:8])

# %% [markdown]
# The weight of one image in the mean of means is `1 / (batches * size of its batch)`. It should be
# `1 / images`.

# %%
weights = torch.cat([torch.full((n,), 1 / (len(sizes) * n)) for n in sizes])
figure, axes = figures.subplots(1, 1, (6, 2.4))
axes[0, 0].plot(weights, label="in the mean of the batches")
axes[0, 0].plot(torch.full_like(weights, 1 / len(weights)), label="in the mean of the images")
axes[0, 0].set(xlabel="image of validation", ylabel="weight", ylim=(0, None))
axes[0, 0].legend()
figure

# %% [markdown]
# **Question.** Batches have 128 images, and a data set has 129. What share of the mean of means
# does the last image have?

# %% [markdown]
# <details><summary>Answer</summary>
#
# One half. There are two batches, and the second one is that image alone. One image decides between
# 50 % and 100 %.
#
# </details>

# %% [markdown]
# The remedy is two numbers: a total in which every batch counts as often as it has samples, and the
# count.


# %%
class Mean:
    """The mean of a value over samples that come in batches."""

    def __init__(self):
        self.total, self.n = torch.tensor(0.0), 0

    def add(self, value, n):
        """Add the mean `value` of a batch of `n` samples."""
        self.total = torch.add(self.total, value, alpha=n)  # total + n * value
        self.n += n

    @property
    def value(self):
        return self.total / self.n


ours = Mean()
for share, n in zip(shares, sizes, strict=True):
    ours.add(share, n)
print(f"{float(ours.value):.4f}")
assert abs(float(ours.value) - hits / sum(sizes)) < 1e-6

# %% [markdown]
# The project's `Metric` does the same, to the bit. Its subclass `Accuracy` computes the share of a
# batch by itself, and `MetricsCB` calls it after each batch of a Learner.

# %%
theirs = Metric()
for share, n in zip(shares, sizes, strict=True):
    theirs.add(share, n=n)
assert torch.equal(ours.value, theirs.value)

learn = TrainLearner(model, dls, cbs=[MetricsCB(accuracy=Accuracy())])
learn.fit(1, train=False)
assert torch.equal(learn.metrics["val/accuracy"], ours.value)
learn

# %% [markdown]
# torchmetrics has the same three methods: `update` adds a batch, `compute` gives the value, `reset`
# begins anew. So either kind of metric works in `MetricsCB`.

# %%
learn = TrainLearner(
    model, dls, cbs=[MetricsCB(accuracy=MulticlassAccuracy(classes, average="micro"))]
)
learn.fit(1, train=False)
print(f"{float(learn.metrics['val/accuracy']):.4f}")
assert torch.allclose(learn.metrics["val/accuracy"], ours.value)

# %% [markdown]
# **Question.** After the first epoch the loss of train is often *higher* than that of validation.
# Both are weighted means. How can a network be worse on the images that it is trained on?

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is not the same network. The loss of train is measured batch by batch while the weights change,
# so its first batches are those of a network that knows nothing yet. The loss of validation is
# measured after all of these steps.
#
# </details>

# %% [markdown]
# ## Exercise
#
# Some metrics are not a mean over samples. The accuracy *of each class* has its own count for each
# class, and a batch may have none of a class. Weights by batch size cannot mend that. The rule is
# more general: add up what can be added, here hits and samples by class, and divide once, at the
# end.
#
# Write `update`.


# %% tags=["exercise"]
class ClassAccuracy:
    """The mean over classes of the accuracy of each class."""

    def __init__(self, classes):
        self.hits, self.counts = torch.zeros(classes), torch.zeros(classes)

    def update(self, preds, targets):
        """Add a batch to `hits` and `counts`: logits `[B, classes]`, labels `[B]`."""
        ...

    def compute(self):
        return (self.hits / self.counts).mean()


# %% tags=["check"]
metric, reference = ClassAccuracy(classes), MulticlassAccuracy(classes, average="macro")
with torch.no_grad():
    for xb, yb in dls.valid:
        metric.update(model(xb), yb)
        reference.update(model(xb), yb)
assert metric.counts.sum() == sum(sizes), (
    "counts must have one for each label of each batch; see torch.bincount"
)
assert metric.hits.sum() == hits, (
    "hits must have one for each image whose largest logit is that of its label"
)
assert torch.allclose(metric.compute(), reference.compute()), (
    "a hit belongs to the class of the label"
)
print(f"mean over classes {float(metric.compute()):.4f}, mean over images {hits / sum(sizes):.4f}")

# %% [markdown]
# **Where it lives:** [`learner/metrics.py`](../src/twinloop/learner/metrics.py), called by
# [`learner/callbacks/metrics.py`](../src/twinloop/learner/callbacks/metrics.py).
#
# Next: [how an exception ends a loop](10_exceptions.py).
