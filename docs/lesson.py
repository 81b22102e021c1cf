"""The lesson step by step, each beside plain PyTorch that ends with the same bits.

    python docs/lesson.py [SOURCE]

SOURCE is a folder or a Hub id; if unset, Fashion-MNIST from the Hub or its cache, or digits where
neither has it. A difference of one bit is an error.
"""

import sys
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

from twinloop.convolution.im2col import im2col
from twinloop.convolution.kernels import TOP_EDGE, apply_kernel
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import (
    Accuracy,
    Callback,
    DataLoaders,
    Learner,
    MomentumLearner,
    SimpleLearner,
    TrainLearner,
)
from twinloop.learner.callbacks import BatchSchedCB, MetricsCB, RecorderCB, TrainCB
from twinloop.models import MLP, LessonAutoencoder, LessonClassifier


def by_hand(
    start: nn.Module,
    dls: DataLoaders,
    epochs: int,
    opt_func: Any,
    loss_func: Any = F.cross_entropy,
    sched_func: Any = None,
) -> nn.Module:
    """Train a copy of a model without a Learner: this loop is all there is."""
    model = deepcopy(start)
    opt = opt_func(model.parameters())
    sched = sched_func(opt) if sched_func else None
    for _ in range(epochs):
        for xb, yb in dls.train:
            loss_func(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
            if sched is not None:
                sched.step()
    return model


def search_by_hand(start: nn.Module, dls: DataLoaders, lr: float, gamma: float) -> list[float]:
    """The losses at rates that grow from batch to batch, up to 10 or four times the lowest loss."""
    model, losses = deepcopy(start), list[float]()
    opt = SGD(model.parameters(), lr)
    while True:
        for xb, yb in dls.train:
            loss = F.cross_entropy(model(xb), yb)
            losses.append(loss.item())
            if losses[-1] > 4 * min(losses) or opt.param_groups[0]["lr"] * gamma > 10:
                return losses
            loss.backward()  # type: ignore[no-untyped-call]
            opt.step()
            opt.zero_grad()
            opt.param_groups[0]["lr"] *= gamma


def same(step: str, one: nn.Module, other: nn.Module) -> None:
    """Say that two models have the same bits, and fail if they have not."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys(), step
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), step
    print(f"{step:20}  same {sum(map(torch.numel, ours.values())):,} weights")


def convolutions(data: ImageDataModule) -> None:
    """A kernel applied by hand is torch's convolution, and im2col is its unfold."""
    images = data.split("train").images[:100].float()  # whole numbers, whose sums are exact
    channels = images.shape[1]
    ours = apply_kernel(images, TOP_EDGE)
    kernels = TOP_EDGE.expand(channels, 1, 3, 3)
    assert torch.equal(ours, F.conv2d(images, kernels, groups=channels))
    assert torch.equal(im2col(images, 3), F.unfold(images, 3))
    print(f"{'kernels, im2col':20}  same {ours.numel():,} responses")


def networks(data: ImageDataModule, epochs: int) -> None:
    """A sequential CNN that classifies, and an autoencoder."""
    load = partial(DataLoaders.from_data, data)
    cnn: nn.Module = LessonClassifier(data.spec.image_shape, len(data.spec.class_names))
    plain = by_hand(cnn, load(), epochs, partial(SGD, lr=0.4))
    TrainLearner(cnn, load(), lr=0.4).fit(epochs)
    same("CNN", cnn, plain)

    autoencoder, load = LessonAutoencoder(data.spec.image_shape), partial(load, autoencoder=True)
    plain = by_hand(autoencoder, load(), epochs, partial(SGD, lr=0.1), F.mse_loss)
    TrainLearner(autoencoder, load(), F.mse_loss, lr=0.1).fit(epochs)
    same("autoencoder", autoencoder, plain)


class CountCB(Callback):
    """The first callback of one's own."""

    batches = 0

    def after_batch(self, learn: Learner) -> None:
        self.batches += learn.training


def learners(data: ImageDataModule, epochs: int, start: nn.Module) -> None:
    """The first Learner, and the one that metrics and callbacks are added to."""
    load = partial(DataLoaders.from_data, data)
    plain = by_hand(start, load(), epochs, partial(SGD, lr=0.1))
    SimpleLearner(model := deepcopy(start), load(), lr=0.1).fit(epochs)
    same("first Learner", model, plain)

    cbs = [TrainCB(), MetricsCB(Accuracy()), count := CountCB()]
    learn = Learner(deepcopy(start), load(), lr=0.1, cbs=cbs)
    learn.fit(epochs)
    same("metrics, callbacks", learn.model, plain)
    assert count.batches == epochs * len(learn.dls.train)
    with torch.no_grad():
        hits = sum(int((plain(xb).argmax(1) == yb).sum()) for xb, yb in load().valid)
    assert round(float(learn.metrics["val/accuracy"]) * data.sizes["val"]) == hits
    print(f"{'':20}  same {hits} of {data.sizes['val']} images classified right")


def rates(data: ImageDataModule, epochs: int, start: nn.Module) -> None:
    """The learning-rate finder, which leaves the weights alone; momentum; a schedule by batch."""
    load = partial(DataLoaders.from_data, data)
    finder = TrainLearner(model := deepcopy(start), load()).lr_find()
    assert finder.losses == search_by_hand(start, load(), lr=1e-5, gamma=1.03)
    same("learning-rate finder", model, start)
    print(f"{'':20}  same {len(finder.losses)} losses, suggestion {finder.suggestion:.2g}")

    plain = by_hand(start, load(), epochs, partial(SGD, lr=0.05, momentum=0.85))
    MomentumLearner(model := deepcopy(start), load(), lr=0.05, momentum=0.85).fit(epochs)
    same("momentum", model, plain)

    sched = partial(OneCycleLR, max_lr=0.01, total_steps=epochs * len(load().train) + 1)
    plain = by_hand(start, load(), epochs, AdamW, sched_func=sched)
    cbs = [BatchSchedCB(sched), recorder := RecorderCB()]
    TrainLearner(model := deepcopy(start), load(), cbs=cbs, opt_func=AdamW).fit(epochs)
    same("schedules", model, plain)
    seen = recorder.recs["lr"]
    print(f"{'':20}  learning rate {seen[0]:.2g} to {max(seen):.2g} to {seen[-1]:.2g}")


def main(source: str = "auto") -> None:
    """Go through the lesson on the data of `source`."""
    torch.manual_seed(0)
    data = ImageDataModule(source, batch_size=128)
    epochs = 1 if data.sizes["train"] > 10_000 else 5
    mlp = MLP(data.spec.image_shape, len(data.spec.class_names))
    convolutions(data)
    networks(data, epochs)
    learners(data, epochs, mlp)
    rates(data, epochs, mlp)


if __name__ == "__main__":
    main(*sys.argv[1:])
