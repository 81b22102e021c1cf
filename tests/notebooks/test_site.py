"""The site of the notebooks: it fits, works from files without a network, and can be searched."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages; to save time, only the first notebook is run."""
    folder, made = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("convolutions")
    (made / "convolutions.html").write_text("<!doctype html><title>page</title>")
    (made / "convolutions.xlsx").write_bytes(b"workbook")
    command = ["notebooks/build.py", str(folder), "--convolutions", str(made), "--run", "01*"]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_page_has_what_a_notebook_prints_and_draws_and_hides_the_solution(site: Path) -> None:
    page = (site / "notebooks" / "01_kernel.html").read_text()
    assert "[0, 0, 4, 4, 0, 0, -4, -4, 0, 0]" in page
    assert page.count("<img ") >= 3
    (hidden,) = re.findall(r'<details class="[^"]*hide[^>]*>(.*?)</details>', page, re.DOTALL)
    assert "Solution" in hidden
    assert "gy" in hidden  # of the solved function, and not of the exercise
    assert (site / "src" / "twinloop" / "convolution" / "kernels.html").is_file()
    links = re.findall(r'href="(\.\./lightning_logs/[^"]+)"', page)
    assert links
    assert all((site / "notebooks" / link).is_file() for link in links)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_asks_nothing_of_the_network(
    site: Path, chromium: "Browser", width: int, scheme: str
) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page, faults = context.new_page(), list[str]()
    page.on("console", lambda message: faults.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    page.on("request", lambda asked: faults.extend([asked.url] * asked.url.startswith("http")))
    pages = [site / "index.html", *sorted((site / "notebooks").glob("*.html"))]
    assert len(pages) == 18
    for path in pages:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width, path
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(red) > 127) == (scheme == "light")
    context.close()
    assert not faults


def test_search_finds_a_term(site: Path, chromium: "Browser") -> None:
    page = chromium.new_page()
    page.goto((site / "index.html").as_uri())
    page.get_by_placeholder("Search").first.fill("receptive field")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").all_inner_texts()
    page.close()
    assert "4. What a pixel sees" in found
