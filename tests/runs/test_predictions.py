"""What predict writes, read back and compared with what the network answered."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim import SGD

from tests.commands import encode_as_windows
from twinloop.data.spec import DataSpec
from twinloop.models import MLP, BottleneckAutoencoder
from twinloop.runs.predictions import predictions_folder, write_predictions
from twinloop.tasks import Classification, MultiLabel, Reconstruction, Regression

ROOT = Path("images")
PATHS = [ROOT / "a.jpg", ROOT / "a.png", ROOT / "inside" / "b.png"]


def table(folder: Path) -> list[list[str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_classifier_writes_classes_and_probabilities(tmp_path: Path) -> None:
    spec = DataSpec("pets", "", (1, 8, 8), ("cat", "dog, small", "eel"))
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), spec)
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.1, 0.2, 0.7]])
    logits = shares.log() + 5
    write_predictions(task, torch.rand(3, 1, 8, 8), logits, PATHS, ROOT, tmp_path / "new")
    assert table(tmp_path / "new") == [
        ["file", "class", "cat", "dog, small", "eel"],
        ["a.jpg", "cat", "0.5", "0.25", "0.25"],
        ["a.png", "dog, small", "0.125", "0.75", "0.125"],
        ["inside/b.png", "eel", "0.1", "0.2", "0.7"],
    ]
    with np.load(tmp_path / "new" / "predictions.npz") as arrays:
        assert set(arrays) == {"files", "logits", "probabilities"}
        assert arrays["files"].tolist() == ["a.jpg", "a.png", "inside/b.png"]
        np.testing.assert_array_equal(arrays["logits"], logits)
        np.testing.assert_allclose(arrays["probabilities"], shares, rtol=1e-6)
    with Image.open(tmp_path / "new" / "overview.png") as overview:
        assert overview.format == "PNG"
    assert not (tmp_path / "new" / "reconstructions").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_autoencoder_writes_codes_errors_and_images(channels: int, tmp_path: Path) -> None:
    spec = DataSpec("pets", "", (channels, 8, 8), ("cat",))
    task = Reconstruction(
        lambda image_shape: BottleneckAutoencoder(image_shape, 2, widths=(4,)),
        lambda weights: SGD(weights, 0.1),
        spec,
    )
    images = torch.rand(3, channels, 8, 8)
    outputs = images.clone()
    outputs[1] += 0.5  # partly over 1, as no sigmoid would do
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    task.train()  # as Lightning leaves it after predict
    write_predictions(task, images, outputs, PATHS, ROOT, tmp_path)

    assert task.training
    for name, value in task.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        codes = task.network.eval().encoder(images).numpy()
    header, *rows = table(tmp_path)
    assert header == ["file", "mse", "code_0", "code_1"]
    assert [row[0] for row in rows] == ["a.jpg", "a.png", "inside/b.png"]
    numbers = np.array([row[1:] for row in rows], dtype=np.float64)
    np.testing.assert_allclose(numbers[:, 0], [0, 0.25, 0], rtol=1e-5)
    np.testing.assert_allclose(numbers[:, 1:], codes, rtol=1e-4, atol=1e-6)
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert set(arrays) == {"files", "reconstructions", "codes", "mse"}
        np.testing.assert_array_equal(arrays["reconstructions"], outputs)
        np.testing.assert_allclose(arrays["codes"], codes, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(arrays["mse"], [0, 0.25, 0], rtol=1e-5)

    # Two images that differ in their suffix only do not overwrite each other.
    folder = tmp_path / "reconstructions"
    files = [folder / "a.jpg.png", folder / "a.png", folder / "inside" / "b.png"]
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(files)
    for path, output in zip(files, outputs, strict=True):
        with Image.open(path) as image:
            pixels = np.asarray(image).reshape(8, 8, channels)
        expected = np.rint(output.clamp(0, 1).permute(1, 2, 0).numpy() * 255)
        np.testing.assert_array_equal(pixels, expected)


def test_outputs_of_two_images_never_share_a_file(tmp_path: Path) -> None:
    spec = DataSpec("pets", "", (1, 8, 8), ())
    task = Reconstruction(
        lambda image_shape: BottleneckAutoencoder(image_shape, 2, widths=(4,)),
        lambda weights: SGD(weights, 0.1),
        spec,
    )
    images = torch.zeros(3, 1, 8, 8)
    outputs = torch.arange(3).view(3, 1, 1, 1).expand(3, 1, 8, 8) / 255
    paths = [ROOT / name for name in ("a.jpg", "a.jpg.png", "a.png")]
    write_predictions(task, images, outputs, paths, ROOT, tmp_path / "new")
    found = {}
    for path in (tmp_path / "new" / "reconstructions").iterdir():
        with Image.open(path) as image:
            found[path.name] = image.getpixel((0, 0))
    assert found == {"a.jpg.png.png": 0, "a.jpg.png": 1, "a.png": 2}


def test_a_second_folder_of_the_same_name_has_predictions_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_as_windows(monkeypatch)
    spec = DataSpec("pets", "", (1, 8, 8), ("Ω", "µ"))
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), spec)
    run = tmp_path / "run"

    def predict(source: Path) -> Path:
        folder = predictions_folder(run, source)
        write_predictions(
            task, torch.rand(1, 1, 8, 8), torch.rand(1, 2), [source / "0.png"], source, folder
        )
        return folder

    one, other = tmp_path / "one" / "Ω", tmp_path / "other" / "Ω"
    assert predict(one) == run / "predictions" / "Ω"
    assert table(predict(one))[0] == ["file", "class", "Ω", "µ"]
    (run / "predictions" / "Ω" / "old.png").touch()
    assert predict(other) == run / "predictions" / "Ω-1"
    assert predict(one) == run / "predictions" / "Ω"
    # The folder is replaced as a whole, and nothing else is left.
    assert not (run / "predictions" / "Ω" / "old.png").exists()
    assert sorted(path.name for path in (run / "predictions").iterdir()) == ["Ω", "Ω-1"]


def test_numbers_and_labels_are_written_by_name(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 8, 8)
    spec = DataSpec("boxes", "", (1, 8, 8))
    task = Regression(MLP, lambda weights: SGD(weights, 0.1), spec, outputs=2)
    outputs = torch.tensor([[1.0, 0.5], [2.0, -3.0], [0.0, 4.0]])
    write_predictions(task, images, outputs, PATHS, ROOT, tmp_path / "numbers")
    assert table(tmp_path / "numbers")[:2] == [
        ["file", "output_0", "output_1"],
        ["a.jpg", "1", "0.5"],
    ]
    named = spec._replace(class_names=("cat", "dog"))
    labels = MultiLabel(MLP, lambda weights: SGD(weights, 0.1), named)
    write_predictions(labels, images, torch.zeros(3, 2), PATHS, ROOT, tmp_path / "labels")
    assert table(tmp_path / "labels")[:2] == [["file", "cat", "dog"], ["a.jpg", "0.5", "0.5"]]
