# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. The data pipeline
#
# **You know already** that a training loop asks for one batch after another.
#
# **The new idea:** look at what a batch costs before the network sees it. The usual pipeline
# decodes image after image, again in every epoch. Decode once instead, and a batch is a *gather*:
# pick rows of a tensor by their index.

# %%
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.split import generator
from twinloop.models import LessonClassifier

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128, channels=1)
rows = data.rows["train"][:1_000]
images, labels = data.split("train").images[rows], data.split("train").labels[rows]
print(tuple(images.shape), images.dtype)

# %% [markdown]
# ## The usual pipeline
#
# Data sets arrive as files: PNGs, each with a label. A `Dataset` decodes one and makes a tensor of
# it; a `DataLoader` calls it for every row of a batch, and stacks the results.


# %%
def to_png(pixels: Tensor) -> bytes:
    """A grey image `[H, W]` as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


files = [to_png(image[0]) for image in images]
print(f"{len(files)} files, the first has {len(files[0])} bytes: {files[0][:8]!r}")


class Files(Dataset[tuple[Tensor, int]]):
    """Images and labels, decoded when asked for."""

    def __len__(self) -> int:
        return len(files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        decoded = Image.open(io.BytesIO(files[row]))
        pixels = torch.from_numpy(np.array(decoded)).float() / 255
        return pixels[None], int(labels[row])


usual = DataLoader(Files(), batch_size=128)
xb, yb = next(iter(usual))
print(tuple(xb.shape), xb.dtype, yb[:5].tolist())

# %% [markdown]
# **Question.** Three things happen to an image: it is decoded, its pixels become floats, and it is
# stacked with others. Which one takes longest? Guess before you measure.


# %%
def seconds(make: Callable[[], Iterable[object]]) -> float:
    """The time to run through what `make` gives, the shortest of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in make():
            pass
        times.append(time.perf_counter() - start)
    return min(times)


arrays = [np.array(Image.open(io.BytesIO(file))) for file in files]
whole = seconds(lambda: usual)
taken = {
    "decode": seconds(lambda: (np.array(Image.open(io.BytesIO(file))) for file in files)),
    "to floats": seconds(lambda: (torch.from_numpy(array).float() / 255 for array in arrays)),
}
taken["collate, and the rest"] = whole - sum(taken.values())
for name, each in taken.items():
    print(f"{name:22} {each / whole:.0%}")
fig, axis = plt.subplots(figsize=(6, 1.8))
axis.barh(list(taken), [1e6 * each / len(files) for each in taken.values()])
axis.set_xlabel("microseconds per image")
axis.invert_yaxis()
plt.show()

# %% [markdown]
# Decoding and stacking take nearly all of it, and none of the three is the network's work. All are
# a Python call per image: a thousand calls for a thousand images, in every epoch, with the same
# result every time.
#
# ## Decode once
#
# The images above came out of the project's cache: one tensor of bytes, written when a data set is
# first used and mapped into memory ever after. Pixels stay bytes, and become floats a batch at a
# time.


# %%
def gather(
    images: Tensor, labels: Tensor, order: Tensor, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `size` in this order: floats in [0, 1], and labels."""
    for part in order.split(size):
        yield images[part].float() / 255, labels[part]


order = torch.arange(len(images))
for (xb, yb), (ours, targets) in zip(usual, gather(images, labels, order, 128), strict=True):
    assert torch.equal(xb, ours)
    assert torch.equal(yb, targets)
print("same batches, to the bit")

# %% [markdown]
# **Question.** By which factor is the gather faster: 3, 30 or more?

# %%
fast = seconds(lambda: gather(images, labels, order, 128))
print(f"files:  {1e6 * whole / len(files):6.2f} microseconds per image")
print(f"gather: {1e6 * fast / len(files):6.2f}, {whole / fast:.0f} times as fast")

# %% [markdown]
# Is that worth anything? It depends on what the network takes. Here is a whole step of training, on
# the same batches.

# %%
torch.manual_seed(0)
model = LessonClassifier(data.spec.image_shape, len(data.spec.class_names))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def steps() -> Iterator[Tensor]:
    """One epoch of training."""
    for xb, yb in gather(images, labels, order, 128):
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss


step = seconds(steps)
print(f"network: {1e6 * step / len(files):.1f} microseconds per image")
print(f"an epoch from files spends {whole / (whole + step):.0%} of its time on decoding")

# %% [markdown]
# Worker processes hide this where cores are free. They do not remove it: two cores that decode are
# two cores that do not train.
#
# ## The order of an epoch
#
# A shuffled epoch needs a random order. The obvious line is `torch.randperm(n)`, which draws from
# torch's global generator.

# %% [markdown]
# **Question.** What else draws from that generator? What does that mean for a run that was stopped
# in epoch 7, and is to go on as if it had not been?

# %% [markdown]
# <details><summary>Answer</summary>
#
# Initial weights, dropout, augmentation, and every other library in the process. The order of epoch
# 7 depends on all that was drawn before, so it cannot be had without repeating it. One more dropout
# layer and all later orders are others: two runs that you want to compare now differ in two things.
#
# </details>

# %% [markdown]
# So an order should depend on nothing but the seed and the number of the epoch. The project's
# `Batches` do that, and a generator of our own gives the same rows.

# %%
batches = Batches(data.split("train"), rows, 128, seed=42, shuffle=True)
for epoch in (0, 7):
    batches.set_epoch(epoch)
    torch.rand(100)  # whatever else is drawn
    order = torch.randperm(len(rows), generator=generator(42, epoch, 0))
    pairs = zip(batches, gather(images, labels, order, 128), strict=True)
    for (theirs, *_), (ours, _) in pairs:
        assert torch.equal(theirs.float() / 255, ours)
    print(f"epoch {epoch}: rows {order[:6].tolist()} ...")

# %% [markdown]
# ## Exercise
#
# `gather` reads the whole order. To resume *inside* an epoch, begin at a later batch. Write it so
# that no batch before `first` is gathered at all, and the last one, which may be smaller, is not
# lost.


# %% tags=["exercise"]
def gather_from(
    images: Tensor, labels: Tensor, order: Tensor, size: int, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from number `first` on, counted from 0."""
    for number in range(len(order) // size):
        part = order[number * size : (number + 1) * size]
        yield images[part].float() / 255, labels[part]


# %% tags=["check"]
everything = list(gather(images, labels, order, 128))
for first in (0, 3, len(everything) - 1):
    rest = list(gather_from(images, labels, order, 128, first))
    assert len(rest) == len(everything) - first, (
        f"{len(rest)} batches came from number {first} of {len(everything)} on: "
        "begin at `first`, and do not round the last batch away"
    )
    for (ours, _), (expected, _) in zip(rest, everything[first:], strict=True):
        assert torch.equal(ours, expected), (
            f"batch {first} has other rows: the order must stay the same"
        )

# %% [markdown]
# **Where it lives:** [`data/batches.py`](../src/twinloop/data/batches.py) gathers, and
# [`data/cache.py`](../src/twinloop/data/cache.py) decodes once. [The page on data](../docs/data.md)
# has the rest, and `make bench PARTS=batches` measures it beside other loaders. Next: [an
# autoencoder](07_autoencoder.py).
