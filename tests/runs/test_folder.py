"""Run folders are counted, unique, and found again."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from twinloop.errors import UserError
from twinloop.runs.folder import latest_run, new_run, run_of


def with_checkpoint(run: Path) -> Path:
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    return run


def test_runs_of_an_experiment_are_counted_whatever_their_data(tmp_path: Path) -> None:
    made = [new_run(tmp_path, "mlp", data) for data in ("digits", "fashion_mnist", "digits")]
    assert [run.relative_to(tmp_path / "mlp").name for run in made] == [
        "version_0-digits",
        "version_1-fashion_mnist",
        "version_2-digits",
    ]
    assert all(run.is_dir() for run in made)
    assert new_run(tmp_path, "classifier", "digits").name == "version_0-digits"


def test_a_number_in_between_is_not_given_again(tmp_path: Path) -> None:
    first, _ = (new_run(tmp_path, "mlp", "digits") for _ in range(2))
    first.rmdir()
    assert new_run(tmp_path, "mlp", "digits").name == "version_2-digits"


def test_the_number_after_9_is_10_and_then_11(tmp_path: Path) -> None:
    (tmp_path / "mlp" / "version_9-digits").mkdir(parents=True)
    (tmp_path / "mlp" / "notes").mkdir()
    assert new_run(tmp_path, "mlp", "digits").name == "version_10-digits"
    assert new_run(tmp_path, "mlp", "digits").name == "version_11-digits"


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run(tmp_path, "mlp", "digits"), range(40)))
    assert sorted(run.name for run in made) == sorted(f"version_{n}-digits" for n in range(40))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlp").touch()
    folder = tmp_path / "mlp" / "version_0-digits"
    message = f"cannot make the run folder {folder}: Not a directory"
    with pytest.raises(UserError, match=re.escape(message)):
        new_run(tmp_path, "mlp", "digits")


def test_the_latest_run_is_that_of_the_data_with_a_checkpoint(tmp_path: Path) -> None:
    for name in ("version_2-digits", "version_10-digits", "version_11-fashion_mnist"):
        with_checkpoint(tmp_path / "mlp" / name)
    (tmp_path / "mlp" / "version_12-digits").mkdir()  # stopped before its first checkpoint
    assert latest_run(tmp_path, "mlp", "digits").name == "version_10-digits"
    assert latest_run(tmp_path, "mlp", "fashion_mnist").name == "version_11-fashion_mnist"


def test_a_name_with_dashes_is_one_name(tmp_path: Path) -> None:
    run = with_checkpoint(new_run(tmp_path, "mlp", "my-own-data"))
    assert latest_run(tmp_path, "mlp", "my-own-data") == run
    with pytest.raises(UserError):
        latest_run(tmp_path, "mlp", "my")


def test_without_a_run_it_is_said_what_to_do(tmp_path: Path) -> None:
    message = f"no run of 'mlp' on digits with a checkpoint is in {tmp_path}/mlp; run fit first"
    with pytest.raises(UserError, match=re.escape(message)):
        latest_run(tmp_path, "mlp", "digits")


@pytest.mark.parametrize(
    ("checkpoint", "run"),
    [("logs/mlp/version_0-a/checkpoints/best.ckpt", "logs/mlp/version_0-a"), ("a/b.ckpt", "a")],
)
def test_the_run_of_a_checkpoint(checkpoint: str, run: str) -> None:
    assert run_of(Path(checkpoint)) == Path(run)
