# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Exceptions
#
# **You know already** that `break` leaves a loop, and that training is three loops, one inside the
# other: fit, epoch, batch.
#
# **The new idea**: an exception leaves as many loops and functions as it takes, until it meets an
# `except` that knows its class. So whoever is called deep inside can end a batch, an epoch or the
# whole fit.

# %%
import os

import torch
from torch.nn import functional as F

from twinloop import figures
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    DataLoaders,
    TrainLearner,
)
from twinloop.learner.callbacks import TraceCB
from twinloop.models import MLP

data = ImageDataModule(os.environ.get("DATA") or "digits", batch_size=128)
dls = DataLoaders.from_data(data)


# %% [markdown]
# ## Four words
#
# `try` begins what may fail. `except` has what is done about one class of errors, and its
# subclasses. `else` is reached without an error. `finally` is reached in any case.


# %%
def story(error):
    said = []
    try:
        try:
            said.append("try")
            if error:
                raise error
            said.append("still in try")
        except ValueError:
            said.append("except ValueError")
        else:
            said.append("else")
        finally:
            said.append("finally")
        said.append("after it")
    except KeyError:
        said.append("the caller's except KeyError")
    return said


# %% [markdown]
# **Question.** What does `story` return for no error, for a `ValueError`, and for a `KeyError`?
# Write the three lists down before you run the cell.

# %%
for error in (None, ValueError(), KeyError()):
    print(f"{error!r:14}", " -> ".join(story(error)))

# %% [markdown]
# The third line is the idea of this notebook. The inner `except` does not know a `KeyError`, so the
# error goes on to the caller. On its way out it skips everything, except what is in `finally`.

# %% [markdown]
# ## Three loops, three classes
#
# Here are the three loops without a model. `look` is called in the innermost one. It can raise any
# of three classes, and each of the three `try` blocks knows one of them.


# %%
def loops(look, epochs=2, batches=3):
    """Say which batches were finished, and which epochs."""
    done = []
    try:
        for epoch in range(epochs):
            try:
                for num in range(batches):
                    try:
                        look(epoch, num)
                        done.append(f"{epoch}.{num}")
                    except CancelBatchException:
                        pass
                done.append(f"epoch {epoch}")
            except CancelEpochException:
                pass
        done.append("fit")
    except CancelFitException:
        pass
    return done


# %%
def raises(cancel):
    """Raise `cancel` in batch 1 of epoch 0."""

    def look(epoch, num):
        if (epoch, num) == (0, 1):
            raise cancel

    return look


# %% [markdown]
# **Question.** Without a cancel the list is `0.0 0.1 0.2 epoch 0 1.0 1.1 1.2 epoch 1 fit`. Which of
# these are missing where batch 1 of epoch 0 raises each of the three?

# %%
for cancel in (CancelBatchException, CancelEpochException, CancelFitException):
    print(f"{cancel.__name__:22}", " ".join(loops(raises(cancel))))

# %% [markdown]
# A return value could do the same, if every function between `look` and the loop passed it on. An
# exception needs nothing of those in between. They do not even know that it exists.

# %% [markdown]
# ## The Learner's loops
#
# A callback of the Learner may raise the same three classes. This one raises in `before_batch`,
# where its condition holds. `TraceCB` records every event.


# %%
class CancelCB(Callback):
    """Raises `cancel` before a batch of train, where `when(learn)` holds."""

    def __init__(self, cancel, when):
        self.cancel, self.when = cancel, when

    def before_batch(self, learn):
        if learn.training and self.when(learn):
            raise self.cancel


def train(*cbs, epochs=1):
    """A network that always begins with the same weights, trained with these callbacks."""
    torch.manual_seed(0)
    model = MLP(data.spec.image_shape, len(data.spec.class_names))
    TrainLearner(model, dls, lr=0.1, cbs=cbs).fit(epochs, valid=False)
    return model


# %%
for cancel in (CancelBatchException, CancelEpochException, CancelFitException):
    trace = TraceCB()
    train(trace, CancelCB(cancel, lambda learn: learn.num == 1), epochs=2)
    seen = [event for event, *_ in trace.events]
    counts = {e: seen.count(e) for e in ("after_batch", "after_epoch", "after_fit", "cleanup_fit")}
    print(f"{cancel.__name__:22}", counts)

# %% [markdown]
# **Question.** After a `CancelFitException` there is no `after_fit`, but there is a `cleanup_fit`.
# Why does the Learner have both events?

# %% [markdown]
# <details><summary>Answer</summary>
#
# `after_fit` is for what is due once the fit has come to its end, such as a final result.
# `cleanup_fit` is called in a `finally`: after the end, a cancel, an error, or Ctrl-C. So whatever
# must be undone is undone there: a hook on the model, an open file, a progress bar.
#
# </details>

# %% [markdown]
# Is a cancelled batch the same as one that never was? By hand we skip every other batch with
# `continue`. The Learner cancels them. The weights must agree to the bit.

# %%
torch.manual_seed(0)
by_hand = MLP(data.spec.image_shape, len(data.spec.class_names))
opt = torch.optim.SGD(by_hand.parameters(), lr=0.1)
dls.train.set_epoch(0)
skipped = []
for num, (xb, yb) in enumerate(dls.train):
    if num % 2:
        skipped.append(xb[0])
        continue
    F.cross_entropy(by_hand(xb), yb).backward()
    opt.step()
    opt.zero_grad()

cancelled = train(CancelCB(CancelBatchException, lambda learn: learn.num % 2))
for ours, theirs in zip(by_hand.parameters(), cancelled.parameters(), strict=True):
    assert torch.equal(ours, theirs)

# %% [markdown]
# Neither of them has been trained on these images, the first of each skipped batch:

# %%
figures.show_images(skipped[:8])

# %% [markdown]
# ## What `except` must not catch
#
# `except Exception: pass` would end the batch too. It would also hide each error that you make.
# Here a misspelt name costs nothing but the whole training, and nobody is told.

# %%
steps = 0
for xb, yb in dls.train:
    try:
        loss = F.cross_entropy(by_hand(xb), yb)
        loss.bakward()
        steps += 1
    except Exception:
        pass
print(f"{steps} steps, and no error")

# %% [markdown]
# So each of the Learner's loops catches its own class alone. Ctrl-C is a class apart:
# `KeyboardInterrupt` is no `Exception`. `except Exception` lets it through, a bare `except:` does
# not, and `finally` is reached as ever.

# %%
print(issubclass(KeyboardInterrupt, Exception), issubclass(CancelFitException, Exception))

# %% [markdown]
# ## Exercise
#
# The exercise of [notebook 8](08_learner.py) set a model to evaluation mode, and restored its mode
# at the end. An error on the way skips that line. The next epoch then trains without dropout, and
# nobody is told.
#
# Write `in_eval`: call `f(model)` in evaluation mode and return its result. A
# `CancelEpochException` ends the call, and `in_eval` returns None. Any other error must reach the
# caller.


# %% tags=["exercise"]
def in_eval(model, f):
    """Call `f(model)` in evaluation mode, and restore the mode in any case."""
    was_training = model.training
    model.eval()
    result = f(model)
    model.train(was_training)
    return result


# %% tags=["check"]
def fails(_):
    raise ValueError("a broken image")


def cancels(_):
    raise CancelEpochException


model = MLP(data.spec.image_shape, len(data.spec.class_names))
assert in_eval(model, lambda model: model.training) is False, "call f in evaluation mode"
assert model.training, "restore the mode after f has returned"
try:
    in_eval(model, fails)
except ValueError:
    pass
else:
    raise AssertionError("a ValueError is the caller's business: catch CancelEpochException alone")
assert model.training, "f has failed, and the model is still in evaluation mode: use finally"
try:
    assert in_eval(model, cancels) is None, "a cancelled call has no result"
except CancelEpochException as error:
    raise AssertionError("a CancelEpochException ends the call, not the caller") from error
assert model.training, "f was cancelled, and the model is still in evaluation mode: use finally"
assert in_eval(model.eval(), lambda _: 3) == 3, "return the result of f"
assert not model.training, "a model that was in evaluation mode stays in it"

# %% [markdown]
# **Where it lives:** the four classes, and the one `try` block for all loops, in
# [`learner/callback.py`](../src/twinloop/learner/callback.py).
#
# Next: [how three `try` blocks become one](11_decorators.py).
