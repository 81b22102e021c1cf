"""The table says what PyTorch counts, from the modules that really run."""

from fractions import Fraction

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from twinloop.convolution.summary import summarise, table
from twinloop.models import BottleneckAutoencoder, LessonClassifier, SequentialClassifier

MODELS = [
    LessonClassifier((1, 28, 28), 10),
    SequentialClassifier((1, 28, 28), 10),
    BottleneckAutoencoder((1, 28, 28)),
    nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 2, (3, 2), 2, groups=2)),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_parameters_and_multiply_adds_are_pytorchs(model: nn.Module) -> None:
    shape = (4, 9, 9) if isinstance(model, nn.Sequential) else (1, 28, 28)
    rows = summarise(model, shape)
    assert sum(row.parameters for row in rows) == sum(w.numel() for w in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    # PyTorch counts a multiplication and an addition as two.
    assert 2 * sum(row.multiply_adds for row in rows) == counter.get_total_flops()
    assert rows[0].layer.input_shape == shape


def test_the_third_convolution_of_the_lesson_sees_15_pixels() -> None:
    rows = {row.layer.name: row for row in summarise(MODELS[0], (1, 28, 28))}
    field = rows["layers.2.0"].field
    assert field is not None
    assert field == ((15, 15), (Fraction(8), Fraction(8)), (Fraction(0), Fraction(0)))


def test_a_shared_module_is_counted_once_and_a_checkerboard_marked() -> None:
    shared = nn.ConvTranspose2d(1, 1, 3, stride=2)
    rows = summarise(nn.Sequential(shared, shared), (1, 4, 4))
    assert [row.parameters for row in rows] == [10, 0]
    assert [row.has_checkerboard for row in rows] == [True, True]
    assert not summarise(nn.ConvTranspose2d(1, 1, 4, stride=2), (1, 4, 4))[0].has_checkerboard


def test_layers_after_an_unknown_one_have_no_receptive_field() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReflectionPad2d(1), nn.Conv2d(1, 1, 3))
    assert [row.field is None for row in summarise(model, (1, 8, 8))] == [False, True, True]


def test_the_printed_table_has_every_layer_and_the_sums() -> None:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(table(summarise(MODELS[0], (1, 28, 28)), "lesson-classifier"))
    printed = captured.get()
    assert "lesson-classifier" in printed
    for text in ("layers.2.0", "Conv2d", "8x7x7", "1,168", "18,432", "15x15", "5,274", "50,256"):
        assert text in printed, text
