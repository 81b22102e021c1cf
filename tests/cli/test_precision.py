"""The precision `auto`."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.commands import fit, run_in
from twinloop.cli.precision import resolved


@pytest.mark.parametrize("has", [True, False])
def test_a_run_is_saved_with_the_precision_that_auto_stood_for(
    has: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})
    entered: list[Any] = []
    real: Any = torch.autocast.__enter__

    def enter(self: torch.autocast) -> Any:
        entered.append(self.fast_dtype)
        return real(self)

    monkeypatch.setattr(torch.autocast, "__enter__", enter)
    options = ["--trainer.precision", "auto", "--trainer.accelerator", "cpu"]
    fit(tmp_path, *options, "--loop", "homemade", "--trainer.max_steps", "1")
    config = yaml.safe_load((run_in(tmp_path) / "config.yaml").read_text())
    assert config["trainer"]["precision"] == ("bf16-mixed" if has else None)
    assert (torch.bfloat16 in entered) == ("bf16-mixed" in capsys.readouterr().out) == has


def test_auto_is_bfloat16_on_a_gpu_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "arm64"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    assert resolved("auto", "auto") is None  # bfloat16 would be emulated
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert resolved("auto", "auto") == resolved("auto", "gpu") == "bf16-mixed"
    assert resolved("auto", "cpu") is None
    assert resolved("64-true", "gpu") == "64-true"
