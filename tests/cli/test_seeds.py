"""`fit --seeds N`: runs that differ in the seed alone, and their spread."""

import json
from pathlib import Path
from statistics import mean, stdev

import pytest

from tests.commands import error_line, fit, make_quick, stop_at
from twinloop.cli.seeds import spread


def test_the_spread_is_of_values_that_every_run_has() -> None:
    runs = [
        {"val": {"loss": 1.0, "top5": 0.5}, "test": {"loss": 2.0, "class_accuracy": {}}},
        {"val": {"loss": 2.0, "top5": None}, "test": {"loss": 4.0, "class_accuracy": {}}},
    ]
    assert spread(dict(enumerate(runs))) == {
        "val/loss": {"mean": 1.5, "std": stdev([1, 2]), "n": 2, "values": [1.0, 2.0]},
        "test/loss": {"mean": 3.0, "std": stdev([2, 4]), "n": 2, "values": [2.0, 4.0]},
    }


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["lightning", "homemade"])
def test_a_stopped_series_is_resumed_and_shows_its_spread(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_quick(monkeypatch)
    series = ("--loop", loop, "--seeds", "2")
    assert fit(tmp_path / "whole", *series) == 0
    with monkeypatch.context() as patch:
        stop_at(1, 2, patch)
        assert fit(tmp_path, *series) == 143
    folder = tmp_path / "lightning_logs" / "mlp" / "seeds_0"
    assert not (folder / "seeds.json").exists()
    assert fit(tmp_path, *series, "--ckpt_path", "last") == 0
    found = json.loads((folder / "seeds.json").read_text())
    whole = tmp_path / "whole" / "lightning_logs" / "mlp" / "seeds_0" / "seeds.json"
    assert found == json.loads(whole.read_text())
    assert (found["seeds"], found["n"], found["loop"]) == ([42, 43], 2, loop)
    runs = [json.loads((folder / f"seed-{seed}/results.json").read_text()) for seed in (42, 43)]
    assert [run["seed"] for run in runs] == [42, 43]
    values = [run["val"]["accuracy"] for run in runs]
    accuracy = found["metrics"]["val/accuracy"]
    assert accuracy == {"mean": mean(values), "std": stdev(values), "n": 2, "values": values}
    assert f"{mean(values):.4f} ± {stdev(values):.4f}" in capsys.readouterr().out
    assert (folder / "seeds.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "seeds"),
        (["--seeds", "2", "--run_folder", "run"], "unset --run_folder"),
        (["--seeds", "2", "--ckpt_path", "last"], "there is no seeds_<number> in"),
    ],
)
def test_a_mistake_ends_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, *options) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.rglob("config.yaml"))
