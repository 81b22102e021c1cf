"""How good is a trained task? Its metrics; for codes, baselines and probes by scikit-learn."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.models.autoencoder import Autoencoder
from twinloop.tasks import Task

Array = NDArray[Any]

NEIGHBOURS = 10


def evaluate(task: Task, data: ImageDataModule, stage: str) -> dict[str, float]:
    """The task's metrics on 'val' or 'test', by name; `task` is in evaluation mode afterwards."""
    task.eval()
    loader = data.val_dataloader() if stage == "val" else data.test_dataloader()
    with torch.no_grad():
        for batch in loader:
            images, labels = data.on_after_batch_transfer(batch, 0)
            moved = images.to(task.device), labels.to(task.device)
            inputs, target = task.inputs_and_targets(moved)
            output = task(inputs)
            task.count(stage, output, target, task.loss(output, target))
    found = task.compute(stage) if len(loader) else {}
    return {name.partition("/")[2]: float(value) for name, value in found.items()}


def evaluate_codes(network: Autoencoder, data: ImageDataModule) -> dict[str, float]:
    """Compare an autoencoder with PCA, and see what its codes know of the classes.

    Returns:
        `pca_mse`: MSE per pixel on test of PCA with as many numbers as the code has, fitted on
        train. `linear_probe_accuracy`: a logistic regression on the codes of train, scored on
        test. `knn_accuracy`: the vote of the 10 nearest codes of train, scored on test.
    """
    from sklearn.decomposition import PCA
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = Batches(data.split("train"), data.rows["train"], data.batch_size)
    test = data.test_dataloader()
    train_pixels, train_codes, train_labels = encode(network, data, train)
    test_pixels, test_codes, test_labels = encode(network, data, test)

    components = min(train_codes.shape[1], *train_pixels.shape)
    pca = PCA(components, svd_solver="covariance_eigh").fit(train_pixels)
    drawn = pca.inverse_transform(pca.transform(test_pixels))
    # A regression needs two classes; with one there is nothing to find out.
    several = len(np.unique(train_labels)) > 1
    classify = LogisticRegression(max_iter=1000) if several else DummyClassifier()
    probe = make_pipeline(StandardScaler(), classify)
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train_codes)), algorithm="brute")
    return {
        "pca_mse": float(np.mean((drawn - test_pixels) ** 2)),
        "linear_probe_accuracy": float(
            probe.fit(train_codes, train_labels).score(test_codes, test_labels)
        ),
        "knn_accuracy": float(
            neighbours.fit(train_codes, train_labels).score(test_codes, test_labels)
        ),
    }


def encode(
    network: Autoencoder, data: ImageDataModule, batches: Batches
) -> tuple[Array, Array, Array]:
    """Pixels `[N, C*H*W]`, codes `[N, code numbers]` and labels `[N]` of all `batches`."""
    device = next(network.parameters()).device
    pixels, codes, labels = [], [], []
    with evaluating(network), torch.no_grad():
        for batch in batches:
            images, target = data.on_after_batch_transfer(batch, 0)
            pixels.append(images.flatten(1).cpu())
            codes.append(network.encode(images.to(device)).flatten(1).float().cpu())
            labels.append(target.cpu())
    return _array(pixels), _array(codes), _array(labels)


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
