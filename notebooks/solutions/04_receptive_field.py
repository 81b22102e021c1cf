# %%
def receptive_field(kernels: list[int], strides: list[int]) -> int:
    """The receptive field along one axis, in pixels."""
    size = jump = 1
    for kernel, stride in zip(kernels, strides, strict=True):
        size += (kernel - 1) * jump
        jump *= stride
    return size
