# %%
class SearchCB(Callback):
    """Raises the learning rate from batch to batch, until the loss diverges or it is above 10."""

    def __init__(self, start=1e-5, gamma=1.03):
        self.start, self.gamma = start, gamma
        self.lrs, self.losses = [], []

    def before_fit(self, learn):
        for group in learn.opt.param_groups:
            group["lr"] = self.start

    def after_batch(self, learn):
        if not learn.training:
            return
        self.lrs.append(learn.opt.param_groups[0]["lr"])
        self.losses.append(learn.loss.item())
        if self.losses[-1] > 4 * min(self.losses) or self.lrs[-1] * self.gamma > 10:
            raise CancelFitException
        for group in learn.opt.param_groups:
            group["lr"] *= self.gamma
