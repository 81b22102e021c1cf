# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. A kernel on an image
#
# **You know already** that an image is a grid of numbers, and that a linear layer multiplies every
# pixel by a weight of its own.
#
# **The new idea:** use nine weights for the whole image. Lay a 3x3 *kernel* on the image, multiply
# each weight by the pixel under it, and add up. Then move the kernel by one pixel and do the same
# again. What comes out is an image of *responses*: large where the image looks like the kernel.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution.kernels import KERNELS, SOBEL_X, TOP_EDGE, apply_kernel
from twinloop.data.datamodule import ImageDataModule

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
images, labels = data.examples(100)
image = images[0, 0]
print(f"{data.spec.name}: {tuple(image.shape)}, a {data.spec.class_names[labels[0]]}")

# %% [markdown]
# ## One image, as numbers
#
# Pixels are floats from 0 (black) to 1 (white). Here is the image beside its middle 8x8 pixels in
# percent.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
left.imshow(image, cmap="gray", vmin=0, vmax=1)
top = (len(image) - 8) // 2
part = image[top : top + 8, top : top + 8]
right.imshow(part, cmap="gray", vmin=0, vmax=1)
for row in range(8):
    for column in range(8):
        pixel = float(part[row, column])
        colour = "black" if pixel > 0.5 else "white"
        right.text(column, row, f"{100 * pixel:.0f}", color=colour, ha="center", va="center")
left.axis("off")
right.axis("off")
plt.show()

# %% [markdown]
# ## One position
#
# This kernel has negative weights above and positive weights below.

# %%
TOP_EDGE

# %% [markdown]
# **Question.** The kernel lies on nine white pixels. What is the response? And on a black row above
# two white rows? Compute both in your head before you run the next cell.

# %%
white = torch.ones(3, 3)
edge = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 1, 1]])
print("all white:", float((white * TOP_EDGE).sum()))
print("black above white:", float((edge * TOP_EDGE).sum()))

# %% [markdown]
# The weights add up to 0, so the kernel is blind to brightness: a white area gives what a black one
# gives. It answers only to a *difference* between the row above and the row below.
#
# ## Every position
#
# Two loops move the kernel over the image. A kernel of 3x3 fits into `H - 2` rows and `W - 2`
# columns.


# %%
def apply_by_hand(image: Tensor, kernel: Tensor) -> Tensor:
    """The response at every position: `[H, W], [3, 3] -> [H - 2, W - 2]`."""
    height, width = image.shape
    responses = torch.empty(height - 2, width - 2)
    for row in range(height - 2):
        for column in range(width - 2):
            window = image[row : row + 3, column : column + 3]
            responses[row, column] = (window * kernel).sum()
    return responses


responses = apply_by_hand(image, TOP_EDGE)
responses.shape

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2))
axes[0].imshow(image, cmap="gray")
shown = axes[1].imshow(responses, cmap="RdBu", vmin=-3, vmax=3)
axes[0].set_title("image")
axes[1].set_title("top edge: blue +, red -")
fig.colorbar(shown, ax=axes[1])
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# Blue is bright below dark: the upper edge of a stroke or a garment. **The surprise is the red:**
# the same kernel finds lower edges too. There it is bright *above*, so the response has the other
# sign.

# %% [markdown]
# **Question.** What would a kernel have to be to give exactly the negative of these responses?

# %% [markdown]
# <details><summary>Answer</summary>
#
# `-TOP_EDGE`: a response is linear in the kernel. Flipped upside down, `TOP_EDGE` has the same nine
# weights, so `BOTTOM_EDGE` is `-TOP_EDGE`. A network that ends each convolution in a ReLU throws
# the negative responses away, and needs both kernels to see both edges.
#
# </details>

# %%
assert torch.equal(TOP_EDGE.flipud(), -TOP_EDGE)
assert torch.equal(apply_by_hand(image, -TOP_EDGE), -responses)

# %% [markdown]
# ## The sign is the direction
#
# Sobel's kernel measures the slope to the right. Take an image of a white bar, and slide your
# finger from left to right.

# %% [markdown]
# **Question.** Which of the two edges of the bar gives positive responses?

# %%
bar = torch.zeros(5, 12)
bar[:, 4:8] = 1
print(apply_by_hand(bar, SOBEL_X)[0].int().tolist())

# %% [markdown]
# Going in, from dark to bright: `+4`. Coming out: `-4`. Turn the bar black on white and both signs
# flip. The *size* of a response says how strong an edge is, and its sign says which side is bright.
#
# ## Compared with the file's own
#
# `apply_kernel` does the same for batches and channels, by one matrix product in place of the
# loops. The order of nine additions is not fixed, and floats round after each. With whole numbers
# as pixels all sums are exact, so every bit must agree, with PyTorch's convolution too.

# %%
whole = (image * 255).round()
ours = apply_by_hand(whole, TOP_EDGE)
assert torch.equal(ours, apply_kernel(whole, TOP_EDGE))
assert torch.equal(ours, F.conv2d(whole[None, None], TOP_EDGE[None, None])[0, 0])

# %% [markdown]
# ## Play
#
# Here are all kernels of the project on one image. Change `number` and run the cell again.

# %%
number = 3
shown = {"image": images[number, 0]}
shown |= {name: apply_kernel(images[number, 0], kernel) for name, kernel in KERNELS.items()}
fig, axes = plt.subplots(2, 6, figsize=(9, 3.4))
for axis, (name, picture) in zip(axes.flat, shown.items(), strict=True):
    axis.imshow(picture, cmap="gray")
    axis.set_title(name, fontsize=8)
    axis.axis("off")
plt.show()

# %% [markdown]
# [The interactive page](../lightning_logs/convolutions/convolutions.html), which `make
# convolutions` writes, shows the same for the kernels that a network has learned: select an
# activation, and see the sum behind it.
#
# ## Exercise
#
# `SOBEL_X` looks to the left and right alone. Write a function that finds edges of
# *every* direction: the length of the gradient, `sqrt(gx ** 2 + gy ** 2)`, where `gx` and `gy` are
# the responses of Sobel's kernel and of the same kernel for rows, its transpose.


# %% tags=["exercise"]
def edge_strength(image: Tensor) -> Tensor:
    """The length of the gradient at every position: `[H, W] -> [H - 2, W - 2]`."""
    return apply_kernel(image, SOBEL_X)  # the slope downwards is missing


# %% tags=["check"]
strength = edge_strength(image)
assert torch.equal(edge_strength(bar)[0], apply_kernel(bar, SOBEL_X)[0].abs()), (
    "an edge that goes down is as strong as one that goes up: no response may be negative"
)
assert torch.allclose(edge_strength(image.T), strength.T, atol=1e-6), (
    "the transposed image has the same edges, transposed: use the responses of both kernels"
)
assert torch.allclose(edge_strength(1 - image), strength, atol=1e-6), (
    "the negative of an image has edges as strong as the image"
)

# %% [markdown]
# If you have solved it, draw it: `plt.imshow(edge_strength(image))`. The whole outline lights up,
# in one colour.
#
# **Where it lives:** [`convolution/kernels.py`](../src/twinloop/convolution/kernels.py) has the
# kernels and `apply_kernel`. Next: [what happens at the border](02_padding_and_stride.py).
