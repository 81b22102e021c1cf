# %%
def in_eval(model, f):
    """Call `f(model)` in evaluation mode, and restore the mode in any case."""
    was_training = model.training
    model.eval()
    try:
        return f(model)
    except CancelEpochException:
        return None
    finally:
        model.train(was_training)
