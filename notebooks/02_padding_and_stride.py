# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Padding and stride
#
# **You know already** that a 3x3 kernel fits into `H - 2` rows: the response is smaller than the
# image.
#
# **The new idea:** two numbers decide how large the output is. *Padding* adds zeros around the
# image, so that the kernel can be centred on its border. *Stride* is the step from one position to
# the next, so that the output gets smaller on purpose.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from twinloop.convolution.arithmetic import output_size, same_padding
from twinloop.convolution.kernels import BLUR, TOP_EDGE, apply_kernel
from twinloop.data.datamodule import ImageDataModule
from twinloop.figures import show_images

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
images, labels = data.examples(100)
image = images[0, 0]
height, width = image.shape
print(f"{data.spec.name}: {height}x{width}")

# %% [markdown]
# ## Padding
#
# With one zero all around, a 3x3 kernel has a position for every pixel of the image.

# %%
for padding in range(3):
    print(padding, tuple(apply_kernel(image, TOP_EDGE, padding=padding).shape))

# %% [markdown]
# **Question.** A 5x5 kernel should keep the size too. How many zeros at each end? And a 2x2 kernel?

# %%
print("5x5:", same_padding(5))
try:
    same_padding(2)
except ValueError as error:
    print("2x2:", error)

# %% [markdown]
# An odd kernel has a middle, and `(kernel - 1) / 2` pixels on either side of it. An even one has
# none, so nearly every network uses odd kernels.
#
# ## What padding does to the border
#
# Zeros are black pixels. The kernel does not know that they were made up.

# %% [markdown]
# **Question.** Blur a perfectly white image with a padding of 1. Where is the result still white,
# and what is it in a corner?

# %%
white = torch.ones(height, width)
blurred = apply_kernel(white, BLUR, padding=1)
rows = [[f"{pixel:.2f}" for pixel in row] for row in blurred[:3, :3].tolist()]
print("upper left corner:", *rows, sep="\n")

# %% [markdown]
# In a corner five of nine pixels are zeros: 4/9. Along an edge it is 6/9. So padding draws a dark
# frame, and an edge kernel *finds* that frame. Here is the top edge of the negative of an image,
# whose background is white.

# %%
negative = 1 - images[1, 0]
responses = apply_kernel(negative, TOP_EDGE, padding=1)
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2))
axes[0].imshow(negative, cmap="gray", vmin=0, vmax=1)
axes[0].set_title("negative")
axes[1].imshow(responses, cmap="RdBu", vmin=-3, vmax=3)
axes[1].set_title("top edge, padding 1")
for axis in axes:
    axis.axis("off")
plt.show()
print("first row:", [round(value, 1) for value in responses[0].tolist()[:8]])
print("last row: ", [round(value, 1) for value in responses[-1].tolist()[:8]])

# %% [markdown]
# **The surprise:** an edge as strong as any runs along the border, up to `+3` above and `-3` below.
# Nothing of the kind is in the image. The images of this project have a black background, like the
# padding, so the frame does not show; on photos a network has to learn to live with it.
#
# ## Stride
#
# With stride 2 every second position is left out, in both directions. A quarter of the responses
# remain.

# %%
every = F.conv2d(images[:1], TOP_EDGE[None, None], padding=1)
second = F.conv2d(images[:1], TOP_EDGE[None, None], padding=1, stride=2)
print(tuple(every.shape[2:]), "becomes", tuple(second.shape[2:]))
assert torch.allclose(second, every[:, :, ::2, ::2], atol=1e-6)
show_images([image, every[0, 0], second[0, 0]], ["image", "stride 1", "stride 2"])

# %% [markdown]
# The last assertion says what a stride is: the same convolution, of which only every second
# response is computed. It is a quarter of the work, and exactly a quarter of the responses.

# %% [markdown]
# **Question.** An image of 28 pixels a side and one of 27 go through a 3x3 kernel with stride 2 and
# padding 1. How large are the outputs?

# %%
for size in (28, 27, 26):
    print(size, "->", output_size(size, 3, stride=2, padding=1))

# %% [markdown]
# Both give 14: the division rounds down, and two input sizes share one output size. Going back up
# from 14 is therefore ambiguous, which is why a transposed convolution has an argument
# `output_padding`.
#
# ## Play
#
# How many convolutions of stride 2 until one pixel is left? Change `size`, the kernel or the
# padding, and predict first.

# %%
size, sizes = height, [height]
while size > 1:
    size = output_size(size, kernel=3, stride=2, padding=1)
    sizes.append(size)
print(" -> ".join(map(str, sizes)))

# %% [markdown]
# ## Exercise
#
# Write the arithmetic. A padded axis has `size + 2 * padding` pixels. The first window begins at
# pixel 0 and the last one must not end behind the last pixel.


# %% tags=["exercise"]
def size_after(size: int, kernel: int, stride: int, padding: int) -> int:
    """How many windows of `kernel` pixels fit, `stride` apart."""
    return size + 2 * padding - kernel


# %% tags=["check"]
assert size_after(28, 3, 1, 1) == 28, (
    "a 3x3 kernel with padding 1 keeps the size: count the first window"
)
assert size_after(28, 3, 2, 1) == 14, "the last window that fits begins at a multiple of the stride"
for case in [
    (size, k, s, p) for size in (7, 8, 28) for k in (2, 3, 5) for s in (1, 2, 3) for p in (0, 1)
]:
    size, kernel, stride, padding = case
    theirs = F.conv2d(
        torch.zeros(1, 1, size, size), torch.zeros(1, 1, kernel, kernel), None, stride, padding
    )
    assert size_after(*case) == theirs.shape[2], f"{case} gives {theirs.shape[2]}: round down"

# %% [markdown]
# **Where it lives:** [`convolution/arithmetic.py`](../src/twinloop/convolution/arithmetic.py) has
# the formula with dilation, and the way back up. Next: [a convolution without loops](03_im2col.py).
