# %%
class GradientNormCB(Callback):
    """Records the norm of the gradient of each batch of train, in `norms`."""

    def before_fit(self, learn):
        self.norms = []

    def after_backward(self, learn):
        squares = [parameter.grad.square().sum() for parameter in learn.model.parameters()]
        self.norms.append(torch.stack(squares).sum().sqrt())
