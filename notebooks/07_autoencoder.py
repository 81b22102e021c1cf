# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. A convolutional autoencoder
#
# **You know already** how stride-2 convolutions turn an image into a few numbers.
#
# **The new idea:** go back up. An *encoder* makes a small code of an image, a *decoder* makes the
# image of the code, and the image is its own label. The lesson's first attempt fails, and finding
# out why is worth more than a network that works.

# %%
import os
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.data.datamodule import ImageDataModule
from twinloop.figures import reconstructions
from twinloop.learner import DataLoaders
from twinloop.models import LessonAutoencoder
from twinloop.models.layers import conv, deconv

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
dls = DataLoaders.from_data(data, autoencoder=True)
batches = [xb for (xb, _), _ in zip(dls.train, range(120), strict=False)]
valid = torch.cat([xb for xb, _ in dls.valid])[:1_000]
channels, height, width = data.spec.image_shape
print(f"{sum(map(len, batches)):,} images to train on, {len(valid):,} to validate")

# %% [markdown]
# ## Down and up
#
# `conv` halves both sides. `deconv` is its counterpart: it repeats every pixel 2x2 and convolves
# the result with stride 1. The image is padded to a power of two first, so that halving and
# doubling meet, and cropped at the end. A sigmoid keeps pixels between 0 and 1.


# %%
def autoencoder(middle: int = 2, code: int = 4, act: bool = True) -> nn.Sequential:
    """Two convs, two deconvs; `act` is whether the code goes through a ReLU."""
    torch.manual_seed(0)
    side = 1 << (max(height, width) - 1).bit_length()
    down, across = side - height, side - width
    pad = (across // 2, across - across // 2, down // 2, down - down // 2)
    encoder = nn.Sequential(
        nn.ZeroPad2d(pad),
        conv(channels, middle),
        conv(middle, code, act=act),
    )
    decoder = nn.Sequential(
        deconv(code, middle),
        deconv(middle, channels, act=False),
        nn.ZeroPad2d(tuple(-size for size in pad)),
        nn.Sigmoid(),
    )
    return nn.Sequential(encoder, decoder)


first = autoencoder()
codes = first[0](valid)
print(f"{tuple(valid.shape[1:])} -> {tuple(codes.shape[1:])} -> {tuple(first(valid).shape[1:])}")
print(f"{valid[0].numel()} pixels, a code of {codes[0].numel()} values")

torch.manual_seed(0)
assert torch.equal(first(valid), LessonAutoencoder(data.spec.image_shape)(valid))

# %% [markdown]
# The project's `LessonAutoencoder` gives the same bits. Train it as the lesson does: plain SGD on
# the mean squared error (MSE), 120 steps.


# %%
def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Take 120 steps, and return the error on validation."""
    for step in range(120):
        xb = batches[step % len(batches)]
        loss = F.mse_loss(model(xb), xb)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return float(F.mse_loss(model(valid), valid))


with torch.no_grad():
    before = float(F.mse_loss(first(valid), valid))
after = train(first, torch.optim.SGD(first.parameters(), lr=0.1))
print(f"MSE {before:.4f} before, {after:.4f} after")

# %% [markdown]
# The loss falls. Is it good?

# %% [markdown]
# **Question.** A number means nothing without another beside it. Which reconstruction could you
# make with no network at all, and what would its error be? And what do you expect to see if you
# draw the reconstructions?

# %%
mean = torch.cat(batches).mean(0)
grey = mean.mean()
print(f"one grey for every pixel:       MSE {F.mse_loss(grey.expand_as(valid), valid):.4f}")
print(f"the mean image for every image: MSE {F.mse_loss(mean.expand_as(valid), valid):.4f}")
print(f"the network:                    MSE {after:.4f}")
with torch.no_grad():
    shown = {"image": valid[:8], "reconstruction": first(valid[:8])}
reconstructions(shown, "the lesson's first autoencoder")

# %% [markdown]
# **The surprise:** it draws the same grey square eight times. After 120 steps it is about where a
# single number is, and far behind the mean image, which knows nothing of its input either. The loss
# curve would have looked fine.
#
# ## Why?
#
# Measure instead of guessing. How much do the reconstructions differ from image to image, and the
# codes?

# %%
with torch.no_grad():
    codes, pictures = first[0](valid), first(valid)
print("deviation over the images:")
print(f"pixels {valid.std(0).mean():.5f}, reconstructions {pictures.std(0).mean():.5f}")
print(f"values of the code that are 0 for every image: {(codes == 0).all(0).float().mean():.0%}")

xb = batches[0]
F.mse_loss(first(xb), xb).backward()
for name, parameter in first.named_parameters():
    print(f"gradient of {name:11} {parameter.grad.abs().mean():.6f}")
first.zero_grad()

# %% [markdown]
# **Question.** Read the two tables. Which parameter is the only one that learns, and what has
# become of the code?

# %% [markdown]
# <details><summary>Answer</summary>
#
# The last bias (`1.1.1.bias`) has by far the largest gradient: it sets one grey for all pixels. The
# gradients of the encoder are smaller by orders of magnitude, so SGD with one rate for all hardly
# moves it. And a part of the code is 0 for every image: a ReLU at the end of the encoder throws
# away every negative value, just where nothing may be lost.
#
# </details>

# %% [markdown]
# ## Three changes
#
# 1. AdamW in place of SGD: it divides each gradient by its own size, so small ones count as much.
# 2. No ReLU at the end of the encoder.
# 3. 16 channels in the middle in place of 2. The code stays as small as it was.

# %% [markdown]
# **Question.** What helps most: 1 alone, 2 alone, or both? Write down an order before you run this.

# %%
SGD, AdamW = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.AdamW, lr=0.02)
models = {
    "1": (autoencoder(), AdamW),
    "2": (autoencoder(act=False), SGD),
    "1, 2": (autoencoder(act=False), AdamW),
    "1, 2, 3": (autoencoder(middle=16, act=False), AdamW),
}
errors = {"none": after}
shown = {"image": valid[:8], "none": pictures[:8]}
for name, (model, make) in models.items():
    errors[name] = train(model, make(model.parameters()))
    with torch.no_grad():
        shown[name] = model(valid[:8])
for name, error in errors.items():
    print(f"{name:8} MSE {error:.4f}")
reconstructions(shown, "changes 1, 2 and 3")

# %% [markdown]
# Neither change does anything alone: an optimiser cannot use a dead code, and nobody moves a living
# one. Faults come in pairs, and then no single fix shows. Then the network gets wide enough to be
# useful.
#
# ## Is it good now?
#
# Again a number beside it: the best *linear* code of the same size, PCA. It is one singular value
# decomposition.


# %%
def pca_error(components: int) -> float:
    """The error of validation, rebuilt from this many principal components."""
    train = torch.cat(batches).flatten(1)[:5_000]
    middle = train.mean(0)
    directions = torch.linalg.svd(train - middle, full_matrices=False).Vh[:components]
    rest = valid.flatten(1) - middle
    return float(F.mse_loss(rest @ directions.T @ directions, rest))


size = codes[0].numel()
print(f"PCA with {size} values: MSE {pca_error(size):.4f}")
print(f"the network, {size}:     MSE {errors['1, 2, 3']:.4f}")

# %% [markdown]
# Linear algebra wins, for now. A convolution sees its neighbourhood only, so each value of this
# code describes one patch of the image, and no value describes the whole. The project's
# `BottleneckAutoencoder` ends its encoder in fully connected layers: on Fashion-MNIST it beats PCA
# with 32 values each, 0.0083 against 0.0151 ([results](../docs/results.md)).
#
# ## Play
#
# Change `middle`, `code`, the rate or the number of steps. How small can the code be until you
# cannot tell the images apart?
#
# ## Exercise
#
# The first half of a `deconv` repeats every pixel 2x2. Write it. This attempt repeats rows only.


# %% tags=["exercise"]
def repeat_pixels(images: Tensor) -> Tensor:
    """Every pixel four times: `[B, C, H, W] -> [B, C, 2 * H, 2 * W]`."""
    return images.repeat_interleave(2, dim=2)


# %% tags=["check"]
small = torch.arange(4.0).view(1, 1, 2, 2)
assert repeat_pixels(small).shape == (1, 1, 4, 4), (
    "both sides must double: repeat columns as well as rows"
)
assert torch.equal(repeat_pixels(small), nn.UpsamplingNearest2d(scale_factor=2)(small)), (
    "each pixel becomes a 2x2 square of its own value: `repeat` tiles the whole image instead"
)
block = deconv(channels, 3)
assert torch.equal(block(valid), block[1:](repeat_pixels(valid))), (
    "a convolution of it is the project's deconv"
)

# %% [markdown]
# **Where it lives:** [`models/autoencoder.py`](../src/twinloop/models/autoencoder.py) has both
# autoencoders, and [`models/layers.py`](../src/twinloop/models/layers.py) `deconv`. Next: [a
# Learner on one screen](08_learner.py).
