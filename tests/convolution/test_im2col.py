"""All ways to a convolution are PyTorch's, values and gradients.

Pictures and kernels are small whole numbers in float64: every order of adding them up is exact,
so that results can be compared bit for bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution.im2col import (
    Geometry,
    col2im,
    conv2d_im2col,
    conv2d_loops,
    conv2d_unfold,
    conv2d_upsampled,
    conv_transpose2d,
    im2col,
    windows,
)

Convolution = Callable[..., Tensor]
WAYS: list[Convolution] = [conv2d_loops, conv2d_im2col, conv2d_unfold]


class Case(NamedTuple):
    """A picture, kernels, a bias, and how the kernels move."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    options: dict[str, Any]


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).double()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any convolution that can be, of few pixels."""
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    batch, groups = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    inputs, outputs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    left, right, top, bottom = padding
    height = draw(st.integers(max(1, spans[0] - top - bottom), 6 + spans[0]))
    width = draw(st.integers(max(1, spans[1] - left - right), 6 + spans[1]))
    seed = draw(st.integers(0, 99))
    return Case(
        whole_numbers(batch, inputs, height, width, seed=seed),
        whole_numbers(outputs, inputs // groups, *kernel, seed=seed + 1),
        whole_numbers(outputs, seed=seed + 2) if draw(st.booleans()) else None,
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
    )


def by_pytorch(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: Any, **options: Any
) -> Tensor:
    """`F.conv2d`, with our order of uneven padding."""
    return F.conv2d(F.pad(x, padding), weight, bias, **options)


def with_gradients(convolve: Convolution, case: Case) -> list[Tensor]:
    """The output, and the gradients of input, weight and bias from a gradient of whole numbers."""
    leaves = [t.clone().requires_grad_() for t in (case.x, case.weight, case.bias) if t is not None]
    output = convolve(*leaves, **case.options)
    gradients = torch.autograd.grad(output, leaves, whole_numbers(*output.shape, seed=7))
    return [output, *gradients]


def assert_all_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("convolve", [conv2d_im2col, conv2d_unfold])
@given(case=cases())
def test_values_and_gradients_are_pytorchs(convolve: Convolution, case: Case) -> None:
    if len(case.x):
        assert_all_equal(with_gradients(convolve, case), with_gradients(by_pytorch, case))
    elif convolve is conv2d_im2col:  # F.unfold takes no empty batch
        output = convolve(case.x, case.weight, case.bias, **case.options)
        assert output.shape == by_pytorch(*case[:3], **case.options).shape


@given(case=cases())
def test_the_definition_is_pytorchs(case: Case) -> None:
    case = case._replace(x=case.x[:1])
    if len(case.x):
        assert_all_equal(with_gradients(conv2d_loops, case), with_gradients(by_pytorch, case))


@pytest.mark.parametrize("convolve", WAYS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.05)]
)
def test_real_numbers_of_every_precision(
    convolve: Convolution, dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in [(2, 3, 8, 7), (4, 3, 3, 3), (4,)]
    )
    found = convolve(x, weight, bias, stride=2, padding=1)
    assert found.dtype == dtype
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride=2, padding=1)
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("convolve", WAYS)
def test_gradcheck(convolve: Convolution) -> None:
    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
        return convolve(x, weight, bias, groups=2, **options)

    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in [(1, 2, 4, 5), (2, 1, 2, 2), (2,)]
    ]
    assert torch.autograd.gradcheck(call, inputs)


def test_the_gradient_of_im2col_has_a_gradient_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in [(1, 2, 4, 4), (2, 2, 3, 3)]
    )
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d_im2col(x, w, padding=1), (x, weight))


def test_one_number_two_and_four_mean_the_same_padding() -> None:
    x, weight = whole_numbers(1, 1, 5, 5), whole_numbers(1, 1, 3, 3)
    one, two, four = (conv2d_im2col(x, weight, padding=p) for p in (1, (1, 1), (1, 1, 1, 1)))
    assert torch.equal(one, two)
    assert torch.equal(one, four)
    # Two are rows and columns, as in PyTorch.
    rows = conv2d_im2col(x, weight, padding=(2, 0))
    assert torch.equal(rows, F.conv2d(x, weight, padding=(2, 0)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_windows_are_a_view(layout: torch.memory_format) -> None:
    x = whole_numbers(2, 3, 6, 7).contiguous(memory_format=layout)
    seen = windows(x, Geometry.of((3, 2), (2, 1), 0, (1, 2)))
    assert seen.data_ptr() == x.data_ptr()
    assert torch.equal(seen[1, 2, :, :, 1, 3], x[1, 2, 2:5, 3:6:2])


@given(case=cases())
def test_im2col_is_unfold_and_col2im_is_fold(case: Case) -> None:
    options = {name: case.options[name] for name in ("stride", "dilation")}
    padding, kernel = case.options["padding"], (case.weight.shape[2], case.weight.shape[3])
    x = case.x if len(case.x) else case.x.new_zeros(1, *case.x.shape[1:])
    padded = F.pad(x, padding)
    columns = im2col(x, kernel, padding=padding, **options)
    assert torch.equal(columns, F.unfold(padded, kernel, **options))
    other = whole_numbers(*columns.shape, seed=3)
    back = col2im(other, (x.shape[2], x.shape[3]), kernel, padding=padding, **options)
    left, right, top, bottom = padding
    folded = F.pad(
        F.fold(other, padded.shape[2:], kernel, **options), (-left, -right, -top, -bottom)
    )
    assert torch.equal(back, folded)
    # Adjoint: <im2col(x), y> == <x, col2im(y)>.
    assert (columns * other).sum() == (x * back).sum()


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    st.data(),
)
def test_the_transposed_convolution_is_pytorchs(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    data: st.DataObject,
) -> None:
    padding = tuple(
        data.draw(st.integers(0, d * (k - 1) // 2)) for k, d in zip(kernel, dilation, strict=True)
    )
    extra = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    case = Case(
        whole_numbers(2, 2 * groups, 3, 4),
        whole_numbers(2 * groups, 3, *kernel, seed=1),
        whole_numbers(3 * groups, seed=2),
        {
            **{"stride": stride, "padding": padding, "dilation": dilation},
            **{"groups": groups, "output_padding": extra},
        },
    )
    found = with_gradients(conv_transpose2d, case)
    assert_all_equal(found, with_gradients(F.conv_transpose2d, case))


def test_the_lessons_deconvolution_upsamples_then_convolves() -> None:
    case = Case(whole_numbers(2, 3, 4, 5), whole_numbers(2, 3, 3, 3), whole_numbers(2), {})

    def expected(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)

    assert_all_equal(with_gradients(conv2d_upsampled, case), with_gradients(expected, case))
    assert conv2d_upsampled(case.x, case.weight).shape == (2, 2, 8, 10)


X, WEIGHT = torch.zeros(1, 4, 5, 5), torch.zeros(2, 4, 3, 3)
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "kernel too large": ({"weight": torch.zeros(2, 4, 7, 7)}, "spans 7 pixels, but the padded"),
    "stride 0": ({"stride": 0}, "stride=0; it must be at least 1"),
    "dilation 0": ({"dilation": 0}, "dilation=0; it must be at least 1"),
    "negative padding": ({"padding": -1}, "padding=-1; it must be at least 0"),
    "groups do not divide": ({"groups": 3}, "groups=3 does not divide 4 channels in and 2 out"),
    "groups 0": ({"groups": 0}, "groups=0; it must be at least 1"),
    "other channels": ({"weight": torch.zeros(2, 3, 3, 3)}, "takes 3 channels"),
    "no batch": ({"x": torch.zeros(4, 5, 5)}, r"input \(4, 5, 5\)"),
    "bias": ({"bias": torch.zeros(3)}, r"bias \(3,\); it must have one number for 2 outputs"),
}


@pytest.mark.parametrize("convolve", WAYS)
@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_cannot_be_is_refused(
    convolve: Convolution, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convolve(**({"x": X, "weight": WEIGHT} | change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: im2col(X, 6), "spans 6 pixels"),
        (lambda: col2im(torch.zeros(1, 9, 8), (5, 5), 3), "a multiple of 9, 9"),
        (lambda: conv_transpose2d(X, torch.zeros(3, 1, 3, 3)), "must be the channels"),
        (lambda: conv_transpose2d(X, torch.zeros(4, 1, 3, 3), groups=3), "groups=3"),
        (
            lambda: conv_transpose2d(X, torch.zeros(4, 1, 3, 3), output_padding=1),
            "output_padding=1; it must",
        ),
        (lambda: conv2d_upsampled(X, WEIGHT, scale=0), "scale=0; it must be at least 1"),
    ],
)
def test_other_mistakes_are_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
