"""What compiling gains is measured on every network that is named."""

import pytest
import torch

from benchmarks import compiled


@pytest.mark.slow
def test_a_compiled_step_is_timed_beside_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "STEPS", 5)
    monkeypatch.setattr(compiled, "EXPERIMENTS", ("lesson-classifier",))
    (row,) = compiled.measure("digits", torch.device("cpu"), rounds=1)
    assert (row["what"], row["against"]) == ("Learner, compiled", "Learner")
    assert row["experiment"] == "lesson-classifier"
    assert 0.1 < row["ratio"]["median"] < 10
