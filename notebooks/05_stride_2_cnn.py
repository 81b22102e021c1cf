# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. A CNN of stride-2 convolutions
#
# **You know already** what one convolution does, and that stride 2 halves the sides of its output.
#
# **The new idea:** let gradient descent find the kernels. Stack convolutions of stride 2 until a
# single pixel is left. Its channels are the logits: no pooling, no linear layer, nothing but
# convolutions.

# %%
import os
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from twinloop.data.datamodule import ImageDataModule
from twinloop.figures import show_images
from twinloop.learner import DataLoaders, TrainLearner
from twinloop.models import MLP, LessonClassifier

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=64)
channels, height, width = data.spec.image_shape
classes = len(data.spec.class_names)
xb, yb = next(iter(DataLoaders.from_data(data).train))
show_images(xb[:8], [data.spec.class_names[label] for label in yb[:8]])

# %% [markdown]
# ## Down to one pixel
#
# One block is a convolution and a ReLU. Where a side is down to one pixel there is nothing left to
# halve.


# %%
def conv(inputs: int, outputs: int, stride: int, act: bool = True) -> nn.Sequential:
    """A 3x3 convolution, and a ReLU unless it is the last one."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride, padding=1)]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


def cnn(act_at_end: bool = False) -> nn.Sequential:
    """Stride-2 convolutions until one pixel is left, whose channels are the logits."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    widths, side = [channels, 4, 8, 16, 16, classes], max(height, width)
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=2):
        act = act_at_end or number < len(widths)
        layers.append(conv(inputs, outputs, min(side, 2), act))
        side = (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten())


model, x = cnn(), xb[:1]
print(f"{'image':8} {tuple(x.shape[1:])}")
for number, layer in enumerate(model, start=1):
    x = layer(x)
    print(f"layer {number}  {tuple(x.shape[1:])}")

# %% [markdown]
# The project's `LessonClassifier` is the same network. With the same seed it even has the same
# weights, so it gives the same logits, to the bit.

# %%
torch.manual_seed(0)
theirs = LessonClassifier(data.spec.image_shape, classes)
assert torch.equal(model(xb), theirs(xb))
print("same", theirs(xb).numel(), "logits")

# %% [markdown]
# **Question.** The other small network here is a multi-layer perceptron: all pixels to 50 units to
# the logits. Which of the two has more parameters, on 28x28 pixels?

# %%
for network in (LessonClassifier((1, 28, 28), 10), MLP((1, 28, 28), 10)):
    print(type(network).__name__, sum(weight.numel() for weight in network.parameters()))

# %% [markdown]
# The perceptron has eight times as many, nearly all in its first layer: a weight for every pair of
# pixel and unit. The convolution shares nine weights over all positions. It also knows what the
# perceptron has to learn: that pixels next to each other belong together, and that a stroke is a
# stroke wherever it is.
#
# ## Training
#
# The loop is five lines. Batches come from the project, shuffled by a seed of their own.


# %%
def accuracy(model: nn.Module, dls: DataLoaders) -> float:
    """The share of validation images whose largest logit is the right one."""
    with torch.no_grad():
        hits = sum(int((model(xb).argmax(1) == yb).sum()) for xb, yb in dls.valid)
    return hits / data.sizes["val"]


def train(model: nn.Module, epochs: int) -> nn.Module:
    """Predict, loss, backward, step, zero the gradients."""
    dls = DataLoaders.from_data(data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(epochs):
        for xb, yb in dls.train:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(f"last batch: loss {loss:.3f}; validation: accuracy {accuracy(model, dls):.1%}")
    return model


epochs = 6 if data.sizes["train"] < 10_000 else 1
print(f"untrained: accuracy {accuracy(model, DataLoaders.from_data(data)):.1%}")
trained = train(model, epochs)

# %% [markdown]
# Compared with the project's loop, on the twin with the same first weights: after all epochs every
# weight has the same bits.

# %%
dls = DataLoaders.from_data(data)
TrainLearner(theirs, dls, lr=0.02, opt_func=torch.optim.AdamW).fit(epochs)
pairs = zip(trained.parameters(), theirs.parameters(), strict=True)
assert all(torch.equal(one, other) for one, other in pairs)
print("same weights")

# %% [markdown]
# ## One ReLU too many
#
# The last layer has no ReLU. It is an easy line to forget, and PyTorch does not complain.

# %% [markdown]
# **Question.** What will happen with a ReLU behind the logits? Will training fail, or be slower, or
# not change at all?

# %%
rectified = train(cnn(act_at_end=True), epochs)
with torch.no_grad():
    logits = rectified(xb)
dead = (logits == 0).all(0)
print(f"logits that are 0 for all {len(xb)} images: {int(dead.sum())} of {classes}")

# %% [markdown]
# It trains, without an error, and ends far worse. A logit that is 0 for every image has no gradient
# and never comes back: its class is dead. An accuracy that is "a bit low" may well be a bug of this
# kind.
#
# ## What it has learned
#
# The four kernels of the first layer, beside an image and their responses. Compare them with those
# of [notebook 1](01_kernel.py): nobody wrote these.

# %%
first = trained[0]
with torch.no_grad():
    responses = first(xb[:1])[0]
pictures = [*first[0].weight.detach().mean(1), xb[0], *responses]
show_images(
    pictures,
    [*(f"kernel {k}" for k in range(4)), "image", *(f"response {k}" for k in range(4))],
    columns=9,
)

# %% [markdown]
# ## Exercise
#
# Stride 2 leaves a quarter of the positions. That is why the channels may double and the work still
# halves. Count it: the *multiply-adds* of a convolution are the products behind one output, times
# the number of outputs. One output is a window of `kernel * kernel` pixels in every input channel.


# %% tags=["exercise"]
def multiply_adds(inputs: int, outputs: int, kernel: int, side: int) -> int:
    """The products of a convolution whose output has `side * side` positions."""
    return outputs * kernel * kernel * side * side


# %% tags=["check"]
assert multiply_adds(1, 4, 3, 14) == 7_056, (
    "one output channel is 9 products at each of 14 x 14 positions"
)
assert multiply_adds(4, 8, 3, 7) == 14_112, "an output sums over the windows of all input channels"
assert multiply_adds(8, 16, 3, 7) == 4 * multiply_adds(4, 8, 3, 7), (
    "twice the channels on both sides is four times the work at the same size"
)

# %% [markdown]
# `python -m twinloop summary --config experiments/lesson-classifier.yaml` prints this for every
# layer of a network.
#
# **Where it lives:** [`models/classifier.py`](../src/twinloop/models/classifier.py), of blocks in
# [`models/layers.py`](../src/twinloop/models/layers.py). Next: [where the batches come
# from](06_data_pipeline.py).
