"""What `convolution/` shows of an experiment, from what is typed to what is printed and written."""

import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from tests.commands import EXPERIMENTS, ON_DIGITS, error_line
from twinloop.cli import main


@pytest.mark.parametrize("experiment", ["autoencoder", "classifier", "lesson-classifier", "mlp"])
def test_summary_prints_the_network_of_an_experiment(
    experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", "--config", str(EXPERIMENTS / f"{experiment}.yaml"), *ON_DIGITS]) == 0
    printed = capsys.readouterr().out
    assert f"{experiment} on digits" in printed
    for column in ("parameters", "multiply-", "receptive", "jump", "first"):
        assert column in printed
    assert "?" not in printed


def test_summary_takes_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXPERIMENTS / "mlp.yaml"
    assert main(["summary", "--config", str(path), *ON_DIGITS, "--model.network.hidden", "7"]) == 0
    assert "535" in capsys.readouterr().out  # 64 * 7 + 7 + 7 * 10 + 10


def test_a_network_without_channels_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(EXPERIMENTS / "classifier.yaml")
    empty = ["--model.network.widths", "[0]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of weights that are none
        assert main(["summary", "--config", path, *ON_DIGITS, *empty]) == 2
    assert error_line(capsys).startswith("error: model.network: ValueError: input_shape=")


FIGURES = [
    *("kernels", "im2col", "padding-and-stride", "upsampling", "receptive-fields"),
    *("effective-fields", "learnt-filters", "strongest-patches"),
]


def convolutions(experiment: str, folder: Path, *options: str) -> int:
    """Write the pages about a network that is trained on few batches, or was."""
    path = EXPERIMENTS / f"{experiment}.yaml"
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"]
    where = ["--trainer.default_root_dir", str(folder), "--output", str(folder / "out")]
    return main(["convolutions", "--config", str(path), *ON_DIGITS, *short, *where, *options])


@pytest.mark.slow
def test_convolutions_writes_figures_a_page_and_a_workbook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convolutions("lesson-classifier", tmp_path) == 0
    printed = capsys.readouterr().out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    pages = {"convolutions.html", "convolutions.xlsx"}
    assert written == {f"{name}.png" for name in FIGURES} | pages
    assert all(name in printed for name in written)
    page = (tmp_path / "out" / "convolutions.html").read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert "lesson-classifier on digits, with the weights of 3 steps of training" in page
    # Nothing is trained twice: the weights of a run are used again.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    options = ["--data.source", "digits", "--trainer.default_root_dir", str(tmp_path)]
    path = str(EXPERIMENTS / "lesson-classifier.yaml")
    assert main(["fit", "--config", path, *options, "--trainer.max_epochs", "1"]) == 0
    assert convolutions("lesson-classifier", tmp_path) == 0
    page = (tmp_path / "out" / "convolutions.html").read_text()
    assert "with the weights of lesson-classifier/version_0-digits" in page
    nowhere = ["--ckpt_path", str(tmp_path / "nothing.ckpt")]
    assert convolutions("lesson-classifier", tmp_path, *nowhere) == 2


def test_a_file_in_place_of_the_output_folder_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "out").write_text("no folder")
    assert convolutions("lesson-classifier", tmp_path) == 2
    line = f"error: output: cannot make the folder {tmp_path}/out: File exists\n"
    assert error_line(capsys) == line


@pytest.mark.slow
def test_classes_that_val_lacks_are_left_out(tmp_path: Path) -> None:
    assert convolutions("lesson-classifier", tmp_path, "--data.val_size", "5") == 0
    assert (tmp_path / "out" / "convolutions.html").is_file()


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("lesson-autoencoder", "error: lesson-autoencoder is not a classifier; pass the --config"),
        ("classifier", "error: model.network: layers.0.1 is BatchNorm2d"),
    ],
)
def test_a_network_that_the_pages_cannot_show_is_refused_in_one_line(
    experiment: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convolutions(experiment, tmp_path) == 2
    assert error_line(capsys).startswith(message)
    assert not (tmp_path / "out").exists()
