"""Networks of timm and torchvision by name: what they are given, and what they say."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import decoding
from tests.commands import EXPERIMENTS, ON_DIGITS, make_quick
from twinloop.cli import main
from twinloop.comparison.differences import differences
from twinloop.errors import UserError
from twinloop.models import BottleneckAutoencoder, Timm, Torchvision
from twinloop.runs.timings import read_record


class Net(nn.Module):
    """Two channels' mean brightness, as that many logits, of images of at least two pixels."""

    pretrained_cfg = {"mean": (0.2, 0.3, 0.4), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012

    def __init__(self, num_classes: int = 1000, **given: Any) -> None:
        super().__init__()
        self.given = given
        self.stem = nn.Parameter(torch.full((3,), 7.0 if given.get("weights") else 1.0))
        self.head = nn.Parameter(torch.full((num_classes,), 7.0 if given.get("weights") else 1.0))
        if given.get("weights"):  # as of a second output, which is trained only
            self.other = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, num_classes]`."""
        if x.shape[3] < 2:
            raise ValueError("too small\nor so")
        return x.mean((2, 3)).sum(1)[:, None] * self.head


def named(name: str, **given: Any) -> Net:
    return Net(**given | {"name": name})


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries with the same two networks."""
    models = SimpleNamespace(get_model=named, list_models=lambda _: ["resnet18", "vgg11"])
    timm = SimpleNamespace(create_model=named, list_models=lambda: ["resnet18", "resnet34"])
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))


@pytest.mark.usefixtures("stand_ins")
def test_timm_adapts_its_network_to_channels_and_classes() -> None:
    network = Timm((1, 4, 4), 10, "resnet18.a1_in1k", options={"drop_rate": 0.5})
    assert network.training
    assert network.network.given == {
        "name": "resnet18.a1_in1k",
        "pretrained": False,
        "in_chans": 1,
        "drop_rate": 0.5,
    }
    # (0.8 - mean of the means) / 0.5
    output = network(torch.full((2, 1, 4, 4), 0.8))
    torch.testing.assert_close(output, torch.full((2, 10), 1.0))


@pytest.mark.usefixtures("stand_ins")
def test_torchvision_gets_three_channels_and_the_weights_that_fit() -> None:
    network = Torchvision((1, 4, 4), 10, "resnet18", weights="DEFAULT")
    assert isinstance(network.network, Net)
    assert torch.equal(network.network.stem, torch.full((3,), 7.0))
    assert torch.equal(network.network.head, torch.ones(10))
    means, stds = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    output = network(torch.full((2, 1, 4, 4), 0.8))
    torch.testing.assert_close(output, ((0.8 - means) / stds).sum().expand(2, 10))
    assert not [name for name in network.state_dict() if name.startswith(("mean", "std"))]


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("kind", "shape", "name", "message"),
    [
        (Timm, (1, 4, 4), "resnet81", "timm has no network 'resnet81'; like it are: resnet18, res"),
        (Torchvision, (1, 4, 4), "?", "torchvision has no network '?'; like it are: torchvision l"),
        (
            Timm,
            (1, 1, 1),
            "resnet18",
            "timm's resnet18 does not accept images of 1x1x1 (too small)",
        ),
        (Torchvision, (4, 4, 4), "vgg11", "torchvision's vgg11 does not accept images of 4x4x4 ("),
    ],
)
def test_what_does_not_fit_is_refused(
    kind: Any, shape: tuple[int, int, int], name: str, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(f"model.network: {message}")) as caught:
        kind(shape, 10, name)
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = "model.network: timm is not installed .*; install twinloop with the extra timm, or "
    with pytest.raises(UserError, match=message):
        Timm((1, 4, 4), 10, "resnet18")


@pytest.mark.usefixtures("stand_ins")
def test_any_classifier_encodes_for_an_autoencoder() -> None:
    def encoder(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return Torchvision(image_shape, classes, "resnet18")

    network = BottleneckAutoencoder((1, 8, 8), 5, widths=(4,), hidden=8, encoder=encoder)
    images = torch.rand(2, 1, 8, 8)
    assert network.encode(images).shape == (2, 5)
    assert network(images).shape == (2, 1, 8, 8)
    assert isinstance(network.encoder[0], Torchvision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "name"),
    [
        ("timm-classifier", "--model.network.name=test_resnet"),
        ("timm-autoencoder", "--model.network.encoder.name=test_resnet"),
        ("torchvision-classifier", "--model.network.name=squeezenet1_1"),
    ],
)
def test_both_loops_train_a_network_of_a_library_to_the_same_values(
    experiment: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Path(decoding.TORCHVISION, experiment.partition("-")[0])
    if not library.is_dir():
        pytest.skip(f"needs {library}, which make bench and make test-slow install")
    decoding.torchvision()
    make_quick(monkeypatch)
    short = ["--data.batch_size", "16", "--trainer.max_epochs", "1", "--data.image_size", "[32,32]"]
    short += [f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val", "test")]
    for loop in ("lightning", "homemade"):
        command = ["fit", "--config", str(EXPERIMENTS / f"{experiment}.yaml"), *ON_DIGITS, *short]
        options = [name, "--loop", loop, "--run", str(tmp_path / loop), "--record", "all"]
        assert main([*command, *options]) == 0
    one, other = (read_record(tmp_path / loop) for loop in ("lightning", "homemade"))
    assert differences(one, other) == []
