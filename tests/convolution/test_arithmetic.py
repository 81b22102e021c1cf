"""Sizes are PyTorch's, and invalid arguments are refused with their value and the rule."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from twinloop.convolution.arithmetic import (
    has_checkerboard,
    output_padding,
    output_size,
    same_padding,
    transposed_output_size,
)

sizes = st.integers(1, 20)
small = st.integers(1, 4)
ends = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(sizes, small, small, ends, small)
def test_the_output_size_is_pytorchs(
    size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int
) -> None:
    assume(dilation * (kernel - 1) < size + sum(padding))
    row = F.pad(torch.zeros(1, 1, size), padding)
    expected = F.conv1d(row, torch.zeros(1, 1, kernel), stride=stride, dilation=dilation)
    found = output_size(size, kernel, stride=stride, padding=padding, dilation=dilation)
    assert found == expected.shape[2]


@given(sizes, small, small, st.integers(0, 3), small, st.integers(0, 3))
def test_the_transposed_output_size_is_pytorchs(
    size: int, kernel: int, stride: int, padding: int, dilation: int, extra: int
) -> None:
    assume(extra < max(stride, dilation))
    assume((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra >= 0)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    expected = F.conv_transpose1d(
        torch.zeros(1, 1, size),
        torch.zeros(1, 1, kernel),
        None,
        stride,
        padding,
        extra,
        1,
        dilation,
    )
    assert transposed_output_size(size, kernel, **options) == expected.shape[2]


@given(sizes, small, small, st.integers(0, 3), small)
def test_output_padding_restores_the_input_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    assume(dilation * (kernel - 1) < size + 2 * padding)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    result = output_size(size, kernel, **options)
    extra = output_padding(result, size, kernel, **options)
    assert transposed_output_size(result, kernel, output_padding=extra, **options) == size


def test_sizes_13_and_14_both_become_7_and_need_different_output_padding() -> None:
    assert [output_size(size, 3, stride=2, padding=1) for size in (13, 14)] == [7, 7]
    assert [output_padding(7, size, 3, stride=2, padding=1) for size in (13, 14)] == [0, 1]


@pytest.mark.parametrize(
    ("kernel", "dilation"),
    # An even kernel has a middle if its dilation is even.
    [(1, 1), (3, 1), (5, 1), (7, 2), (3, 3), (2, 2)],
)
def test_same_padding_keeps_the_size(kernel: int, dilation: int) -> None:
    padding = same_padding(kernel, dilation)
    assert output_size(28, kernel, padding=padding, dilation=dilation) == 28


@pytest.mark.parametrize(
    ("kernel", "stride", "expected"),
    [(3, 2, True), (4, 2, False), (2, 2, False), (3, 1, False), (5, 3, True)],
)
def test_a_checkerboard_is_an_uneven_number_of_sums_per_pixel(
    kernel: int, stride: int, expected: bool
) -> None:
    assert has_checkerboard(kernel, stride) is expected
    sums = F.conv_transpose1d(torch.ones(1, 1, 9), torch.ones(1, 1, kernel), stride=stride)
    inside = sums[0, 0, kernel:-kernel]
    assert bool((inside != inside[0]).any()) is expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: output_size(28, 0), "kernel=0; it must be at least 1"),
        (lambda: output_size(28, 3, dilation=0), "dilation=0; it must be at least 1"),
        (lambda: output_size(28, 3, padding=-1), "padding=-1; it must be at least 0"),
        (lambda: output_size(2, 5, padding=1), "spans 5 pixels, but the padded input has only 4"),
        (lambda: same_padding(4), "kernel=4 with dilation=1 needs 3 zeros"),
        (lambda: transposed_output_size(7, 3, output_padding=1), "output_padding=1; it must"),
        (lambda: transposed_output_size(7, 3, stride=0), "stride=0; it must be at least 1"),
        (lambda: transposed_output_size(1, 3, padding=2), "padding=2 leaves none of the 3"),
        (lambda: output_padding(7, 15, 3, stride=2, padding=1), "the sizes are 13 to 14"),
        (lambda: has_checkerboard(3, 0), "stride=0; it must be at least 1"),
    ],
)
def test_invalid_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
