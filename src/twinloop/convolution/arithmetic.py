"""The output size of a convolution along one axis, in pixels.

Formulas and names are those of Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep
learning" (arXiv:1603.07285), with dilation added.
"""

Ends = int | tuple[int, int]
"""One value for both ends of an axis, or one for each."""


def output_size(
    size: int, kernel: int, *, stride: int = 1, padding: Ends = 0, dilation: int = 1
) -> int:
    """`floor((size + padding - dilation * (kernel - 1) - 1) / stride) + 1`, padding of both ends.

    Raises:
        ValueError: a kernel, stride or dilation below 1, a negative padding, or a kernel that
            spans more pixels than the padded input has.
    """
    span = kernel_span(kernel, dilation)
    padded = size + _both_ends(padding)
    check_at_least(1, stride=stride)
    if span > padded:
        raise ValueError(
            f"kernel={kernel} with dilation={dilation} spans {span} pixels, but the padded input "
            f"has only {padded}; the span dilation * (kernel - 1) + 1 must fit"
        )
    return (padded - span) // stride + 1


def kernel_span(kernel: int, dilation: int = 1) -> int:
    """Pixels from the first to the last that a kernel covers: `dilation * (kernel - 1) + 1`.

    Raises:
        ValueError: a kernel or dilation below 1.
    """
    check_at_least(1, kernel=kernel, dilation=dilation)
    return dilation * (kernel - 1) + 1


def same_padding(kernel: int, dilation: int = 1) -> int:
    """Zeros at each end that keep the size at stride 1: `dilation * (kernel - 1) / 2`.

    Odd kernels have a middle pixel, so both ends get the same number of zeros and output i is
    centred on input i. An even kernel needs one more zero at one end, and every such layer shifts
    the image by half a pixel.

    Raises:
        ValueError: an odd number of zeros in all, or a kernel or dilation below 1.
    """
    added = kernel_span(kernel, dilation) - 1
    if added % 2:
        raise ValueError(
            f"kernel={kernel} with dilation={dilation} needs {added} zeros for the same size, and "
            "they do not split evenly; use an odd kernel, or pad the ends differently"
        )
    return added // 2


def transposed_output_size(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: Ends = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> int:
    """`(size - 1) * stride - padding + dilation * (kernel - 1) + output_padding + 1`.

    An input size for which a convolution with the same settings has the output size `size`. The
    padding of both ends is subtracted, because the convolution adds it.

    Raises:
        ValueError: a kernel, stride or dilation below 1, a negative padding, an output padding
            outside of [0, max(stride, dilation)), or an output below 1 pixel.
    """
    check_at_least(1, stride=stride)
    unpadded = (size - 1) * stride + kernel_span(kernel, dilation) + output_padding
    result = unpadded - _both_ends(padding)
    if not 0 <= output_padding < max(stride, dilation):
        raise ValueError(
            f"output_padding={output_padding}; it must be at least 0 and smaller than stride="
            f"{stride} or dilation={dilation}: it selects one of the sizes that a convolution "
            "rounds down to the same output size"
        )
    if result < 1:
        raise ValueError(
            f"padding={padding} leaves none of the {unpadded} pixels of the output; at least one "
            "must be left"
        )
    return result


def output_padding(
    size: int,
    target: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: Ends = 0,
    dilation: int = 1,
) -> int:
    """The output padding with which a transposed convolution turns `size` into `target`.

    A convolution of stride s rounds s input sizes down to one output size: with kernel 3, stride 2
    and padding 1, both 13 and 14 become 7. The output padding of its transpose selects one.

    Raises:
        ValueError: no output padding gives `target`.
    """
    check_at_least(1, stride=stride)
    least = (size - 1) * stride - _both_ends(padding) + kernel_span(kernel, dilation)
    most = least + max(stride, dilation) - 1
    if not least <= target <= most:
        raise ValueError(
            f"target={target} cannot be reached from {size} with kernel={kernel}, stride={stride}, "
            f"padding={padding}, dilation={dilation}; the sizes are {least} to {most}"
        )
    return target - least


def has_checkerboard(kernel: int, stride: int) -> bool:
    """Whether a transposed convolution's windows overlap unevenly, in a checkerboard pattern.

    They do if the stride does not divide the kernel (Odena et al. 2016,
    https://distill.pub/2016/deconv-checkerboard).

    Raises:
        ValueError: a kernel or stride below 1.
    """
    check_at_least(1, kernel=kernel, stride=stride)
    return kernel % stride != 0


def check_at_least(least: int, **values: int) -> None:
    """Raise ValueError for the first of the named `values` that is below `least`."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value}; it must be at least {least}")


def _both_ends(padding: Ends) -> int:
    before, after = (padding, padding) if isinstance(padding, int) else padding
    check_at_least(0, padding=min(before, after))
    return before + after
