# %%
class at_most:  # noqa: N801 - read as a decorator
    """Decorates a function that may be called `n` times; the next call ends the fit."""

    def __init__(self, n):
        self.n, self.calls = n, 0

    def __call__(self, f):
        @wraps(f)
        def _f(*args, **kwargs):
            if self.calls == self.n:
                raise CancelFitException
            self.calls += 1
            return f(*args, **kwargs)

        return _f
