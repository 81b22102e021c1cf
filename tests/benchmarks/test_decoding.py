"""All ways of reading a folder have the same images."""

from pathlib import Path

import pytest
import torch

from benchmarks import decoding


@pytest.mark.slow
@pytest.mark.parametrize("way", [decoding.LOOP, decoding.IMAGE_FOLDER])
def test_every_way_reads_the_same(way: str, tmp_path: Path) -> None:
    decoding.write_small(tmp_path / "small", 20)
    decoding.write_photographs(tmp_path / "photographs", 2, 2, width=1200)
    for name, size, off in (("small", (64, 64), 0), ("photographs", (32, 32), 2)):
        ours = decoding.WAYS[decoding.OURS](tmp_path / name, size)
        others = decoding.WAYS[way](tmp_path / name, size)
        assert list(ours) == list(others) == ["0", "1"]
        for label, images in ours.items():
            assert len(images) == len(others[label])
            # Ours has another order: what is held out stands at the end.
            apart = (images[:, None].int() - others[label][None].int()).abs().amax((2, 3, 4))
            assert apart.amin(0).max() <= off
            assert apart.amin(1).max() <= off


@pytest.mark.slow
def test_the_part_measures_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    small, photographs = decoding.write_small, decoding.write_photographs
    monkeypatch.setattr(decoding, "write_small", lambda folder, _: small(folder, 20))
    monkeypatch.setattr(
        decoding, "write_photographs", lambda folder, *_: photographs(folder, 2, 1, width=800)
    )
    rows = decoding.measure("digits", torch.device("cpu"), rounds=1)
    assert [(row["experiment"], row["what"], row["against"]) for row in rows] == [
        (on, decoding.OURS, other)
        for on in (decoding.SMALL, decoding.PHOTOGRAPHS)
        for other in (decoding.LOOP, decoding.IMAGE_FOLDER)
    ]
    assert all(row["ratio"]["median"] > 0 for row in rows)
