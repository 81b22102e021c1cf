"""The loggers of `trainer.logger`: where they write, and that both loops log the same."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from tests.commands import fit, write_module
from twinloop.cli.loggers import _in_folder, loggers_of
from twinloop.comparison.outcome import unmeasured
from twinloop.comparison.parity import LOOPS
from twinloop.errors import UserError
from twinloop.runs.board import RunLogger
from twinloop.runs.run import Run

LOGGERS = "lightning.pytorch.loggers"


def spec(kind: str, **init_args: Any) -> Namespace:
    described = {"class_path": f"{LOGGERS}.{kind}", "init_args": init_args}
    return Namespace(**described)  # type: ignore[no-untyped-call]


CSV = spec("CSVLogger", save_dir=".", name="lightning_logs", version=None)
BOARD = spec(
    "TensorBoardLogger", save_dir=".", name="lightning_logs", version=None, log_graph=False
)


def built(given: Any, folder: Path) -> list[Any]:
    config = SimpleNamespace(trainer=SimpleNamespace(logger=given))
    experiment: Any = SimpleNamespace(config=config, name="mlp")
    found = loggers_of(experiment, folder)
    for logger in found:
        logger.finalize("success")
    return found


def test_the_default_is_tensorboard_in_the_folder_of_the_run(tmp_path: Path) -> None:
    for given in (None, True):
        (logger,) = built(given, tmp_path)
        assert isinstance(logger, RunLogger)
        assert Path(logger.log_dir) == tmp_path


@pytest.mark.parametrize("given", [False, []])
def test_there_may_be_none(given: Any, tmp_path: Path) -> None:
    assert built(given, tmp_path) == []


def test_several_are_built_in_the_folder_of_the_run_or_in_their_own(tmp_path: Path) -> None:
    own = spec("CSVLogger", save_dir=str(tmp_path / "own"), name="mine", version=3)
    board, run, other = built([BOARD, CSV, own], tmp_path / "run")
    assert isinstance(board, TensorBoardLogger)
    assert isinstance(run, CSVLogger)
    assert Path(board.log_dir) == tmp_path / "run"
    assert Path(run.log_dir) == tmp_path / "run" / "version_0"
    assert Path(other.log_dir) == tmp_path / "own" / "mine" / "version_3"


def test_only_the_first_process_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinloop.cli.loggers.is_first", lambda: False)
    for given in (None, CSV):
        (logger,) = built(given, tmp_path)
        assert isinstance(logger, DummyLogger)
    assert not list(tmp_path.iterdir())


def test_those_of_wandb_and_mlflow_are_named_after_the_run() -> None:
    folder = Path("logs/mlp/version_3-digits")
    wandb = {"name": None, "save_dir": ".", "project": None}
    assert _in_folder(wandb, "mlp", folder) == {
        "save_dir": "logs/mlp/version_3-digits",
        "name": "mlp/version_3-digits",
    }
    assert _in_folder(wandb | {"name": "mine", "save_dir": "/own"}, "mlp", folder) == {}
    mlflow = {"tracking_uri": None, "save_dir": "./mlruns", "experiment_name": "lightning_logs"}
    assert _in_folder(mlflow, "mlp", folder) == {
        "tracking_uri": "sqlite:///logs/mlp/version_3-digits/mlflow.db",
        "artifact_location": "logs/mlp/version_3-digits/mlflow",
        "experiment_name": "mlp",
        "run_name": "version_3-digits",
    }
    assert _in_folder(mlflow | {"tracking_uri": "sqlite:///own.db"}, "mlp", folder) == {}


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{LOGGERS}.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(UserError, match="WandbLogger cannot be started") as caught:
        built(spec("WandbLogger", name=None, save_dir="."), tmp_path)
    assert "\n" not in str(caught.value)


def test_loggers_are_told_how_the_run_has_ended() -> None:
    told: list[str] = []
    logger: Any = SimpleNamespace(finalize=told.append)
    unused: Any = None
    run = Run(Path(), unused, unused, unused, [logger])
    with run.logging():
        assert told == []
    with pytest.raises(ValueError, match="here"), run.logging():
        raise ValueError("here")
    assert told == ["success", "failed"]


OWN = """
from lightning.pytorch.loggers import Logger

class Own(Logger):
    name, version, made = "own", 0, []

    def __init__(self, tag: str = ""):
        super().__init__()
        self.calls = []
        self.made.append(self.calls)

    def log_hyperparams(self, params, *_, **__):
        self.calls.append(("hyperparameters", {k: v for k, v in params.items() if k != "loop"}))

    def log_metrics(self, metrics, step=None):
        found = [(k, value) for k, value in metrics.items() if not k.startswith("measured/")]
        if found:
            self.calls.append(("metrics", found, step))

    def log_image(self, key, images, step):
        self.calls.append(("image", key, images[0].tobytes(), step))

    def finalize(self, status):
        self.status = status
"""


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["mlp", "autoencoder"])
def test_both_loops_log_the_same(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_logger", OWN, monkeypatch)
    options = ["--trainer.logger+=own_logger.Own", "--trainer.logger.tag=here"]
    options += ["--trainer.logger+=CSVLogger", "--trainer.logger.save_dir=."]
    options += ["--trainer.log_every_n_steps=2", "--trainer.val_check_interval=2"]
    for loop in LOOPS:
        assert fit(tmp_path, *options, "--loop", loop, experiment=experiment) == 0
    one, other = importlib.import_module("own_logger").Own.made[-2:]
    for kind in ("hyperparameters", "metrics", "image"):
        assert [c for c in one if c[0] == kind] == [c for c in other if c[0] == kind]
    classifies = experiment == "mlp"
    assert one[0][1]["trainer.max_epochs"] == 2
    images = {call[1] for call in one if call[0] == "image"}
    assert images == {"val/confusion" if classifies else "val/reconstructions"}
    assert {"test/loss", f"val/{'accuracy' if classifies else 'mse'}_best"} <= dict(
        one[-1][1]
    ).keys()
    tables = [unmeasured(path) for path in tmp_path.rglob("version_0/metrics.csv")]
    assert len(tables) == 2
    assert tables[0] == tables[1]
