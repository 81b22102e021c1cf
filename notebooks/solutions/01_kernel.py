# %%
def edge_strength(image: Tensor) -> Tensor:
    """The length of the gradient at every position: `[H, W] -> [H - 2, W - 2]`."""
    gx = apply_kernel(image, SOBEL_X)
    gy = apply_kernel(image, SOBEL_X.T)
    return (gx**2 + gy**2).sqrt()
