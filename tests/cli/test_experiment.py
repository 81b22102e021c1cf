"""Experiment files are read as plain data of a bounded size, and their mistakes are located."""

import re
import time
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any, cast

import pytest
from PIL import Image

from tests.own_data import Augmented
from twinloop.cli import main, predict
from twinloop.cli.experiment import MAX_DEPTH, MAX_VALUES, PATHS, checked_name, read_experiment
from twinloop.cli.parser import Experiment, restore_defaults
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.own import OwnData
from twinloop.errors import UserError

MLP = Path(__file__).parents[2] / "experiments" / "mlp.yaml"
LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
"""Nine to the eleventh values, in twelve lines."""

WRONG = {
    "no text": (b"experiment: \xff", r": byte 12 is not valid UTF-8"),
    "no YAML": (b"experiment: mlp\nmodel: [1, 2\n", r", line 3: invalid YAML: .+"),
    "two files in one": (b"a: 1\n---\nb: 2\n", r", line 2: invalid YAML: .+"),
    "a tag": (b"a: !!python/name:os.mkdir\n", r", line 1: invalid YAML: .+"),
    "no such date": (b"a: 2000-13-01\n", r": invalid YAML: month must be .+"),
    "empty": (b"", r": not an experiment; see experiments/ .+"),
    "laughs": (LAUGHS.encode(), rf": over {MAX_VALUES:,} values or {MAX_DEPTH} levels.+"),
    "deep": (b"a: " + b"[" * 100_000, rf": over {MAX_VALUES:,} values or {MAX_DEPTH} levels.+"),
    "itself": (b"a: &a {b: *a}\n", r": \*a contains itself"),
    "large": (b"a: " + b"x" * 1_000_000, r": over 1,000,000 bytes.+"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_invalid_experiment_file_is_refused_within_two_seconds(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        read_experiment(path)
    assert re.fullmatch(re.escape(str(path)) + message, str(caught.value)), caught.value
    assert time.perf_counter() - start < 2


def test_files_that_an_experiment_includes_are_bounded_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.yaml").write_text(f"{LAUGHS}source: digits\n")
    for data in (tmp_path / "data.yaml", f"{{x: {'[' * 60}{']' * 60}}}"):
        assert main(["fit", "--config", str(MLP), "--data", str(data)]) == 2
        assert capsys.readouterr().err.startswith("error: a value: over 10,000 values or 50 levels")


def test_an_empty_path_is_none_and_not_the_current_folder() -> None:
    empty = [f"--{name}=" for name in PATHS]
    experiment = Experiment(["--config", str(MLP), "--data.source", "digits", *empty])
    assert [experiment.config.get(name) for name in PATHS] == [None] * len(PATHS)


@pytest.mark.parametrize(("asked", "level"), [(None, 0), ("white", 255)])
def test_predict_has_the_background_of_the_training(
    asked: str | None, level: int, tmp_path: Path
) -> None:
    Image.new("LA", (8, 8)).save(tmp_path / "0.png")
    data = ImageDataModule("digits", images=tmp_path, background=asked)
    spec = {"name": "pets", "fingerprint": "", "image_shape": [1, 8, 8], "class_names": []}
    checkpoint = {"data_spec": spec, "settings": {"data": {"background": "black"}}}
    predict._trained_on(cast(Any, Namespace(data=data, trained=(tmp_path, checkpoint))))
    (batch,) = data.predict_dataloader()
    assert batch[0].flatten().tolist() == [level] * 64


def test_aliases_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert read_experiment(path) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/nowhere.yaml: No such file"):
        read_experiment(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("command", ["fit", "summary"])
def test_a_wrong_value_is_reported_with_its_file_only_if_it_is_in_one(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MLP.read_text().replace("batch_size: 256", "batch_size: many"))
    assert main([command, f"--config={wrong}", "--data.source", "digits"]) == 2
    expected = '"data.batch_size": Expected a int. got many\n'
    assert capsys.readouterr().err == f"error: {wrong}: {expected}"
    assert main([command, "--config", str(MLP), "--data.batch_size", "many"]) == 2
    assert capsys.readouterr().err == f"error: {expected}"


@pytest.mark.parametrize(("command", "seed"), [("fit", "-1"), ("summary", "4294967296")])
def test_an_invalid_seed_is_refused_in_one_line(
    command: str, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(MLP), "--data.source", "digits", "--seed_everything", seed]
    assert main([command, *options]) == 2
    limits = "it must be from 0 to 4,294,967,295"
    expected = f"error: seed_everything is {seed} ({MLP}); {limits}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.optimizer.lr=-1", "model.optimizer: ValueError: Invalid learning rate: -1"),
        ("--model.network.hidden=-1", ".*mlp.yaml: cannot be built: ValueError: .*negative"),
        ("--trainer.max_epochs=-2", r".*mlp\.yaml: cannot be built: trainer: `max_epochs` must be"),
    ],
)
def test_an_argument_that_a_class_refuses_is_reported_in_one_line(
    option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--data.source", "digits", "--trainer.fast_dev_run", "1"]
    assert main(["fit", "--config", str(MLP), *short, option]) == 2
    assert re.match(rf"error: {message}", capsys.readouterr().err)


def test_an_option_of_older_files_is_reported_with_its_new_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.yaml"
    text = (MLP.parent / "classifier-5-epochs.yaml").read_text()
    path.write_text(text.replace("tta_flip", "mirror"))
    assert main(["fit", "--config", str(path), "--data.source", "digits"]) == 2
    line = f"error: {path}: mirror is called tta_flip now; rename it in the file\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("name", ["lesson-classifier", "7", "Größe 2 [x]", "a..b", "x" * 100])
def test_valid_experiment_names(name: str) -> None:
    assert checked_name(name, "mlp.yaml") == name


@pytest.mark.parametrize(
    "name", ["", "..", ".x", "../x", "/x", "a/b", "a\\b", "-x", "a\nb", "x" * 101, 7, None]
)
def test_an_experiment_name_that_is_no_plain_folder_name_is_refused(name: object) -> None:
    message = re.escape(f"mlp.yaml: experiment is {name!r}, which is not a valid name; ")
    with pytest.raises(UserError, match=message):
        checked_name(name, "mlp.yaml")


@pytest.mark.slow
def test_data_without_a_class_is_an_image_data_module_and_stays_so_in_its_config(
    tmp_path: Path,
) -> None:
    first = Experiment(["--config", str(MLP), "--data.source", "digits"])
    config = tmp_path / "config.yaml"
    config.write_text(first.as_yaml())
    again = Experiment(["--config", str(config)])
    assert "class_path: twinloop.data.datamodule.ImageDataModule" in config.read_text()
    assert type(first.data) is type(again.data) is ImageDataModule
    assert first.settings["data"] == again.settings["data"]
    assert first.settings["data"]["batch_size"] == 256  # as in checkpoints of older runs


def test_other_data_keeps_what_is_set_and_its_own_defaults() -> None:
    for given, size in ((set(), 8), ({"batch_size"}, 256)):
        data = Namespace(class_path="tests.own_data.Augmented", init_args={"batch_size": 256})
        restore_defaults(data, given)
        assert data.init_args == {"batch_size": size}
    data = Namespace(class_path="tests.own_data.Sized", init_args={"batch_size": 256})
    with pytest.raises(UserError, match=r"data.batch_size is not set, which Sized needs; set it"):
        restore_defaults(data, ())


@pytest.mark.slow
def test_other_data_is_named_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unset = tmp_path / "unset.yaml"
    unset.write_text(MLP.read_text().replace("  batch_size: 256\n", ""))
    sizes = []
    for file, options in ((MLP, ()), (unset, ()), (unset, ("--data.batch_size", "5"))):
        named = ["--config", str(file), "--data", "tests.own_data.Augmented", *options]
        data = Experiment(named).data
        assert isinstance(data, OwnData)
        assert isinstance(data.module, Augmented)
        sizes.append(data.module.batch_size)
    assert sizes == [256, 8, 5]
    assert main(["summary", "--config", str(MLP), "--data.seed", "3"]) == 2
    assert "data.seed is set by seed_everything; set that instead" in capsys.readouterr().err
