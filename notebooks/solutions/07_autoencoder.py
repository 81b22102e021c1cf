# %%
def repeat_pixels(images: Tensor) -> Tensor:
    """Every pixel four times: `[B, C, H, W] -> [B, C, 2 * H, 2 * W]`."""
    return images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
