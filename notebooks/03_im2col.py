# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. im2col
#
# **You know already** how a kernel slides over an image: two loops, and nine products at each
# position.
#
# **The new idea:** copy every window into a *column* of a matrix. Then one matrix product computes
# all responses of all kernels at once. The trick is called *im2col*, image to columns, and it is
# why convolutions are fast: nothing on a computer is optimised like a matrix product.

# %%
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution.conv2d import conv2d_im2col, conv2d_loops
from twinloop.convolution.im2col import Geometry, im2col, windows
from twinloop.convolution.kernels import KERNELS, LEFT_EDGE, TOP_EDGE
from twinloop.data.datamodule import ImageDataModule

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
images, labels = data.examples(16)
images = (images * 255).round()  # whole numbers, whose sums are exact
tuple(images.shape)

# %% [markdown]
# ## By hand, on four by four
#
# Sixteen pixels, numbered. A 3x3 kernel has four positions.

# %%
small = torch.arange(16.0).view(4, 4)
columns = torch.stack([small[i : i + 3, j : j + 3].flatten() for i in (0, 1) for j in (0, 1)], 1)
print(small.int())
print(columns.int())

# %% [markdown]
# **Question.** Pixel 5 is one number in the image. How often is it in the matrix, and in which
# rows? Why is pixel 0 there only once?

# %% [markdown]
# <details><summary>Answer</summary>
#
# Four times, in rows 4, 3, 1 and 0: it is the middle of one window, the left end of the next, and
# so on. Every window that covers a pixel has a copy of it. Pixel 0 is a corner, and only one window
# covers it.
#
# </details>

# %% [markdown]
# A kernel, flattened to a row of nine, times this matrix gives four responses. Two kernels make two
# rows.

# %%
kernels = torch.stack([TOP_EDGE, LEFT_EDGE])
print(kernels.flatten(1) @ columns)
print(F.conv2d(small[None, None], kernels[:, None])[0].flatten(1))

# %% [markdown]
# ## The whole batch
#
# Slicing does all windows at once: for each of the nine weights, the part of the image that this
# weight ever touches.


# %%
def columns_of(images: Tensor, kernel: int) -> Tensor:
    """Every window as a column: `[B, C, H, W] -> [B, C * kernel**2, H' * W']`."""
    rows, width = images.shape[2] - kernel + 1, images.shape[3] - kernel + 1
    parts = [
        images[:, :, i : i + rows, j : j + width] for i in range(kernel) for j in range(kernel)
    ]
    return torch.stack(parts, 2).flatten(1, 2).flatten(2)


ours = columns_of(images, 3)
print(tuple(images.shape), "->", tuple(ours.shape))
assert torch.equal(ours, im2col(images, 3))
assert torch.equal(ours, F.unfold(images, 3))

# %% [markdown]
# The same bits as the project's `im2col` and as PyTorch's `F.unfold`. Now all kernels of the
# project in one product:

# %%
weight = torch.stack(list(KERNELS.values()))[:, None].round()  # [11, 1, 3, 3], whole numbers too
rows, width = images.shape[2] - 2, images.shape[3] - 2
product = (weight.flatten(1) @ ours).view(len(images), len(weight), rows, width)
assert torch.equal(product, F.conv2d(images, weight))
assert torch.equal(product, conv2d_im2col(images, weight))
tuple(product.shape)

# %% [markdown]
# ## What it gains

# %% [markdown]
# **Question.** The loops and the product do exactly the same multiplications. How many times faster
# is the product: 2, 20 or 200 times?


# %%
def seconds(function: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


few = images[:2]
loops = seconds(lambda: conv2d_loops(few, weight), 1)
ways: dict[str, Callable[[], Tensor]] = {
    "im2col by hand": lambda: weight.flatten(1) @ columns_of(few, 3),
    "conv2d_im2col": lambda: conv2d_im2col(few, weight),
    "F.conv2d": lambda: F.conv2d(few, weight),
}
print(f"{'loops':15} {1e3 * loops:8.2f} ms")
for name, way in ways.items():
    taken = seconds(way, 20)
    print(f"{name:15} {1e3 * taken:8.2f} ms, {loops / taken:.0f} times as fast")

# %% [markdown]
# A factor of a hundred and more. The loops spend their time in Python, between the multiplications.
#
# ## What it costs

# %% [markdown]
# **Question.** By how much does the matrix outgrow the image, for a 3x3 kernel? For 5x5? Predict,
# then run.

# %%
large = torch.zeros(1, 1, 224, 224)  # a photo
for kernel in (1, 3, 5, 7):
    matrix = im2col(large, kernel)
    print(f"{kernel}x{kernel}: {matrix.numel() / large.numel():5.1f} times the memory")

# %% [markdown]
# Nearly `kernel ** 2`, a little less for want of padding. For a batch of 256 photos with 64
# channels a 3x3 kernel would need 27 GiB. So libraries build the matrix in pieces that fit into the
# cache, or never build it.
#
# The project does something in between. A window is a *view*: the same memory, read with other
# strides.

# %%
seen = windows(large, Geometry.of(3, 1, 0, 1))
print("shape: ", tuple(seen.shape))
print("stride:", seen.stride())
print("copied:", seen.data_ptr() != large.data_ptr())

# %% [markdown]
# Nearly half a million elements, and not one of them copied: both "row in the kernel" and "row in
# the output" step by 224.
#
# [The workbook](../lightning_logs/convolutions/convolutions.xlsx), which `make convolutions`
# writes, has a trained network as a spreadsheet: each activation is a live `SUMPRODUCT` of a window
# and a kernel. Change a pixel and watch it spread.
#
# ## Exercise
#
# The way back, `col2im`: add every column to the pixels that it was copied from. It is what a
# backward pass needs, since a pixel that was copied four times gets four gradients.


# %% tags=["exercise"]
def images_of(columns: Tensor, kernel: int, height: int, width: int) -> Tensor:
    """Add columns to their pixels: `[B, kernel**2, H' * W'] -> [B, 1, H, W]`."""
    rows, row_length = height - kernel + 1, width - kernel + 1
    parts = columns.view(len(columns), kernel, kernel, rows, row_length)
    images = torch.zeros(len(columns), 1, height, width)
    for i in range(kernel):
        for j in range(kernel):
            images[:, 0, i : i + rows, j : j + row_length] = parts[:, i, j]
    return images


# %% tags=["check"]
counts = images_of(torch.ones(1, 9, 4), 3, 4, 4)[0, 0]
assert counts[1, 1] == 4, "four windows cover pixel 5, and each must add its copy: do not overwrite"
assert counts[0, 0] == 1, "one window covers a corner"
grey = images[:, :1]
height, width = grey.shape[2:]
theirs = F.fold(im2col(grey, 3), (height, width), 3)
assert torch.equal(images_of(im2col(grey, 3), 3, height, width), theirs), "F.fold has another sum"

# %% [markdown]
# `counts` is what you get from ones: how many windows cover each pixel. So `col2im` is not the
# inverse of `im2col` but its transpose.
#
# **Where it lives:** [`convolution/im2col.py`](../src/twinloop/convolution/im2col.py), and
# [`convolution/conv2d.py`](../src/twinloop/convolution/conv2d.py) for the convolution with its
# gradients. Next: [what a pixel sees](04_receptive_field.py).
