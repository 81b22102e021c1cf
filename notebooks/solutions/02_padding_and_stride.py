# %%
def size_after(size: int, kernel: int, stride: int, padding: int) -> int:
    """How many windows of `kernel` pixels fit, `stride` apart."""
    return (size + 2 * padding - kernel) // stride + 1
