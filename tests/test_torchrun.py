"""torchrun hands every option of ours on, and joins the processes of several nodes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch.distributed.run import parse_args

from tests.slurm.cluster import free_ports
from twinloop.cli.parser import Experiment
from twinloop.comparison.differences import compare_tensors
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.runs.record import flat

ROOT = Path(__file__).parents[1]
SECOND_SPELLINGS = ("--run",)
"""What torchrun takes for one of its own options, and has another name that it does not."""


class Parsed(Exception):  # noqa: N818 - no error: nothing more is to be done
    """The options of `fit` are known."""


def options(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every option of `fit`, as its parser has them."""
    found: list[str] = []

    def list_options(self: Experiment, _: LightningArgumentParser, __: Any) -> None:
        for action in self.parser._actions:
            found.extend(action.option_strings)
        raise Parsed

    monkeypatch.setattr(Experiment, "parse_arguments", list_options)
    with pytest.raises(Parsed):
        Experiment([])
    return found


def handed_on(arguments: list[str]) -> list[str] | None:
    """What torchrun gives to the command; None where it refuses."""
    try:
        found = parse_args(["-m", "twinloop", *arguments])  # type: ignore[no-untyped-call]
    except SystemExit:
        return None
    return list(found.training_script_args)


def test_no_option_is_taken_for_one_of_torchruns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = options(monkeypatch)
    assert len(found) > 60
    assert {"--config", "--experiment", "--loop", "--run", "--ckpt_path", "--trainer"} <= {*found}
    taken = []
    for option in found:
        for arguments in (["fit", option, "value"], ["fit", f"{option}=value"]):
            if option not in SECOND_SPELLINGS and handed_on(arguments) != arguments:
                taken.append(f"{arguments}: {capsys.readouterr().err.splitlines()[-1:]}")
    assert taken == []


def test_a_second_spelling_has_a_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--run_folder" in options(monkeypatch)
    assert handed_on(["fit", "--run", "here"]) is None  # else it needs no other


def fit(loop: Loop, folder: Path, *start: str) -> list[str]:
    """The command of an agent of torchrun, which trains a classifier with dropout on the CPU."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", *start, "-m", "twinloop", "fit"),
        *("--config", str(ROOT / "experiments" / "classifier.yaml"), "--data.source", "digits"),
        *("--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "2"),
        *("--data.batch_size", "99", "--loop", loop),
        *("--model.network.widths", "[8,16]", "--model.network.dropout", "0.2"),
        *("--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"),
    ]


def run_all(folder: Path, *commands: list[str]) -> dict[str, Any]:
    """Run commands side by side until all have ended; the checkpoint that they end with."""
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    logs = [folder / f"agent-{number}.txt" for number in range(len(commands))]
    agents = []
    for command, log in zip(commands, logs, strict=True):
        with log.open("w") as file:
            agents.append(
                subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            )
    end = time.monotonic() + 240
    try:
        status = [agent.wait(max(1, end - time.monotonic())) for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait()
    printed = [log.read_text() for log in logs]
    assert not any(status), "\n".join(printed)
    assert sum(text.count(" loop: ") for text in printed) == 1  # the first one's
    runs = list((folder / "lightning_logs" / "classifier").iterdir())
    assert [run.name for run in runs] == ["version_0-digits"]
    assert (runs[0] / "results.json").is_file()
    found: dict[str, Any] = torch.load(runs[0] / "checkpoints" / "last.ckpt")
    return found


@pytest.fixture(scope="module")
def on_one_node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("one-node") / "run"
    start = fit("lightning", folder, "--standalone", "--nproc-per-node", "2")
    return run_all(folder, [*start, "--trainer.devices", "2"])


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_two_nodes_end_with_the_bits_of_one(
    loop: Loop, tmp_path: Path, on_one_node: dict[str, Any]
) -> None:
    folder, (port,) = tmp_path / "run", free_ports(1)
    nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1"]
    devices = ["--trainer.devices", "1", "--trainer.num_nodes", "2"]
    commands = [
        fit(loop, folder, *nodes, "--master-port", str(port), "--node-rank", node) + devices
        for node in ("0", "1")
    ]
    found = run_all(folder, *commands)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert compare_tensors(part, flat(found[part]), flat(on_one_node[part])) == []
