# %%
def images_of(columns: Tensor, kernel: int, height: int, width: int) -> Tensor:
    """Add columns to their pixels: `[B, kernel**2, H' * W'] -> [B, 1, H, W]`."""
    rows, row_length = height - kernel + 1, width - kernel + 1
    parts = columns.view(len(columns), kernel, kernel, rows, row_length)
    images = torch.zeros(len(columns), 1, height, width)
    for i in range(kernel):
        for j in range(kernel):
            images[:, 0, i : i + rows, j : j + row_length] += parts[:, i, j]
    return images
