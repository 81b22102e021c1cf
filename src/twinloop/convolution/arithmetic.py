"""How large a convolution's output is, and what cannot be.

All along one axis, in pixels; the formulas and their names are those of Dumoulin & Visin 2016, "A
guide to convolution arithmetic for deep learning" (arXiv:1603.07285), with dilation added.
"""


def output_size(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
) -> int:
    """How many windows fit: `floor((size + padding - dilation * (kernel - 1) - 1) / stride) + 1`.

    `padding` is one number for both ends, or one for each, of which the formula has the sum.

    Raises:
        ValueError: a kernel, stride or dilation below 1, a negative padding, or a kernel that is
            larger, edge to edge, than the padded input.
    """
    before, after = (padding, padding) if isinstance(padding, int) else padding
    span = kernel_span(kernel, dilation)
    check_at_least(1, stride=stride)
    check_at_least(0, padding=min(before, after))
    padded = size + before + after
    if span > padded:
        raise ValueError(
            f"kernel={kernel} with dilation={dilation} spans {span} pixels, but the padded input "
            f"has only {padded}; the span dilation * (kernel - 1) + 1 must fit"
        )
    return (padded - span) // stride + 1


def kernel_span(kernel: int, dilation: int = 1) -> int:
    """Pixels from the first to the last that a kernel reads: `dilation * (kernel - 1) + 1`.

    Raises:
        ValueError: a kernel or dilation below 1.
    """
    check_at_least(1, kernel=kernel, dilation=dilation)
    return dilation * (kernel - 1) + 1


def same_padding(kernel: int, dilation: int = 1) -> int:
    """Zeros at each end that keep the size at stride 1: half of what the kernel's span adds.

    Odd kernels are easier: they have a middle pixel, so both ends get `kernel // 2` zeros and
    output i stands on input i. An even kernel's middle lies between two pixels: one end would
    need a zero more than the other, and every layer would shift the picture by half a pixel.

    Raises:
        ValueError: an even kernel whose span cannot be halved, or a kernel or dilation below 1.
    """
    added = kernel_span(kernel, dilation) - 1
    if added % 2:
        raise ValueError(
            f"kernel={kernel} with dilation={dilation} needs {added} zeros for the same size, and "
            "they do not split evenly; use an odd kernel, or pad each side by its own number"
        )
    return added // 2


def transposed_output_size(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> int:
    """`(size - 1) * stride - padding + dilation * (kernel - 1) + output_padding + 1`.

    The size of the input from which a convolution of the same numbers makes `size`; `padding`
    takes away here what it adds there, at both ends or at each its own.

    Raises:
        ValueError: a kernel, stride or dilation below 1, a negative padding, an output padding
            outside of [0, max(stride, dilation)), or nothing left of the output.
    """
    before, after = (padding, padding) if isinstance(padding, int) else padding
    span = kernel_span(kernel, dilation)
    check_at_least(1, stride=stride)
    check_at_least(0, padding=min(before, after))
    if not 0 <= output_padding < max(stride, dilation):
        raise ValueError(
            f"output_padding={output_padding}; it must be at least 0 and smaller than stride="
            f"{stride} or dilation={dilation}: it chooses among sizes that a convolution rounds "
            "down to one"
        )
    result = (size - 1) * stride - before - after + span + output_padding
    if result < 1:
        raise ValueError(
            f"padding={padding} takes away more than the {result + before + after} pixels there "
            "are; at least one must be left"
        )
    return result


def output_padding(
    size: int,
    target: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
) -> int:
    """The output padding with which a transposed convolution makes `target` out of `size`.

    A convolution of stride s rounds s input sizes down to one, so its transpose must be told
    which of them to go back to: 13 and 14 both become 7 under kernel 3, stride 2, padding 1.

    Raises:
        ValueError: no output padding leads to `target`.
    """
    check_at_least(1, stride=stride)
    before, after = (padding, padding) if isinstance(padding, int) else padding
    least = (size - 1) * stride - before - after + kernel_span(kernel, dilation)
    choices = max(stride, dilation)
    if not 0 <= target - least < choices:
        raise ValueError(
            f"target={target} cannot be made from {size} with kernel={kernel}, stride={stride}, "
            f"padding={padding}, dilation={dilation}; the sizes are {least} to "
            f"{least + choices - 1}"
        )
    return target - least


def draws_checkerboard(kernel: int, stride: int) -> bool:
    """Do windows of a transposed convolution overlap unevenly, so that it draws a checkerboard?

    They do where the stride does not divide the kernel (Odena et al. 2016,
    https://distill.pub/2016/deconv-checkerboard).

    Raises:
        ValueError: a kernel or stride below 1.
    """
    check_at_least(1, kernel=kernel, stride=stride)
    return kernel % stride != 0


def check_at_least(least: int, **numbers: int) -> None:
    """Make sure that each number, given by its name, is not below `least`.

    Raises:
        ValueError: the first that is.
    """
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name}={number}; it must be at least {least}")
