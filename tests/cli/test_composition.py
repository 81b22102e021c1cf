"""An experiment out of several files, the environment, and the settings of a machine."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import EXPERIMENT, EXPERIMENTS, ON_DIGITS, error_line, make_quick, run_in
from twinloop.cli import compare, main
from twinloop.comparison.differences import differences
from twinloop.runs.timings import read_record

PRESETS = sorted((EXPERIMENTS / "presets").glob("*.yaml"))
FASTER = {
    "trainer": {"max_epochs": 7, "callbacks+": ["lightning.pytorch.callbacks.EMAWeightAveraging"]},
    "model": {"init_args": {"optimizer": {"init_args": {"lr": 0.5}}, "schedule": None}},
}
WIDE = {"model": {"init_args": {"network": {"init_args": {"hidden": 64}}}}}
OTHER = {"model": {"init_args": {"network": "twinloop.models.LessonClassifier"}}}


def files(folder: Path, *settings: dict[str, Any]) -> list[str]:
    """Options that name an experiment, and a file for each of `settings`."""
    paths = [folder / f"{number}.yaml" for number in range(len(settings))]
    for path, values in zip(paths, settings, strict=True):
        path.write_text(yaml.safe_dump(values))
    return [f"--config={path}" for path in (EXPERIMENT, *paths)]


def parsed(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """All settings of a command line, as `--print_config` prints them."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *args, *ON_DIGITS, "--print_config"])
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_a_later_file_replaces_single_settings_of_earlier_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping: dict[str, Any] = {"class_path": "lightning.pytorch.callbacks.EarlyStopping"}
    stopping["init_args"] = {"monitor": "val/loss"}
    first = {"trainer": {"max_epochs": 9, "max_steps": 8, "callbacks": [stopping]}}
    found = parsed(capsys, *files(tmp_path, first, FASTER, WIDE), "--trainer.max_steps", "3")
    trainer, model = found["trainer"], found["model"]["init_args"]
    assert (trainer["max_epochs"], trainer["max_steps"]) == (7, 3)
    names = [callback["class_path"].rpartition(".")[2] for callback in trainer["callbacks"]]
    assert names == ["EarlyStopping", "EMAWeightAveraging"]
    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert model["optimizer"]["init_args"]["lr"] == 0.5
    assert model["schedule"] is None
    assert model["network"]["init_args"] == {"hidden": 64}
    # Another class takes none of the arguments of the first.
    network = parsed(capsys, *files(tmp_path, WIDE, OTHER))["model"]["init_args"]["network"]
    assert network == {"class_path": "twinloop.models.LessonClassifier"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"trainer": {"max_epoch": 1}},
        {"data": {"batch_size": "many"}},
        {"model": {"init_args": {"network": {"init_args": {"width": 3}}}}},  # of the file before
    ],
    ids=["key", "value", "argument"],
)
def test_a_mistake_names_the_file_that_has_it(
    wrong: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *files(tmp_path, WIDE, wrong), *ON_DIGITS]) == 2
    assert error_line(capsys).startswith(f"error: {tmp_path / '1.yaml'}: ")


def test_a_value_may_come_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.delenv("EPOCHS", raising=False)
    trainer = {"max_epochs": "${oc.env:EPOCHS,4}", "default_root_dir": "${oc.env:SCRATCH}/mine"}
    options = files(tmp_path, {"trainer": trainer})
    found = parsed(capsys, *options)["trainer"]
    assert (found["max_epochs"], found["default_root_dir"]) == (4, "/scratch/mine")
    monkeypatch.setenv("EPOCHS", "6")
    assert parsed(capsys, *options)["trainer"]["max_epochs"] == 6
    monkeypatch.delenv("SCRATCH")
    assert main(["fit", *options, *ON_DIGITS]) == 2
    message = (
        f"error: {tmp_path / '0.yaml'}: the environment has no variable SCRATCH; set it, or give a "
        "default: ${oc.env:SCRATCH,DEFAULT}\n"
    )
    assert error_line(capsys) == message


def test_settings_of_the_machine_come_after_those_of_files_and_before_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = {"trainer": {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": "elsewhere"}}
    Path("local.yaml").write_text(yaml.safe_dump(local))
    options = [*files(tmp_path, FASTER), "--trainer.accelerator", "gpu"]
    monkeypatch.delenv("TWINLOOP_LOCAL")  # which no other test has
    found = parsed(capsys, *options)["trainer"]
    assert (found["max_epochs"], found["accelerator"]) == (2, "gpu")
    Path("local.yaml").rename("cluster.yaml")
    monkeypatch.setenv("TWINLOOP_LOCAL", "cluster.yaml")
    assert main(["fit", *options, "--trainer.max_epochs", "0"]) == 2
    assert capsys.readouterr().out == "settings of cluster.yaml apply\n"


def test_git_ignores_the_settings_of_a_machine() -> None:
    ignored = ["git", "check-ignore", "--quiet", "--no-index", "local.yaml"]
    assert subprocess.run(ignored, cwd=EXPERIMENTS.parent, check=False).returncode == 0


def test_a_comparison_takes_several_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(compare, "_train", lambda *given: commands.append(given[1]))
    monkeypatch.setattr(compare, "_lines", lambda *given: commands.append(given[1]))
    written: list[tuple[Any, ...]] = []

    def report(*given: Any) -> bool:
        written.append(given)
        return True

    monkeypatch.setattr(compare, "write_report", report)
    trainer = {"trainer": {"default_root_dir": str(tmp_path)}}
    configs = files(tmp_path, trainer, {"experiment": "mine", "seed_everything": 3, "trainer": {}})
    assert main(["compare", *configs, *ON_DIGITS]) == 0
    ((name, _, runs, _, folder),) = written
    assert name == "mine"
    assert [run.seed for run in runs] == [3, 3]
    assert folder == tmp_path / "lightning_logs" / "mine" / "compare_0"
    assert [command[:5] for command in commands] == [[*configs, *ON_DIGITS]] * 4


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_trains_both_loops_to_the_same_values(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_quick(monkeypatch)
    command = ["fit", "--config", EXPERIMENT, "--config", str(preset), *ON_DIGITS]
    words = ["--tags=[a, b c]", "--tags+=d", "--notes", "wide: 1"]
    root = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*command, *words, *root, "--record", "all"]) == 0
    run = run_in(tmp_path)
    assert run.parent.name == preset.stem
    results = json.loads((run / "results.json").read_text())
    assert (results["tags"], results["notes"]) == (["a", "b c", "d"], "wide: 1")
    other = tmp_path / "homemade"
    homemade = ["--loop", "homemade", "--run", str(other)]
    assert main([*command, *words, *homemade, "--record", "all"]) == 0
    assert differences(read_record(run), read_record(other)) == []


def test_all_presets_are_found() -> None:
    assert [path.stem for path in PRESETS] == ["debug", "overfit"]
