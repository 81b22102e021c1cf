"""Evaluate a trained task: its metrics, and for codes PCA and probes by scikit-learn."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import nn

from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.protocol import Data
from twinloop.learner.callbacks.limits import limited
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs.pca import pca_mse, sampled
from twinloop.tasks import Task

Array = NDArray[Any]

NEIGHBOURS = 10
CODES = 2**25
"""The most values in the codes of a split; further rows are left out."""
ITERATIONS = 100, 1000
"""The limits of the logistic regression's maximum of iterations."""
LEARNED = 2**35
"""The most work of the logistic regression: iterations x rows x code size x classes."""
COMPARED = 2**38
"""The most work of the nearest neighbours: rows of test x rows of train x code size."""


def evaluate(
    task: Task,
    data: Data,
    stage: str,
    *,
    limit: int | float | None = None,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """The scalar metrics of a task on 'val' or 'test', by name; none if there is no batch.

    The task stays on its device and in its type, and is in evaluation mode afterwards. `limit`
    is Lightning's `limit_val_batches`: a number of batches, or a share of them if it is a float.
    `forward_context` makes the context of each forward and its loss, such as `torch.autocast`.
    Without labels there are none of a task that needs them.
    """
    task.eval()
    if stage == "test" and task.needs_labels and not data.facts.measures_test:
        return {}
    loader = data.val_dataloader() if stage == "val" else data.test_dataloader()
    with torch.no_grad():
        for batch in islice(loader, limited(len(loader), 1.0 if limit is None else limit)):
            moved = data.on_after_batch_transfer(move_data_to_device(batch, task.device), 0)
            inputs, target = task.inputs_and_targets(moved)
            with forward_context():
                output = task(inputs)
                loss = task.loss(output, target)
            task.count(stage, output, target, loss)
    found = task.compute(stage)
    return {name.partition("/")[2]: float(value) for name, value in found.items()}


def evaluate_codes(network: Autoencoder, data: ImageDataModule) -> dict[str, float]:
    """Compare an autoencoder with PCA, and predict classes from its codes.

    Large data is sampled evenly, always the same rows: to 2**25 values of all codes (559 for each
    of 60,000 images), and further for the probes (`LEARNED`, `COMPARED`).

    Returns:
        `pca_mse`: MSE per pixel on test of PCA with the dimension of the code, fitted on train; see
        `twinloop.runs.pca` for its precision, and when it is left out.
        `linear_probe_accuracy`: a logistic regression on the codes of train, of at most 1000
        iterations, scored on test. `knn_accuracy`: the vote of the 10 nearest codes of train,
        scored on test. Without classes neither.
    """
    first = Batches(data.split("train"), data.rows["train"][:1], 1)
    size = encode(network, data, first)[0].shape[1]
    train, test = (
        Batches(data.split(name), sampled(data.rows[name], CODES // size), data.batch_size)
        for name in ("train", "test")
    )
    codes, labels = encode(network, data, train)
    test_codes, test_labels = encode(network, data, test)
    pca = pca_mse(data, size)
    found = {} if pca is None else {"pca_mse": pca}
    if labels.ndim > 1 or not (data.data.train.has_labels and data.data.test.has_labels):
        return found
    few = sampled(torch.arange(len(test_codes)), COMPARED // codes.size).numpy()
    return found | {
        "linear_probe_accuracy": _probe(codes, labels).score(test_codes, test_labels),
        "knn_accuracy": _neighbours(codes, labels).score(test_codes[few], test_labels[few]),
    }


def _probe(codes: Array, labels: Array) -> Any:
    """A logistic regression on codes `[N, code size]` and labels `[N]`."""
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = len(np.unique(labels))
    if classes == 1:  # a regression needs two
        return DummyClassifier().fit(codes, labels)
    few = sampled(torch.arange(len(codes)), LEARNED // ITERATIONS[0] // codes.shape[1] // classes)
    codes, labels = codes[few.numpy()], labels[few.numpy()]
    iterations = int(np.clip(LEARNED // (codes.size * classes), *ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # iterations are limited on purpose
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations)).fit(
            codes, labels
        )


def _neighbours(codes: Array, labels: Array) -> Any:
    """A nearest-neighbour classifier of codes `[N, code size]` with labels `[N]`."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(min(NEIGHBOURS, len(codes)), algorithm="brute").fit(codes, labels)


def encode(network: Autoencoder, data: ImageDataModule, batches: Batches) -> tuple[Array, Array]:
    """Codes `[N, code size]` and labels `[N]` of all `batches`."""
    weight = next(network.parameters())  # has the device and the type
    codes, labels = [], []
    with evaluating(network), torch.no_grad():
        for batch in batches:
            images, target = data.on_after_batch_transfer(batch, 0)
            codes.append(network.encode(images.to(weight)).flatten(1).float().cpu())
            labels.append(target.cpu())
    return torch.cat(codes).numpy(), torch.cat(labels).numpy()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, and restore the mode of each of its modules."""
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode
