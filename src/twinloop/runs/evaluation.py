"""How good is a trained task? Its metrics; for codes, PCA and probes by scikit-learn."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner.callbacks.limits import limited
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs.pca import drawn, pca_mse
from twinloop.tasks import Task

Array = NDArray[Any]

NEIGHBOURS = 10
CODES = 2**25
"""How many values the codes of a split have at most; the rest of it is left out."""
ITERATIONS = 100, 1000
"""The fewest and the most of the logistic regression, unless it is done before."""
LEARNED = 2**35
"""Iterations, times rows, code size and classes, of the logistic regression."""
COMPARED = 2**38
"""Rows of test, times rows of train and code size, of the nearest neighbours."""


def evaluate(
    task: Task,
    data: ImageDataModule,
    stage: str,
    *,
    limit: int | float | None = None,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """The task's metrics on 'val' or 'test', by name; `task` is in evaluation mode afterwards.

    Args:
        task: What to evaluate, where and in which type it is.
        data: What on.
        stage: 'val' or 'test'.
        limit: Only the first batches, as Lightning's `limit_val_batches`: a number of batches, or
            a share of them if it is a float; all if unset.
        forward_context: Makes the context of each forward and its loss, `torch.autocast` for
            example.

    Returns:
        The metrics that are one number; none where there is no batch, or no label for a task that
        needs them.
    """
    task.eval()
    if stage == "test" and task.needs_labels and not data.data.test.has_labels:
        return {}
    loader = data.val_dataloader() if stage == "val" else data.test_dataloader()
    with torch.no_grad():
        for batch in islice(loader, limited(len(loader), 1.0 if limit is None else limit)):
            images, labels = data.on_after_batch_transfer(batch, 0)
            moved = images.to(task.device), labels.to(task.device)
            inputs, target = task.inputs_and_targets(moved)
            with forward_context():
                output = task(inputs)
                loss = task.loss(output, target)
            task.count(stage, output, target, loss)
    found = task.compute(stage)
    return {name.partition("/")[2]: float(value) for name, value in found.items()}


def evaluate_codes(network: Autoencoder, data: ImageDataModule) -> dict[str, float]:
    """Compare an autoencoder with PCA, and see what its codes know of the classes.

    Large data is thinned out evenly, always by the same rows: to 2**25 values of all codes (of
    60,000 images 559 each), and further for what takes longest (`LEARNED`, `COMPARED`).

    Returns:
        `pca_mse`: MSE per pixel on test of PCA with as many numbers as the code has, fitted on
        train; see `twinloop.runs.pca` for how exact it is, and when it is left out.
        `linear_probe_accuracy`: a logistic regression on the codes of train, of at most 1000
        iterations, scored on test. `knn_accuracy`: the vote of the 10 nearest codes of train,
        scored on test. Without labels neither.
    """
    first = Batches(data.split("train"), data.rows["train"][:1], 1)
    size = encode(network, data, first)[0].shape[1]
    train, test = (
        Batches(data.split(name), drawn(data.rows[name], CODES // size), data.batch_size)
        for name in ("train", "test")
    )
    codes, labels = encode(network, data, train)
    test_codes, test_labels = encode(network, data, test)
    pca = pca_mse(data, size)
    found = {} if pca is None else {"pca_mse": pca}
    if not (data.data.train.has_labels and data.data.test.has_labels):
        return found
    few = drawn(torch.arange(len(test_codes)), COMPARED // codes.size).numpy()
    return found | {
        "linear_probe_accuracy": _probe(codes, labels).score(test_codes, test_labels),
        "knn_accuracy": _neighbours(codes, labels).score(test_codes[few], test_labels[few]),
    }


def _probe(codes: Array, labels: Array) -> Any:
    """A logistic regression on codes `[N, code size]` and their labels `[N]`."""
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = len(np.unique(labels))
    if classes == 1:  # a regression needs two; with one there is nothing to find out
        return DummyClassifier().fit(codes, labels)
    few = drawn(torch.arange(len(codes)), LEARNED // ITERATIONS[0] // codes.shape[1] // classes)
    codes, labels = codes[few.numpy()], labels[few.numpy()]
    iterations = int(np.clip(LEARNED // (codes.size * classes), *ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations)).fit(
            codes, labels
        )


def _neighbours(codes: Array, labels: Array) -> Any:
    """The nearest of codes `[N, code size]` with labels `[N]`."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(min(NEIGHBOURS, len(codes)), algorithm="brute").fit(codes, labels)


def encode(network: Autoencoder, data: ImageDataModule, batches: Batches) -> tuple[Array, Array]:
    """Codes `[N, code size]` and labels `[N]` of all `batches`."""
    weight = next(network.parameters())  # says where, and in which precision
    codes, labels = [], []
    with evaluating(network), torch.no_grad():
        for batch in batches:
            images, target = data.on_after_batch_transfer(batch, 0)
            codes.append(network.encode(images.to(weight)).flatten(1).float().cpu())
            labels.append(target.cpu())
    return _array(codes), _array(labels)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, and every part of it back as it was."""
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode


def _array(parts: list[Tensor]) -> Array:
    array: Array = torch.cat(parts).numpy()
    return array
