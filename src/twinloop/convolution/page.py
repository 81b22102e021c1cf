"""One HTML file about convolutions: figures with a few sentences each, and a network that computes.

Nothing is loaded from elsewhere: figures, weights and the picture are inside the file.
"""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from twinloop.convolution import figures
from twinloop.convolution.stages import stages_of
from twinloop.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("page.html")


class Section(NamedTuple):
    """A figure, under a title and some sentences."""

    name: str
    """Of the figure's file."""
    title: str
    text: str
    figure: "Figure"


def sections(
    images: Tensor,
    names: Sequence[str],
    many: Tensor,
    untrained: nn.Module,
    trained: nn.Module,
) -> list[Section]:
    """Every step from a kernel to what a network learns, in the order of the lesson.

    `images` are a few pictures `[N, C, H, W]` with their `names`, `many` are some hundreds for
    which averages are taken and strongest answers looked up.

    Raises:
        ValueError: see `stages_of`.
    """
    return [
        Section(
            "kernels",
            "What a kernel finds",
            "A kernel of 3x3 numbers slides over the picture; at every place the nine pixels under "
            "it are multiplied by its numbers and added up. Red is above 0, blue below: an edge "
            "kernel answers red where its edge is and blue where the opposite one is. The numbers "
            "of straight edges add up to 0, so a plain area answers nothing; those of the "
            "diagonals add up to 1, so it answers a little.",
            figures.kernel_responses(images, names),
        ),
        Section(
            "im2col",
            "A convolution is a matrix product",
            "im2col writes every window as a column; then the whole convolution is one product, "
            "the kernel as a row times that matrix. By strides the matrix is only a way of "
            "looking at the picture: a letter that is in four windows is read four times and "
            "stored once.",
            figures.im2col_matrix(),
        ),
        Section(
            "padding-and-stride",
            "Padding, stride, dilation",
            "The first place where the kernel is put down is blue, the second orange; the dots "
            "are the middles of all places, one output each. Padding by half a kernel keeps the "
            "size, which is why kernels are odd: an even one has no middle pixel. Stride 2 skips "
            "every other place and halves the size; dilation reads every other pixel and sees "
            "further with as many numbers.",
            figures.padding_and_stride(),
        ),
        Section(
            "upsampling",
            "Back to a larger picture",
            "A transposed convolution puts a kernel down for every pixel; its size is (in - 1) · "
            "stride - 2 · padding + dilation · (kernel - 1) + output padding + 1. Here everything "
            "is 1, so the numbers count how many sums a pixel gets: unevenly where the stride "
            "does not divide the kernel, which draws a checkerboard. Repeating pixels and then "
            "convolving, as the lesson does, gives every pixel the same.",
            figures.upsamplings(),
        ),
        Section(
            "receptive-fields",
            "What an activation sees",
            "The pixels that the middle activation of each layer is made from, all others faded. "
            "Each layer adds a window of the one below, and each stride of 2 doubles the step "
            "between neighbours, so the field more than doubles from layer to layer.",
            figures.receptive_fields(trained, images[min(3, len(images) - 1)]),
        ),
        Section(
            "effective-fields",
            "What it really looks at",
            "Not all pixels of a receptive field count the same: the middle is in most windows. "
            "Darker pixels move the middle activation of the layer more, on average over "
            f"{len(many[:64])} pictures (Luo et al. 2016, arXiv:1701.04128). Above before "
            "training, below after it.",
            figures.effective_fields({"untrained": untrained, "trained": trained}, many[:64]),
        ),
        Section(
            "learnt-filters",
            "What the network learnt",
            "The kernels of the first layer, which nobody drew, and what is left of their answers "
            "behind the ReLU. Compare them with the edges at the top of this page.",
            figures.learnt_filters(trained, images, names),
        ),
        Section(
            "strongest-patches",
            "What a second layer responds to",
            "For filters of the second layer, the patches of pictures that they answer most to, "
            f"the strongest of {len(many)} pictures first. A patch is as large as the receptive "
            "field: filters of filters answer to corners, textures and outlines.",
            figures.strongest_patches(trained, many),
        ),
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

    `title` and `lead` are plain text, as are the class names; `image` is one `[C, H, W]`, pixels
    in [0, 1], that the network of the page starts from.

    Raises:
        ValueError: see `network_data`.
    """
    drawn = "\n".join(_section(part, path.with_name(f"{part.name}.png")) for part in parts)
    # Within a script, only this character could end it.
    data = json.dumps(network_data(model, image, class_names)).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    for mark, text in {
        "@TITLE@": html.escape(title),
        "@LEAD@": html.escape(lead),
        "@SECTIONS@": drawn,
        "@DATA@": data,
    }.items():
        before, found, after = page.partition(mark)
        assert found, mark
        page = before + text + after
    with written_whole(path) as part_path:
        part_path.write_text(page, encoding="utf-8")


def network_data(model: nn.Module, image: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """The numbers that the page computes with, in plain types.

    Raises:
        ValueError: a model that is no chain of plain convolutions, or class names that are not
            one for each of its outputs.
    """
    stages = stages_of(model, image)
    if len(class_names) != len(stages[-1].bias):
        raise ValueError(
            f"{len(class_names)} class names for {len(stages[-1].bias)} outputs; "
            "there must be one for each"
        )
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


def _section(section: Section, picture: Path) -> str:
    encoded = base64.b64encode(picture.read_bytes()).decode("ascii")
    title, text = html.escape(section.title), html.escape(section.text)
    return (
        f'<section>\n<h2 id="{html.escape(section.name)}">{title}</h2>\n<p>{text}</p>\n'
        f'<figure><img src="data:image/png;base64,{encoded}" alt="{title}"></figure>\n</section>'
    )
