"""One HTML file about convolutions: figures with a few sentences each, and a network that computes.

Nothing is loaded from elsewhere: figures, weights and the image are inside the file.
"""

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
        "What a kernel finds",
        "A kernel of 3x3 weights slides over the image; at every position the nine pixels under it "
        "are multiplied by its weights and summed. Red is above 0, blue below: an edge kernel "
        "gives red at its own edge and blue at the opposite one. The weights of straight edges "
        "sum to 0, so a uniform area gives 0; those of the diagonals sum to 1, so it gives a "
        "little.",
    ),
    "im2col": (
        "A convolution is a matrix product",
        "im2col writes every window as a column; then the whole convolution is one product, the "
        "kernel as a row times that matrix. With strides the matrix is only a view of the image: "
        "a letter that is in four windows is read four times and stored once.",
    ),
    "padding-and-stride": (
        "Padding, stride, dilation",
        "The first position of the kernel is blue, the second orange; the dots are the centres of "
        "all positions, one output each. Padding by half a kernel keeps the size, which is why "
        "kernels are odd: an even one has no middle pixel. Stride 2 skips every other position "
        "and halves the size; dilation reads every other pixel and covers a larger field with as "
        "many weights.",
    ),
    "upsampling": (
        "Back to a larger image",
        "A transposed convolution adds a kernel to the output for every pixel; its size is "
        "(in - 1) · stride - 2 · padding + dilation · (kernel - 1) + output padding + 1. Here "
        "every value is 1, so each output counts its terms: unevenly where the stride does not "
        "divide the kernel, which gives a checkerboard. Repeating pixels and then convolving, as "
        "the lesson does, gives every pixel the same number of terms.",
    ),
    "receptive-fields": (
        "The receptive field of an activation",
        "The pixels that the middle activation of each layer depends on, all others faded. Each "
        "layer adds a window of the one below, and each stride of 2 doubles the step between "
        "neighbours, so the field more than doubles from layer to layer.",
    ),
    "effective-fields": (
        "The effective receptive field",
        "Not all pixels of a receptive field count the same: the middle is in most windows. Darker "
        "pixels change the middle activation of the layer more, on average over {averaged} images "
        "(Luo et al. 2016, arXiv:1701.04128). Above before training, below after it.",
    ),
    "learnt-filters": (
        "What the network learnt",
        "The learnt kernels of the first layer, and their outputs behind the ReLU. Compare them "
        "with the edges at the top of this page.",
    ),
    "strongest-patches": (
        "What a second layer responds to",
        "For filters of the second layer, the patches of images with the largest activations, the "
        "largest of {searched} images first. A patch is as large as the receptive field: filters "
        "of filters respond to corners, textures and outlines.",
    ),
}
"""Title and text of each section, by name."""
AVERAGED = 64
"""How many images an effective receptive field is averaged over."""


class Section(NamedTuple):
    """A figure under a title and some sentences."""

    name: str
    """Of the figure's file."""
    title: str
    text: str
    figure: "Figure"


def sections(
    images: Tensor, names: Sequence[str], many: Tensor, untrained: nn.Module, trained: nn.Module
) -> list[Section]:
    """Every step from a kernel to what a network learns, in the order of the lesson.

    `images` are a few `[N, C, H, W]` with their `names`; averages are taken and largest
    activations looked up in `many`, some hundreds.

    Raises:
        ValueError: see `stages_of`.
    """
    averaged = many[:AVERAGED]
    drawn = {
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
        Section(name, title, text.format(**counts), drawn[name])
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
    """Write the page; the figures are read from `<name>.png` beside it.

    `title`, `lead` and the class names are plain text; the network of the page begins with
    `image`, `[C, H, W]` in [0, 1].

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
    """The weights and sizes that the page computes with, in plain types.

    Raises:
        ValueError: see `stages_of`, or class names that are not one for each output.
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
