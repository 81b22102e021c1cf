# %%
class ClassAccuracy:
    """The mean over classes of the accuracy of each class."""

    def __init__(self, classes):
        self.hits, self.counts = torch.zeros(classes), torch.zeros(classes)

    def update(self, preds, targets):
        """Add a batch to `hits` and `counts`: logits `[B, classes]`, labels `[B]`."""
        right = preds.argmax(1) == targets
        self.hits += torch.bincount(targets[right], minlength=len(self.hits))
        self.counts += torch.bincount(targets, minlength=len(self.counts))

    def compute(self):
        return (self.hits / self.counts).mean()
