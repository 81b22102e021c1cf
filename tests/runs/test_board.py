"""What TensorBoard reads of a run is what the run had."""

import csv
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)
from torch import Tensor
from torch.optim import SGD
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop import figures
from twinloop.data.cache import DecodedData, Split
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.models import MLP, BottleneckAutoencoder
from twinloop.runs import board
from twinloop.runs.board import RunLogger
from twinloop.tasks import Classification, Reconstruction


def autoencoder(data: ImageDataModule, noise: float = 0.0) -> Reconstruction:
    return Reconstruction(
        lambda image_shape: BottleneckAutoencoder(image_shape, 2, widths=(4,)),
        lambda weights: SGD(weights, 0.1),
        data.spec,
        noise=noise,
    )


@pytest.fixture
def classifier(digits: ImageDataModule) -> Classification:
    return Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)


def read(folder: Path) -> Any:
    """All events of a run."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    return events


@contextmanager
def loggers_in(folder: Path) -> Iterator[list[RunLogger]]:
    """The default logger of a run in `folder`."""
    folder.mkdir(exist_ok=True)
    logger = RunLogger(folder)
    yield [logger]
    logger.finalize("success")


def image(events: Any, tag: str) -> Any:
    """The pixels of the one image under a tag."""
    (event,) = events.Images(tag)
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_log_start_writes_graph_and_settings_and_leaves_the_task_unchanged(
    digits: ImageDataModule, tmp_path: Path
) -> None:
    task = autoencoder(digits).train()
    task.network.decoder.eval()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    state = torch.get_rng_state()
    with loggers_in(tmp_path) as loggers:
        config = {"seed": 1, "data": {"source": "digits", "sizes": [1, 2], "revision": None}}
        config |= {"record": "no", "optimizer": {"differentiable": False}}
        config["model"] = {"class_path": "Reconstruction", "init_args": {"noise": 0.5}}
        board.log_start(loggers, task, config)
    assert torch.equal(torch.get_rng_state(), state)
    assert task.network.encoder[1].training
    assert not task.network.decoder[1].training
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name

    events = read(tmp_path)
    assert events.Graph().node
    start = events.SummaryMetadata("_hparams_/session_start_info")
    text = str(start.plugin_data.content)
    for name in ("seed", "data.source", "data.sizes", "model", "model.noise"):
        assert name in text
    for name in ("data.revision", "class_path", "init_args", "record", "differentiable"):
        assert name not in text


def test_the_graph_is_that_of_add_graph_by_one_forward_pass(
    digits: ImageDataModule, tmp_path: Path
) -> None:
    task, passes = autoencoder(digits).eval(), []
    with warnings.catch_warnings(), SummaryWriter(tmp_path / "own") as writer:
        warnings.simplefilter("ignore")
        writer.add_graph(task.network, torch.zeros(1, 1, 8, 8))
    task.network.register_forward_hook(lambda *_: passes.append("once"))
    with loggers_in(tmp_path / "ours") as loggers:
        board.log_start(loggers, task, {})
    assert passes == ["once"]
    assert read(tmp_path / "ours").Graph() == read(tmp_path / "own").Graph()


class Untraceable(MLP):
    """Does something that the tracer, or an image alone in evaluation mode, does not allow."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, kind: str) -> None:
        super().__init__(image_shape, classes)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        y: Tensor = super().forward(x)
        if self.kind == "dict":
            return {"logits": y}
        if self.kind == "one image" and len(x) == 1:
            raise ValueError("needs more\nthan one image")
        if self.kind == "evaluation" and not self.training:
            raise RuntimeError
        return y


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dict", "RuntimeError: Encountering a dict at the output of the tracer"),
        ("one image", "ValueError: needs more\n"),
        ("evaluation", "RuntimeError: \n"),
    ],
)
def test_a_network_that_cannot_be_traced_is_reported_and_has_no_graph(
    kind: str,
    reason: str,
    digits: ImageDataModule,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def network(image_shape: tuple[int, int, int], classes: int) -> Untraceable:
        return Untraceable(image_shape, classes, kind=kind)

    task = Classification(network, lambda weights: SGD(weights, 0.1), digits.spec).train()
    state = torch.get_rng_state()
    with loggers_in(tmp_path) as loggers:
        board.log_start(loggers, task, {"seed": 1})
    printed = capfd.readouterr()
    assert printed.out.startswith(f"TensorBoard's graph is left out: {reason}")
    assert printed.out.count("\n") == 1
    assert printed.err == ""
    assert task.network.training
    assert torch.equal(torch.get_rng_state(), state)
    events = read(tmp_path)
    assert not events.Tags()["graph"]
    assert "seed" in str(events.SummaryMetadata("_hparams_/session_start_info"))


def test_a_full_disk_raises_and_is_not_mistaken_for_a_graph_that_fails(
    classifier: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with loggers_in(tmp_path) as loggers:
        monkeypatch.setattr(loggers[0].experiment, "add_graph", full)
        with pytest.raises(OSError, match="No space left"):
            board.log_start(loggers, classifier, {})


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_log_epoch_writes_originals_above_reconstructions(
    noise: float, digits: ImageDataModule, tmp_path: Path
) -> None:
    task = autoencoder(digits, noise).train()
    with loggers_in(tmp_path) as loggers:
        board.log_epoch(loggers, task, digits, step=7, measured={})
    assert task.network.encoder[1].training
    events = read(tmp_path)
    names = {f"weights/{name}" for name, _ in task.network.named_parameters()}
    assert set(events.Tags()["histograms"]) == names
    assert [event.step for event in events.Images("val/reconstructions")] == [7]

    pixels = image(events, "val/reconstructions")[:, :, 0]
    rows = 3 if noise else 2
    assert pixels.shape == (rows * 8 * 3, 8 * 8 * 3)
    small = pixels[::3, ::3].reshape(rows, 8, 8, 8).transpose(0, 2, 1, 3)
    originals = digits.data.train.images[digits.rows["val"][:8]]
    np.testing.assert_array_equal(small[0], originals[:, 0])
    with torch.no_grad():
        inputs, _ = task.eval().inputs_and_targets((originals / 255, torch.zeros(8)))
        drawn = task(inputs)[:, 0]
    np.testing.assert_allclose(small[-1], drawn * 255, atol=1)
    if noise:
        np.testing.assert_allclose(small[1], inputs[:, 0] * 255, atol=1)


def test_log_epoch_writes_images_in_colour(tmp_path: Path) -> None:
    pixels = torch.randint(256, (20, 3, 8, 6), dtype=torch.uint8)
    split = Split(pixels, torch.arange(20) % 2)
    spec = DataSpec("colour", "", (3, 8, 6), ("cat", "dog"))
    data = ImageDataModule("digits", val_size=9)
    data.data = DecodedData(spec, split, split, "test")
    task = autoencoder(data)
    with loggers_in(tmp_path) as loggers:
        board.log_epoch(loggers, task, data, step=1, measured={})
    shown = image(read(tmp_path), "val/reconstructions")[::3, ::3]
    assert shown.shape == (16, 8 * 6, 3)
    originals = pixels[data.rows["val"][:8]].permute(2, 0, 3, 1).reshape(8, 8 * 6, 3)
    np.testing.assert_array_equal(shown[:8], originals)


def test_log_epoch_writes_the_confusion_of_a_classifier(
    classifier: Classification, digits: ImageDataModule, tmp_path: Path
) -> None:
    classifier.last_metrics["val/confusion"] = torch.eye(10).long()
    with loggers_in(tmp_path) as loggers:
        board.log_epoch(loggers, classifier, digits, step=3, measured={})
    events = read(tmp_path)
    assert events.Tags()["images"] == ["val/confusion"]
    title = "digits, val: true class down, predicted across"
    expected = figures.confusion_image(torch.eye(10).long(), digits.spec.class_names, title)
    np.testing.assert_array_equal(image(events, "val/confusion"), expected)


def test_log_end_writes_results_beside_the_settings(
    classifier: Classification, digits: ImageDataModule, tmp_path: Path
) -> None:
    found = {"val": {"accuracy": 0.75}, "test": {"loss": 0.5, "accuracy": 0.5}}
    with loggers_in(tmp_path) as loggers:
        board.log_end(loggers, classifier, digits, found, step=9)
    events = read(tmp_path)
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    expected = {"hp/val_accuracy": [(9, 0.75)], "hp/test_accuracy": [(9, 0.5)]}
    assert scalars == expected | {"hp/test_loss": [(9, 0.5)]}
    assert not list(tmp_path.rglob("tensors.tsv"))


def test_the_epoch_that_lightning_adds_draws_no_chart(tmp_path: Path) -> None:
    with loggers_in(tmp_path) as loggers:
        loggers[0].log_metrics({"train/loss": 0.5, "epoch": 3}, 1)
    assert read(tmp_path).Tags()["scalars"] == ["train/loss"]


def test_log_end_writes_the_codes_of_the_test_split(
    digits: ImageDataModule, tmp_path: Path
) -> None:
    task = autoencoder(digits).train()
    with loggers_in(tmp_path) as loggers:
        board.log_end(loggers, task, digits, {"val": {}, "test": {"loss": 0.5}}, step=9)
    assert task.network.encoder[1].training
    (codes,) = tmp_path.rglob("tensors.tsv")
    with torch.no_grad():
        expected = task.network.eval().encoder(digits.data.test.images / 255)
    assert len(expected) == 300
    np.testing.assert_allclose(np.loadtxt(codes), expected, rtol=1e-4, atol=1e-5)
    names = (codes.parent / "metadata.tsv").read_text().split()
    assert names == [str(label) for label in digits.data.test.labels.tolist()]
    assert (codes.parent / "sprite.png").is_file()


def test_without_val_the_images_are_those_of_train() -> None:
    data = ImageDataModule("digits", val_size=0)
    shown = board.reconstructed(autoencoder(data), data, 4)
    assert list(shown) == ["original", "reconstruction"]
    expected = data.data.train.images[data.rows["train"][:4]] / 255
    torch.testing.assert_close(shown["original"], expected)


class Own(Logger):
    """A user's logger, which keeps what it is given; it has images, as W&B's has."""

    name, version = "own", 0

    def __init__(self) -> None:
        super().__init__()
        self.params: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.images: list[tuple[str, Any, int]] = []

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.params |= params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, metrics))

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self.images.append((key, *images, step))


def test_another_logger_gets_settings_results_and_images_if_it_has_them(
    classifier: Classification, digits: ImageDataModule, tmp_path: Path
) -> None:
    own = Own()
    loggers = [own, CSVLogger(tmp_path)]
    board.log_start(loggers, classifier, {"seed": 1, "model": {"class_path": "MLP"}}, resumed=True)
    classifier.last_metrics["val/confusion"] = torch.eye(10).long()
    board.log_epoch(loggers, classifier, digits, step=3, measured={})
    found = {"val": {"accuracy": 0.75, "loss": 2.0}, "test": {"loss": 0.5, "class_accuracy": {}}}
    board.log_end(loggers, classifier, digits, found, step=9)
    assert own.params == {"seed": 1, "model": "MLP"}
    final = {"test/loss": 0.5, "val/accuracy_best": 0.75}
    assert own.metrics == [(9, final)]
    ((key, pixels, step),) = own.images
    assert (key, step, pixels.dtype, pixels.ndim) == ("val/confusion", 3, np.uint8, 3)
    table = next(tmp_path.rglob("metrics.csv")).read_text()
    (written,) = csv.DictReader(table.splitlines())
    assert {name: float(value) for name, value in written.items()} == final | {"step": 9}


def test_a_resumed_run_has_graph_and_settings_in_its_tensorboard(
    classifier: Classification, tmp_path: Path
) -> None:
    with loggers_in(tmp_path) as loggers:
        board.log_start(loggers, classifier, {"seed": 1}, resumed=True)
    assert not read(tmp_path).Tags()["graph"]
