"""The size of a convolution's output, along one axis, in pixels.

Formulas and names of Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning"
(arXiv:1603.07285), with dilation added. `padding` is one value for both ends or one for each.
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
    """Pixels from the first to the last that a kernel reads: `dilation * (kernel - 1) + 1`.

    Raises:
        ValueError: a kernel or dilation below 1.
    """
    check_at_least(1, kernel=kernel, dilation=dilation)
    return dilation * (kernel - 1) + 1


def same_padding(kernel: int, dilation: int = 1) -> int:
    """Zeros at each end that keep the size at stride 1: half of what the kernel's span adds.

    Odd kernels are easier: they have a middle pixel, so both ends get `kernel // 2` zeros and
    output i is centred on input i. The centre of an even kernel lies between two pixels: one end
    would need one zero more, and every layer would shift the image by half a pixel.

    Raises:
        ValueError: an even kernel whose span cannot be halved, or a kernel or dilation below 1.
    """
    added = kernel_span(kernel, dilation) - 1
    if added % 2:
        raise ValueError(
            f"kernel={kernel} with dilation={dilation} needs {added} zeros for the same size, and "
            "they do not split evenly; use an odd kernel, or pad each end by its own number"
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

    An input size from which a convolution of the same settings makes `size`: `padding`, of both
    ends, is subtracted here because it is added there.

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
            f"{stride} or dilation={dilation}: it chooses among sizes that a convolution rounds "
            "down to one"
        )
    if result < 1:
        raise ValueError(
            f"padding={padding} takes away more than the {unpadded} pixels there are; at least "
            "one must be left"
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
    """The output padding with which a transposed convolution makes `target` out of `size`.

    A convolution of stride s rounds s input sizes down to one, so its transpose must be told
    which of them to go back to: 13 and 14 both become 7 under kernel 3, stride 2, padding 1.

    Raises:
        ValueError: no output padding leads to `target`.
    """
    check_at_least(1, stride=stride)
    least = (size - 1) * stride - _both_ends(padding) + kernel_span(kernel, dilation)
    most = least + max(stride, dilation) - 1
    if not least <= target <= most:
        raise ValueError(
            f"target={target} cannot be made from {size} with kernel={kernel}, stride={stride}, "
            f"padding={padding}, dilation={dilation}; the sizes are {least} to {most}"
        )
    return target - least


def has_checkerboard(kernel: int, stride: int) -> bool:
    """Whether the windows of a transposed convolution overlap unevenly, in a checkerboard pattern.

    They do where the stride does not divide the kernel (Odena et al. 2016,
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
