"""Windows are those of `F.unfold`, as a view; adding them up is `F.fold`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from twinloop.convolution.im2col import Geometry, col2im, im2col, windows

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_windows_are_a_view(layout: torch.memory_format) -> None:
    x = torch.rand(2, 3, 6, 7).contiguous(memory_format=layout)
    seen = windows(x, Geometry.of((3, 2), (2, 1), 0, (1, 2)))
    assert seen.data_ptr() == x.data_ptr()
    assert torch.equal(seen[1, 2, :, :, 1, 3], x[1, 2, 2:5, 3:6:2])


@given(pairs, pairs, pairs, st.tuples(*[st.integers(0, 2)] * 4))
def test_im2col_is_unfold_and_col2im_is_fold(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> None:
    x = torch.randint(-4, 5, (2, 3, 7, 8)).double()
    padded = F.pad(x, padding)
    columns = im2col(x, kernel, stride=stride, padding=padding, dilation=dilation)
    assert torch.equal(columns, F.unfold(padded, kernel, dilation, stride=stride))
    other = torch.randint(-4, 5, columns.shape).double()
    found = col2im(other, (7, 8), kernel, stride=stride, padding=padding, dilation=dilation)
    folded = F.fold(other, padded.shape[2:], kernel, dilation, stride=stride)
    left, right, top, bottom = padding
    assert torch.equal(found, F.pad(folded, (-left, -right, -top, -bottom)))
    # Adjoint: <im2col(x), y> == <x, col2im(y)>.
    assert (columns * other).sum() == (x * found).sum()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="spans 6 pixels"):
        im2col(torch.zeros(1, 4, 5, 5), 6)
    with pytest.raises(ValueError, match=r"from an image of \(5, 5\) .* a multiple of 9, 9"):
        col2im(torch.zeros(1, 9, 8), (5, 5), 3)
