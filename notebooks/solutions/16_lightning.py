# %%
def same_state(one, other):
    """Whether two state_dicts are the same."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )
