# %%
def mixup(xb, yb, order, share):
    """Mix each image with that at `order`: images `[B, C, H, W]`, targets `[B, classes]`."""
    targets = F.one_hot(yb, classes).float()
    images = share * xb + (1 - share) * xb[order]
    return images, share * targets + (1 - share) * targets[order]
