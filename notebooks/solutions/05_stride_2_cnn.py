# %%
def multiply_adds(inputs: int, outputs: int, kernel: int, side: int) -> int:
    """The products of a convolution whose output has `side * side` positions."""
    return inputs * outputs * kernel * kernel * side * side
