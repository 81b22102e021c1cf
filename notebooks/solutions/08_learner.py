# %%
def accuracy(model: nn.Module, batches: DataLoaders) -> float:
    """The share of validation that is classified right; the model's mode is as it was before."""
    hits = total = 0
    mode = model.training
    model.eval()
    with torch.no_grad():
        for xb, yb in batches.valid:
            hits += int((model(xb).argmax(1) == yb).sum())
            total += len(yb)
    model.train(mode)
    return hits / total
