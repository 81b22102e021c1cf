"""What `convolution/` shows of an experiment, from what is typed to what is printed and written."""

import re
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from twinloop.cli import main

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))
ON_DIGITS = ["--data.source", "digits"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_summary_prints_every_experiments_network(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", "--config", str(path), *ON_DIGITS]) == 0
    printed = capsys.readouterr().out
    assert f"{path.stem} on digits" in printed
    for column in ("parameters", "multiply-", "receptive", "jump", "first"):
        assert column in printed
    assert "?" not in printed


def test_summary_takes_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    path = next(path for path in EXPERIMENTS if path.stem == "mlp")
    assert main(["summary", "--config", str(path), *ON_DIGITS, "--model.network.hidden", "7"]) == 0
    assert "535" in capsys.readouterr().out  # 64 * 7 + 7 + 7 * 10 + 10


def test_summary_takes_the_config_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(next(path for path in EXPERIMENTS if path.stem == "mlp"))
    short = ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", path, *ON_DIGITS, *short]) == 0
    capsys.readouterr()
    (config,) = tmp_path.rglob("config.yaml")
    assert main(["summary", "--config", str(config)]) == 0
    assert "mlp on digits" in capsys.readouterr().out


def test_a_mistake_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--config", str(EXPERIMENTS[0]), "--data.source", "/nowhere"]) == 2
    assert capsys.readouterr().err == (
        "error: data.source: there is no folder '/nowhere'; pass a folder, a Hub id (owner/name) "
        "or 'digits'\n"
    )


def test_a_network_without_channels_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(next(path for path in EXPERIMENTS if path.stem == "classifier"))
    empty = ["--model.network.widths", "[0]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of weights that are none
        assert main(["summary", "--config", path, *ON_DIGITS, *empty]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: model.network: ValueError: input_shape=[^\n]+\n", error), error


FIGURES = [
    *("kernels", "im2col", "padding-and-stride", "upsampling", "receptive-fields"),
    *("effective-fields", "learnt-filters", "strongest-patches"),
]


def convolutions(experiment: str, folder: Path, *options: str) -> int:
    """Write the pages about a network that is trained on few batches, or was."""
    path = next(path for path in EXPERIMENTS if path.stem == experiment)
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
    path = str(next(path for path in EXPERIMENTS if path.stem == "lesson-classifier"))
    assert main(["fit", "--config", path, *options, "--trainer.max_epochs", "1"]) == 0
    assert convolutions("lesson-classifier", tmp_path) == 0
    page = (tmp_path / "out" / "convolutions.html").read_text()
    assert "with the weights of lesson-classifier/version_0-digits" in page
    nowhere = ["--ckpt_path", str(tmp_path / "nothing.ckpt")]
    assert convolutions("lesson-classifier", tmp_path, *nowhere) == 2


def test_a_file_in_place_of_the_folder_is_told_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "out").write_text("no folder")
    assert convolutions("lesson-classifier", tmp_path) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: output: cannot make the folder \S+/out: File exists\n", error)


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
def test_what_the_pages_cannot_show_is_told_in_one_line(
    experiment: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convolutions(experiment, tmp_path) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "out").exists()
