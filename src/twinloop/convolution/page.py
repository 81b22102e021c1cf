"""A self-contained HTML page about convolutions: figures with text, and an interactive network."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor, nn

from twinloop.convolution import figures
from twinloop.convolution.stages import check_class_names, stages_of
from twinloop.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXTS = {
    "kernels": (
        "What a kernel detects",
        "A kernel of 3x3 weights slides over the image; at every position the nine pixels under it "
        "are multiplied by its weights and summed. Red is above 0, blue below: the response of an "
        "edge kernel is positive at its own edge and negative at the opposite one. The weights of "
        "straight edges sum to 0, so the response to a uniform area is 0; those of the diagonals "
        "sum to 1, so there it is small but not 0.",
    ),
    "im2col": (
        "A convolution is a matrix product",
        "im2col writes every window as a column, and the convolution is the product of the kernel "
        "as a row and that matrix. As a strided view of the image, the matrix stores a pixel once "
        "even if it is in four windows.",
    ),
    "padding-and-stride": (
        "Padding, stride, dilation",
        "The first position of the kernel is blue, the second orange; the dots are the centres of "
        "all positions, one output each. Padding by half a kernel keeps the size, which is why "
        "kernels are odd: an even one has no middle pixel. Stride 2 skips every other position "
        "and halves the size; dilation 2 reads every other pixel, so that as many weights cover a "
        "larger window.",
    ),
    "upsampling": (
        "Upsampling",
        "A transposed convolution adds every pixel times the kernel to the output, whose size is "
        "(in - 1) · stride - 2 · padding + dilation · (kernel - 1) + output padding + 1. Here "
        "every value is 1, so each output counts its terms: unevenly if the stride does not "
        "divide the kernel, which causes a checkerboard pattern. With repeated pixels and a "
        "convolution, as in the lesson, every output inside has the same number of terms.",
    ),
    "receptive-fields": (
        "The receptive field of an activation",
        "The pixels that the middle activation of each layer depends on; others are faded. Each "
        "layer adds a window of the previous one, and each stride of 2 doubles the distance of "
        "neighbours, so the field more than doubles from layer to layer.",
    ),
    "effective-fields": (
        "The effective receptive field",
        "The pixels of a receptive field do not all have the same influence: the middle is in most "
        "windows. Darker pixels change the middle activation of the layer more, averaged over "
        "{averaged} images (Luo et al. 2016, arXiv:1701.04128). Top: before training; bottom: "
        "after it.",
    ),
    "learnt-filters": (
        "Learnt filters",
        "The learnt kernels of the first layer, and their outputs after the ReLU. Compare them "
        "with the edge kernels above.",
    ),
    "strongest-patches": (
        "What the second layer responds to",
        "For filters of the second layer, the image patches with the largest activations among "
        "{searched} images, largest first. A patch has the size of the receptive field. These "
        "filters respond to corners, textures and outlines.",
    ),
}
"""Title and text of each section, by name."""
AVERAGED = 64
"""Number of images over which an effective receptive field is averaged."""


class Section(NamedTuple):
    """A figure with a title and a text."""

    name: str
    """The name of the figure's file, without its suffix."""
    title: str
    text: str
    figure: "Figure"


def sections(
    images: Tensor, names: Sequence[str], many: Tensor, untrained: nn.Module, trained: nn.Module
) -> list[Section]:
    """The sections from a kernel to what a network learns, in the order of the lesson.

    Args:
        images: A few images to show, `[N, C, H, W]`.
        names: Their names.
        many: Hundreds of images, to average over and to search for the largest activations.
        untrained: The network before training.
        trained: The network after training.

    Raises:
        ValueError: see `stages_of`.
    """
    averaged = many[:AVERAGED]
    drawings = {
        "kernels": figures.kernel_responses(images, names),
        "im2col": figures.im2col_matrix(),
        "padding-and-stride": figures.padding_and_stride(),
        "upsampling": figures.upsamplings(),
        "receptive-fields": figures.receptive_fields(trained, images[:4][-1]),
        "effective-fields": figures.effective_fields(
            {"untrained": untrained, "trained": trained}, averaged
        ),
        "learnt-filters": figures.learnt_filters(trained, images, names),
        "strongest-patches": figures.strongest_patches(trained, many),
    }
    counts = {"averaged": len(averaged), "searched": len(many)}
    return [
        Section(name, title, text.format(**counts), drawings[name])
        for name, (title, text) in TEXTS.items()
    ]


def write(
    path: Path,
    parts: Sequence[Section],
    *,
    title: str,
    lead: str,
    model: nn.Module,
    image: Tensor,
    class_names: Sequence[str],
) -> None:
    """Write the page with the figures in `<name>.png` beside it.

    `title`, `lead` and the class names are plain text, which is escaped; `image` `[C, H, W]`, in
    [0, 1], is the first input of the interactive network.

    Raises:
        ValueError: see `network_data`.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = pages.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=parts,
        images={
            part.name: base64.b64encode(path.with_name(f"{part.name}.png").read_bytes()).decode()
            for part in parts
        },
        data=network_data(model, image, class_names),
    )
    with atomic_write(path) as part_path:
        part_path.write_text(page, encoding="utf-8")


def network_data(model: nn.Module, image: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """The weights and sizes of the interactive network, in plain types.

    Raises:
        ValueError: see `stages_of` and `check_class_names`.
    """
    stages = stages_of(model, image)
    check_class_names(class_names, stages[-1])
    return {
        "classes": list(class_names),
        "image": image.detach().double().cpu().tolist(),
        "layers": [
            {
                "name": stage.name,
                "size": list(stage.activations.shape[1:]),
                "stride": stage.stride,
                "padding": stage.padding,
                "relu": stage.relu,
                "weight": stage.weight.tolist(),
                "bias": stage.bias.tolist(),
            }
            for stage in stages
        ],
    }
