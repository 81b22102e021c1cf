"""What every test shares: one cache of decoded digits, and no trace left behind.

PyTorch is imported inside the fixtures: the process that starts the workers has no need of it.
"""

import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from twinloop.data.datamodule import ImageDataModule

# Folders of the tests' own, and never the Hub: `datasets` reads these when a test first imports it.
# Workers share those of the process that has started them, so that data is decoded once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHES = tempfile.TemporaryDirectory(prefix="twinloop-tests-")
    os.environ["TWINLOOP_CACHE"] = f"{CACHES.name}/cache"
    os.environ["HF_HOME"] = f"{CACHES.name}/huggingface"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TWINLOOP_LOCAL"] = ""  # no settings of the machine that the tests run on

CHROMIUM = Path("/usr/bin/chromium")
LIBRARIES = ("CUBLAS_", "KMP_", "PL_", "PYTEST_", "PYTORCH_", "TORCHINDUCTOR_")
"""Variables that OpenMP, Lightning (for a seed, for determinism), pytest and torch set."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and so has a timeout of its own: the others fill up the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def pytest_collection_finish() -> None:
    """Exempt all modules and tests, a million objects, from every later garbage collection."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests that run side by side would each wait for the threads of all others."""
    import torch

    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Fix the seed; fail a test that leaves a thread, a variable or a changed default behind."""
    import torch

    torch.manual_seed(0)
    variables = dict(os.environ)
    threads = set(threading.enumerate())
    dtype = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    left = [t for t in set(threading.enumerate()) - threads if not t.daemon]
    assert not left, f"threads left behind: {left}"
    new = {
        name: value
        for name, value in os.environ.items()
        if variables.get(name) != value and not name.startswith(LIBRARIES)
    }
    assert not new, f"variables left behind: {new}"
    assert torch.get_default_dtype() == dtype
    assert torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Commands write no figures and no TensorBoard images, which have tests of their own."""
    from tests.commands import make_quick  # which an experiment's own test does not have

    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        yield


@pytest.fixture(scope="session")
def digits() -> "ImageDataModule":
    """scikit-learn's digits: 8x8, grey, ten classes."""
    from twinloop.data.datamodule import ImageDataModule

    return ImageDataModule("digits", batch_size=64)


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The folder of the real data that DATA names; tests that need it carry the marker `data`."""
    named = os.environ.get("DATA") or "auto"  # what make exports where nobody says
    if named == "auto":
        pytest.skip("DATA names no folder; pass DATA=FOLDER with Fashion-MNIST in Hub layout")
    folder = Path(named).expanduser()
    assert folder.is_dir(), f"DATA={named} is no folder"
    return folder.resolve()


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """Debian's Chromium without a window; tests that open a page carry the marker `browser`."""
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM} (Debian's package chromium)")
    from playwright.sync_api import sync_playwright

    quiet = [f"--disable-{what}" for what in ("background-networking", "component-update", "sync")]
    options = ["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=options)
        yield browser
        browser.close()
