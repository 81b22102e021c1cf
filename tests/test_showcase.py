"""What `convolution/` shows of an experiment, from what is typed to what is printed and written."""

from pathlib import Path

import pytest

from twinloop.cli import main

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.yaml"))
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


def test_a_mistake_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--config", str(EXPERIMENTS[0]), "--data.source", "/nowhere"]) == 2
    assert capsys.readouterr().err == (
        "error: data.source: there is no folder '/nowhere'; pass a folder, a Hub id (owner/name) "
        "or 'digits'\n"
    )
