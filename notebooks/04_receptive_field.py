# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. What a pixel sees
#
# **You know already** that a response of a 3x3 kernel depends on nine pixels.
#
# **The new idea:** stack layers, and each activation depends on activations that depend on others.
# The pixels at the end of that chain are its *receptive field*. There are two ways to find it:
# arithmetic, and the gradient.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import nn

from twinloop.convolution.chain import layers_of
from twinloop.convolution.receptive_field import by_arithmetic, field_of
from twinloop.convolution.receptive_field_gradient import by_gradient, effective_field
from twinloop.data.datamodule import ImageDataModule
from twinloop.models.layers import conv

data = ImageDataModule(os.environ.get("DATA") or "digits", image_size=(32, 32), channels=1)
images, labels = data.examples(64)

torch.manual_seed(3)
model = nn.Sequential(conv(1, 4), conv(4, 8), conv(8, 16))  # 16x16, 8x8, 4x4
tuple(model(images).shape)

# %% [markdown]
# Images are resized to 32x32 here, so that there is room for a field to grow. Each `conv` is a 3x3
# convolution of stride 2, padding 1, and a ReLU.

# %% [markdown]
# **Question.** An activation of the first layer sees 3 pixels along a side. How many does one of
# the second layer see, and one of the third? Write your two numbers down.

# %% [markdown]
# <details><summary>Answer</summary>
#
# 7 and 15. An activation of the second layer sees three of the first, whose fields of 3 pixels lie
# 2 apart: `3 + 2 + 2 = 7`. In the third layer it is three fields of 7 pixels, 4 apart: `7 + 4 + 4 =
# 15`. The steps double with each stride, so the field grows exponentially with depth.
#
# </details>

# %% [markdown]
# ## By arithmetic
#
# One axis is enough. Begin at an output and ask which inputs it was computed from, layer by layer,
# backwards.


# %%
def pixels_of(output: int, depth: int) -> set[int]:
    """The pixels along one axis behind an activation, with kernel 3, stride 2 and padding 1."""
    positions = {output}
    for _ in range(depth):
        positions = {2 * position - 1 + k for position in positions for k in range(3)}
    return positions


for depth in (1, 2, 3):
    pixels = sorted(pixels_of(1, depth))
    print(f"layer {depth}: pixels {pixels[0]} to {pixels[-1]}, {len(pixels)} of them")

# %% [markdown]
# Activation 1 of layer 3 sees pixels 1 to 15. Activation 0 would see pixels -7 to 7: nearly half of
# its field is padding, the black frame of [notebook 2](02_padding_and_stride.py).
#
# ## By gradient
#
# An activation depends on a pixel if its gradient with respect to that pixel is not zero. PyTorch
# computes gradients, so it can tell us the receptive field of any network, without arithmetic.

# %% [markdown]
# **Question.** This asks the network above, with its random weights and one image. Will the nonzero
# gradients fill the square of 15x15 pixels?

# %%
image = images[:1].clone().requires_grad_()
activation = model(image)[0, :, 1, 1].sum()
activation.backward()
seen = image.grad[0, 0] != 0
square = by_arithmetic(model, (1, 32, 32), position=(1, 1))
print(f"{int(seen.sum())} of {int(square.sum())} pixels")

fig, axes = plt.subplots(1, 3, figsize=(9, 3))
axes[0].imshow(images[0, 0], cmap="gray")
axes[0].contour(square, levels=[0.5], colors="red")
axes[1].imshow(seen)
axes[2].imshow(image.grad[0, 0].abs())
titles = "image, field by arithmetic", "gradient is not zero", "size of the gradient"
for axis, title in zip(axes, titles, strict=True):
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# **The surprise:** it has holes. Where a ReLU outputs zero its gradient is zero too, and a dead
# activation hides what is behind it. Another image has other holes: the gradient answers for *this*
# image.
#
# To see what the network *could* depend on, no ReLU may be off and nothing may cancel. So give all
# weights the same positive value.

# %%
open_model = nn.Sequential(conv(1, 4), conv(4, 8), conv(8, 16)).double()
with torch.no_grad():
    for name, parameter in open_model.named_parameters():
        parameter.fill_(0 if name.endswith("bias") else 1 / parameter.numel())
ones = torch.ones(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)
open_model(ones)[0, :, 1, 1].sum().backward()
ours = ones.grad[0, 0] != 0
assert torch.equal(ours, square)
assert torch.equal(ours, by_gradient(model, (1, 32, 32), position=(1, 1)))
print("all", int(ours.sum()), "pixels")

# %% [markdown]
# Three ways, the same bits: arithmetic, our gradient, and the project's `by_gradient`.
#
# ## Not all pixels count alike
#
# Seven layers of stride 1 see 15 pixels too. But the middle of their field lies on many paths
# through the network, and a corner on one. Average the size of the gradient over images, and you
# get the *effective* receptive field.

# %% [markdown]
# **Question.** The middle 7x7 pixels are a fifth of the area. How much of the gradient falls on
# them: a fifth, half, or more?

# %%
torch.manual_seed(0)
deep = nn.Sequential(conv(1, 8, stride=1), *(conv(8, 8, stride=1) for _ in range(6)))
assert field_of(layers_of(deep, (1, 32, 32))).size == (15, 15)
field = effective_field(deep, images).detach()  # of the activation in the middle, (16, 16)
share = field[13:20, 13:20].sum() / field.sum()
print(f"{share:.0%} of the gradient on {49 / 225:.0%} of the area")
fig, axis = plt.subplots(figsize=(3.4, 3))
fig.colorbar(axis.imshow(field[9:24, 9:24]))
plt.show()

# %% [markdown]
# The arithmetic says 15x15, and most of the work is done in the middle. A receptive field that just
# covers an object is therefore too small to see all of it well. Strides spread the paths more
# evenly: one more reason to use them.
#
# ## Play
#
# Change strides, kernels and depth, and predict the last line. What do three layers of stride 1
# see?

# %%
mine = nn.Sequential(
    conv(1, 4, stride=1),
    conv(4, 4, kernel_size=5),
    nn.MaxPool2d(2),
    conv(4, 4),
)
layers = layers_of(mine, (1, 32, 32))
for number, layer in enumerate(layers, start=1):
    if not isinstance(layer.module, nn.ReLU):
        field = field_of(layers[:number])
        print(f"{type(layer.module).__name__:10} sees {field.size[0]:3} pixels")

# %% [markdown]
# [The interactive page](../lightning_logs/convolutions/convolutions.html) draws the field of any
# activation that you select in a trained network.
#
# ## Exercise
#
# Tracing sets of pixels is slow and says too much. Two numbers are enough, from the first layer to
# the last: the `size` of the field, and the `jump`, the distance in pixels between the fields of
# two neighbours. Both begin at 1. A kernel of k adds `k - 1` jumps to the size; a stride of s
# multiplies the jump.


# %% tags=["exercise"]
def receptive_field(kernels: list[int], strides: list[int]) -> int:
    """The receptive field along one axis, in pixels."""
    size = jump = 1
    for kernel, stride in zip(kernels, strides, strict=True):
        size += kernel - 1
        jump *= stride
    return size


# %% tags=["check"]
assert receptive_field([3, 3, 3], [1, 1, 1]) == 7, "three layers of stride 1 see 7 pixels"
assert receptive_field([3, 3, 3], [2, 2, 2]) == 15, (
    "behind a stride of 2 the fields of neighbours lie 2 pixels apart: add `kernel - 1` jumps"
)
chain = [nn.Conv2d(1, 1, kernel, stride) for kernel, stride in [(5, 1), (3, 2), (2, 2), (3, 1)]]
expected = field_of(layers_of(nn.Sequential(*chain), (1, 64, 64))).size[0]
assert receptive_field([5, 3, 2, 3], [1, 2, 2, 1]) == expected, (
    f"kernels 5, 3, 2, 3 with strides 1, 2, 2, 1 see {expected} pixels: "
    "a stride counts for the layers after it, not for its own"
)

# %% [markdown]
# **Where it lives:** [by arithmetic](../src/twinloop/convolution/receptive_field.py), and
# [by gradient](../src/twinloop/convolution/receptive_field_gradient.py).
# Next: [a network of such layers](05_stride_2_cnn.py).
