"""Run folders are counted, unique, and found again."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.files import save_whole
from twinloop.runs.folder import check_unused, latest_run, new_run, run_of


def spec(name: str, fingerprint: str = "a1") -> DataSpec:
    return DataSpec(name, fingerprint, (1, 8, 8), ("a", "b"))


def with_checkpoint(run: Path, fingerprint: str = "a1") -> Path:
    facts = spec(run.name.partition("-")[2], fingerprint)._asdict()
    save_whole({"state_dict": {}, "data_spec": facts}, run / "checkpoints" / "last.ckpt")
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
    made[1].rmdir()  # its number is not given again
    assert new_run(tmp_path, "mlp", "digits").name == "version_3-digits"


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
    for name in ("2-digits", "10-digits", "11-fashion_mnist", "13-digits-of-mine"):
        run = tmp_path / "mlp" / f"version_{name}"
        run.mkdir(parents=True)
        with_checkpoint(run)
    (tmp_path / "mlp" / "version_12-digits").mkdir()  # stopped before its first checkpoint
    assert latest_run(tmp_path, "mlp", spec("digits")).name == "version_10-digits"
    assert latest_run(tmp_path, "mlp", spec("fashion_mnist")).name == "version_11-fashion_mnist"


def test_a_missing_run_is_reported_with_what_to_do(tmp_path: Path) -> None:
    message = f"{tmp_path}/mlp has no run of 'mlp' on digits with a checkpoint; run fit first"
    with pytest.raises(UserError, match=re.escape(message)):
        latest_run(tmp_path, "mlp", spec("digits"))


def test_a_run_on_other_data_of_the_same_name_is_not_found(tmp_path: Path) -> None:
    own = with_checkpoint(new_run(tmp_path, "mlp", "images"), "a1")
    with_checkpoint(new_run(tmp_path, "mlp", "images"), "b2")
    assert latest_run(tmp_path, "mlp", spec("images", "a1")) == own
    with pytest.raises(UserError, match="; 2 are on other data of that name; run fit first"):
        latest_run(tmp_path, "mlp", spec("images", "c3"))


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "results.json"])
def test_a_folder_with_a_run_is_not_used_for_another(name: str, tmp_path: Path) -> None:
    check_unused(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"already has a run .{Path(name).name}.; resume it"):
        check_unused(tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "run"),
    [("logs/mlp/version_0-a/checkpoints/best.ckpt", "logs/mlp/version_0-a"), ("a/b.ckpt", "a")],
)
def test_the_run_of_a_checkpoint(checkpoint: str, run: str) -> None:
    assert run_of(Path(checkpoint)) == Path(run)
