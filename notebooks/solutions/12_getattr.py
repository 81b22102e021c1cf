# %%
class Row:
    """Values by name, as attributes."""

    def __init__(self, values):
        self.values = values

    def __getattr__(self, name):
        values = vars(self).get("values", {})  # a copy has none at first
        if name in values:
            return values[name]
        raise AttributeError(f"there is no {name!r}; there are: {', '.join(values)}")
