"""The page holds the real numbers, escapes what others wrote, and computes in a browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from twinloop.convolution import page
from twinloop.convolution.receptive_field import by_arithmetic
from twinloop.convolution.stages import stages_of
from twinloop.models import LessonClassifier

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = '</script><img src=x onerror="document.title=1">&amp;'
NAMES = [HOSTILE, *(f"class {n}" for n in range(1, 10))]
SHAPE = (1, 28, 28)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LessonClassifier(SHAPE, 10)


def random_image() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, SHAPE, generator=generator).float() / 255


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from matplotlib.figure import Figure

    folder = tmp_path_factory.mktemp("page")
    Figure(figsize=(1, 1)).savefig(folder / "kernels.png")
    section = page.Section("kernels", "What a kernel <finds>", "Edges & corners.", Figure())
    page.write(
        folder / "page.html",
        [section],
        title="Convolutions <by hand>",
        lead="A lead & more.",
        model=network(),
        image=random_image(),
        class_names=NAMES,
    )
    return folder / "page.html"


def test_the_page_is_self_contained_and_escaped(written: Path) -> None:
    text = written.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<title>Convolutions &lt;by hand&gt;</title>" in text
    assert "What a kernel &lt;finds&gt;" in text
    assert "A lead &amp; more." in text
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert not re.findall(r"@[A-Z]+@", text)
    # Written under a temporary name first, of which nothing is left.
    assert {path.name for path in written.parent.iterdir()} == {"kernels.png", "page.html"}


def test_the_page_contains_the_image_and_the_weights(written: Path) -> None:
    match = re.search(r'id="data">(.*?)</script>', written.read_text(), re.DOTALL)
    assert match
    data = json.loads(match[1])
    assert data["classes"] == NAMES
    assert torch.equal(torch.tensor(data["image"]), random_image())
    weights = [weight for weight in network().state_dict().values() if weight.ndim == 4]
    assert len(data["layers"]) == len(weights) == 5
    for layer, weight in zip(data["layers"], weights, strict=True):
        assert torch.equal(torch.tensor(layer["weight"]), weight)


def test_class_names_must_fit() -> None:
    with pytest.raises(ValueError, match="2 class names for 10 outputs"):
        page.network_data(network(), random_image(), ["a", "b"])


@pytest.fixture(scope="module")
def tab(chromium: "Browser") -> Iterator["Page"]:
    """A tab without a network; no page may complain of anything."""
    complaints: list[str] = []
    context = chromium.new_context(
        offline=True, has_touch=True, viewport={"width": 1100, "height": 900}
    )
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: complaints.append(message.text))
    yield tab
    assert complaints == []


@pytest.fixture
def opened(tab: "Page", written: Path) -> "Page":
    """The page as it is at first."""
    tab.goto(written.as_uri())
    return tab


def choose(tab: "Page", layer: int, filter_: int, row: int, column: int) -> None:
    tab.click(f'svg[data-layer="{layer}"][data-filter="{filter_}"] [data-place="{row},{column}"]')


def lit(tab: "Page", layer: int = 0) -> set[tuple[int, int]]:
    """Places of one layer that have a blue frame, the same in each of its maps."""
    maps: list[list[str]] = tab.eval_on_selector_all(
        f'svg[data-layer="{layer}"]',
        "all => all.map(svg => [...svg.querySelectorAll('.lit')].map(r => r.dataset.place))",
    )
    assert all(sorted(places) == sorted(maps[0]) for places in maps)
    return {(int(y), int(x)) for y, x in (place.split(",") for place in maps[0])}


def shown(tab: "Page", layer: int) -> Tensor:
    """The numbers that stand on every activation of a layer, `[O, H' * W']`."""
    texts: Any = tab.eval_on_selector_all(
        f'svg[data-layer="{layer}"]',
        "all => all.map(svg => [...svg.children].map(r => r.textContent))",
    )
    return torch.tensor([[float(text) for text in one] for one in texts], dtype=torch.float64)


def assert_shows(tab: "Page", model: nn.Module, image: Tensor) -> None:
    """Every activation, and every probability, is PyTorch's within 1e-4."""
    for index, stage in enumerate(stages_of(model, image), start=1):
        expected = stage.activations.flatten(1)
        torch.testing.assert_close(shown(tab, index), expected, atol=1e-4, rtol=0)
    probabilities = [float(text) for text in tab.locator(".probability").all_inner_texts()]
    expected = model(image[None])[0].softmax(0)
    torch.testing.assert_close(torch.tensor(probabilities), expected, atol=1e-4, rtol=0)


@pytest.mark.browser
def test_the_numbers_shown_are_pytorchs(opened: "Page") -> None:
    assert_shows(opened, network(), random_image())
    assert opened.title() == "Convolutions <by hand>"
    assert opened.locator("#classes span").first.inner_text() == HOSTILE


@pytest.mark.browser
def test_a_click_lights_the_receptive_field_and_shows_the_sum(opened: "Page") -> None:
    model, image = network(), random_image()
    stages = stages_of(model, image)
    for index, stage in enumerate(stages, start=1):
        _, rows, columns = stage.activations.shape
        for row, column in {(0, 0), (rows // 2, columns // 2), (rows - 1, columns // 3)}:
            filter_ = (row + column) % len(stage.bias)
            choose(opened, index, filter_, row, column)
            expected = by_arithmetic(model, SHAPE, stage.layer, (row, column)).nonzero().tolist()
            assert lit(opened) == {(y, x) for y, x in expected}
            value = float(opened.inner_text("#value"))
            assert value == pytest.approx(float(stage.activations[filter_, row, column]), abs=1e-4)
            sums = [float(text) for text in opened.locator("#parts .sum").all_inner_texts()]
            total = sum(sums) + float(stage.bias[filter_])
            assert len(sums) == stage.weight.shape[1]
            made = max(total, 0.0) if stage.relu else total
            assert made == pytest.approx(value, abs=1e-4 * len(sums))
            kernel = opened.locator("#parts .part").first.locator(".grid").nth(1)
            numbers = [float(text) for text in kernel.locator("span").all_inner_texts()]
            expected_kernel = stage.weight[filter_, 0].flatten().tolist()
            assert numbers == pytest.approx(expected_kernel, abs=1e-4)


@pytest.mark.browser
def test_keys_move_through_all_layers(opened: "Page") -> None:
    choose(opened, 2, 0, 3, 3)
    opened.focus("#live")
    for key, what in [
        ("ArrowRight", "conv2, filter 1, row 4, column 5"),
        ("ArrowDown", "conv2, filter 1, row 5, column 5"),
        ("ArrowLeft", "conv2, filter 1, row 5, column 4"),
        ("ArrowUp", "conv2, filter 1, row 4, column 4"),
        ("PageDown", "conv2, filter 2, row 4, column 4"),
        ("PageUp", "conv2, filter 1, row 4, column 4"),
        ("Shift+ArrowDown", "conv3, filter 1, row 3, column 3"),
        ("Shift+ArrowUp", "conv2, filter 1, row 5, column 5"),
    ]:
        opened.keyboard.press(key)
        assert opened.inner_text("#what").startswith(what), key
    for _ in range(9):
        opened.keyboard.press("ArrowRight")
    assert "column 7," in opened.inner_text("#what")


@pytest.mark.browser
def test_touch_and_buttons_choose_an_activation(opened: "Page") -> None:
    opened.tap('svg[data-layer="1"][data-filter="2"] [data-place="5,6"]')
    assert opened.inner_text("#what").startswith("conv1, filter 3, row 6, column 7")
    opened.tap("button[data-move='0,1']")
    opened.tap("button[data-layer='1']")
    opened.tap("button[data-filter='1']")
    assert opened.inner_text("#what").startswith("conv2, filter 4, row 3, column 4")


@pytest.mark.browser
def test_the_page_of_an_rgb_network_with_uneven_strides(tab: "Page", tmp_path: Path) -> None:
    first = nn.Conv2d(3, 2, (2, 3), (2, 1), (1, 0))
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(2, 3, (5, 5)), nn.Flatten())
    image = random_image()[:, :27].view(3, 9, 28)[:, :, :7]
    path = tmp_path / "page.html"
    page.write(path, [], title="RGB", lead="", model=model, image=image, class_names="abc")
    tab.goto(path.as_uri())
    assert_shows(tab, model, image)
    choose(tab, 1, 1, 4, 2)
    expected = by_arithmetic(model, (3, 9, 7), "1", (4, 2)).nonzero().tolist()
    assert lit(tab) == {(y, x) for y, x in expected}


@pytest.mark.browser
def test_a_changed_pixel_is_computed_and_can_be_reset(opened: "Page") -> None:
    image = random_image()
    choose(opened, 0, 0, 14, 13)
    opened.locator("#pixel input").fill("0.25")
    image[0, 14, 13] = 0.25
    assert_shows(opened, network(), image)
    opened.click("#reset")
    assert_shows(opened, network(), random_image())


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_the_width_of_the_window(opened: "Page", width: int) -> None:
    before = opened.viewport_size
    opened.set_viewport_size({"width": width, "height": 800})
    choose(opened, 5, 3, 0, 0)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    parts = "(e => e.scrollWidth - e.clientWidth)(document.getElementById('parts'))"
    assert opened.evaluate(parts) == 0
    assert before
    opened.set_viewport_size(before)
