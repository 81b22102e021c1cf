"""Every convolution of both classifiers is timed."""

import pytest
import torch

from benchmarks import convolutions


@pytest.mark.slow
def test_every_convolution_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "BATCH", 2)
    rows = convolutions.measure("digits", torch.device("cpu"), rounds=1)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    assert sum(layer.startswith("lesson ") for layer in layers) == 5
    assert sum(layer.startswith("classifier ") for layer in layers) == 9
    targets = [row.get("target") for row in rows if row["layer"] == layers[0]]
    assert targets == ["<= 1", None, None]
    assert all(row["ratio"]["median"] > 0 for row in rows)
