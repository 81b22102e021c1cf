"""All ways to a convolution are PyTorch's, values and gradients.

Images and kernels are small integers in float64: every order of summation is exact, so results
can be compared bit for bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution.conv2d import (
    conv2d_im2col,
    conv2d_loops,
    conv2d_unfold,
    conv2d_upsampled,
    conv_transpose2d,
)

Convolution = Callable[..., Tensor]
WAYS: list[Convolution] = [conv2d_loops, conv2d_im2col, conv2d_unfold]
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


class Case(NamedTuple):
    """Images, kernels, a bias, and how the kernels move."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    options: dict[str, Any]


def integers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).double()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any valid convolution of few pixels."""
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
        integers(batch, inputs, height, width, seed=seed),
        integers(outputs, inputs // groups, *kernel, seed=seed + 1),
        integers(outputs, seed=seed + 2) if draw(st.booleans()) else None,
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
    )


def by_pytorch(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: Any, **options: Any
) -> Tensor:
    """`F.conv2d`, with our order of uneven padding."""
    return F.conv2d(F.pad(x, padding), weight, bias, **options)


def with_gradients(convolve: Convolution, case: Case) -> list[Tensor]:
    """The output, and the gradients of input, weight and bias for an integer upstream gradient."""
    leaves = [t.clone().requires_grad_() for t in (case.x, case.weight, case.bias) if t is not None]
    output = convolve(*leaves, **case.options)
    return [output, *torch.autograd.grad(output, leaves, integers(*output.shape, seed=7))]


def assert_all_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("convolve", WAYS)
@given(case=cases())
def test_values_and_gradients_are_pytorchs(convolve: Convolution, case: Case) -> None:
    if convolve is conv2d_loops:
        case = case._replace(x=case.x[:1])  # it is slow
    if len(case.x):
        assert_all_equal(with_gradients(convolve, case), with_gradients(by_pytorch, case))
    elif convolve is not conv2d_unfold:  # F.unfold takes no empty batch
        output = convolve(case.x, case.weight, case.bias, **case.options)
        assert output.shape == by_pytorch(*case[:3], **case.options).shape


@pytest.mark.parametrize("convolve", WAYS)
def test_random_values_of_every_precision(convolve: Convolution) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 8, 7), (4, 3, 3, 3), (4,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for dtype, tolerance in {
        torch.float32: 1e-5,
        torch.float64: 1e-12,
        torch.bfloat16: 0.05,
    }.items():
        x, weight, bias = (tensor.to(dtype) for tensor in tensors)
        found = convolve(x, weight, bias, stride=2, padding=1)
        assert found.dtype == dtype
        expected = F.conv2d(x.double(), weight.double(), bias.double(), stride=2, padding=1)
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("convolve", WAYS)
def test_gradients_pass_gradcheck_and_those_of_im2col_gradgradcheck(
    convolve: Convolution,
) -> None:
    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
        return convolve(x, weight, bias, groups=2, **options)

    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in [(1, 2, 4, 5), (2, 1, 2, 2), (2,)]
    ]
    assert torch.autograd.gradcheck(call, inputs)
    if convolve is conv2d_im2col:
        assert torch.autograd.gradgradcheck(call, inputs)


def test_one_two_and_four_values_of_padding() -> None:
    x, weight = integers(1, 1, 5, 5), integers(1, 1, 3, 3)
    one, two, four = (conv2d_im2col(x, weight, padding=p) for p in (1, (1, 1), (1, 1, 1, 1)))
    assert torch.equal(one, two)
    assert torch.equal(one, four)
    # Two are rows and columns, as in PyTorch.
    rows = conv2d_im2col(x, weight, padding=(2, 0))
    assert torch.equal(rows, F.conv2d(x, weight, padding=(2, 0)))


@given(pairs, pairs, pairs, st.integers(1, 2), st.data())
def test_the_transposed_convolution_is_pytorchs(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    data: st.DataObject,
) -> None:
    half = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
    padding, extra = (
        data.draw(st.tuples(*(st.integers(0, limit) for limit in limits)))
        for limits in (half, most)
    )
    case = Case(
        integers(2, 2 * groups, 3, 4),
        integers(2 * groups, 3, *kernel, seed=1),
        integers(3 * groups, seed=2),
        {
            **{"stride": stride, "padding": padding, "dilation": dilation},
            **{"groups": groups, "output_padding": extra},
        },
    )
    found = with_gradients(conv_transpose2d, case)
    assert_all_equal(found, with_gradients(F.conv_transpose2d, case))


def test_the_deconvolution_of_the_lesson_upsamples_then_convolves() -> None:
    case = Case(integers(2, 3, 4, 5), integers(2, 3, 3, 3), integers(2), {})

    def expected(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)

    assert_all_equal(with_gradients(conv2d_upsampled, case), with_gradients(expected, case))
    assert conv2d_upsampled(case.x, case.weight).shape == (2, 2, 8, 10)


X, WEIGHT = torch.zeros(1, 4, 5, 5), torch.zeros(2, 4, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(2, 4, 7, 7)}, "spans 7 pixels, but the padded"),
        ({"stride": 0}, "stride=0; it must be at least 1"),
        ({"padding": -1}, "padding=-1; it must be at least 0"),
        ({"groups": 3}, "groups=3 does not divide 4 channels in and 2 out"),
        ({"weight": torch.zeros(2, 3, 3, 3)}, "takes 3 channels"),
        ({"x": torch.zeros(4, 5, 5)}, r"input \(4, 5, 5\)"),
        ({"bias": torch.zeros(3)}, r"bias \(3,\); it must be \[2\], one value"),
    ],
)
def test_invalid_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    for convolve in WAYS:
        with pytest.raises(ValueError, match=message):
            convolve(**({"x": X, "weight": WEIGHT} | change))


def test_invalid_arguments_of_other_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="must be the channels"):
        conv_transpose2d(X, torch.zeros(3, 1, 3, 3))
    with pytest.raises(ValueError, match="groups=3"):
        conv_transpose2d(X, torch.zeros(4, 1, 3, 3), groups=3)
    with pytest.raises(ValueError, match="output_padding=1; it must"):
        conv_transpose2d(X, torch.zeros(4, 1, 3, 3), output_padding=1)
    with pytest.raises(ValueError, match="scale=0; it must be at least 1"):
        conv2d_upsampled(X, WEIGHT, scale=0)
