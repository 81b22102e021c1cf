"""The real TensorBoard, in a browser, on a run of each loop."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from twinloop.cli import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RESULTS = {"autoencoder": "val/mse", "classifier": "val/accuracy"}
LOOPS = ("homemade", "lightning")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short epochs of each experiment in each loop."""
    folder = tmp_path_factory.mktemp("logs")
    for name in RESULTS:
        for loop in LOOPS:
            config, run = EXPERIMENTS / f"{name}.yaml", folder / name / loop
            where = ["--config", str(config), "--run", str(run), "--data.source", "digits"]
            short = ["--trainer.max_epochs", "3", "--trainer.limit_train_batches", "5"]
            assert main(["fit", *where, *short, "--loop", loop]) == 0
    return folder


@pytest.fixture(scope="module")
def address(logs: Path) -> Iterator[str]:
    """A TensorBoard that has found everything; it looks for projector data some seconds later."""
    command = [str(Path(sys.executable).with_name("tensorboard")), "--logdir", str(logs)]
    with subprocess.Popen(
        [*command, "--host", "localhost", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            lines = (re.search(r"http://localhost:\d+/", line) for line in server.stdout)
            address = next(match[0] for match in lines if match)
            patience = time.monotonic() + 120
            while not active(address, "projector"):
                assert time.monotonic() < patience, "TensorBoard finds no codes to project"
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def active(address: str, plugin: str) -> bool:
    with urllib.request.urlopen(f"{address}data/plugins_listing") as answer:
        return bool(json.load(answer)[plugin]["enabled"])


@pytest.fixture(scope="module")
def tab(chromium: "Browser") -> Iterator["Page"]:
    """A tab in which no error, of a script or a request, may be reported."""
    errors: list[str] = []
    tab = chromium.new_page(viewport={"width": 2400, "height": 1200})
    tab.set_default_timeout(30_000)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield tab
    assert errors == []


def final(logs: Path, name: str) -> float:
    """The last value of an experiment's result on val, the same in both loops."""
    values = set()
    for loop in LOOPS:
        results = json.loads((logs / name / loop / "results.json").read_text())
        values.add(results["history"][-1][RESULTS[name]])
    (value,) = values
    return float(value)


@pytest.mark.browser
@pytest.mark.parametrize("name", RESULTS)
def test_curves_of_both_loops_overlay(name: str, tab: "Page", address: str, logs: Path) -> None:
    tab.goto(f"{address}?tagFilter=%5E{RESULTS[name].replace('/', '%2F')}%24#timeseries")
    rows = tab.locator("scalar-card tb-data-table-content-row")
    rows.nth(1).wait_for()
    assert tab.locator("scalar-card").count() == 1
    # Run, smoothed, value, step, time since the start.
    shown = [row.split()[:4] for row in rows.all_inner_texts()]
    assert [row[0] for row in shown] == [f"{name}/{loop}" for loop in LOOPS]
    assert shown[0][1:] == shown[1][1:]
    assert float(shown[0][2]) == pytest.approx(final(logs, name), abs=5e-4)
    assert shown[0][3] == "14"


@pytest.mark.browser
def test_reconstructions_of_both_loops_are_there_and_the_same(tab: "Page", address: str) -> None:
    tab.goto(f"{address}?tagFilter=%5Eval%2Freconstructions%24#timeseries")
    images = tab.locator("image-card img")
    images.nth(1).wait_for()
    cards = tab.locator("image-card").all_inner_texts()
    assert [f"autoencoder/{loop}" in card for loop, card in zip(LOOPS, cards, strict=True)]
    sources = [image.get_attribute("src") for image in images.all()]
    one, other = (tab.request.get(f"{address.rstrip('/')}/{s}").body() for s in sources if s)
    assert one == other
    assert one.startswith(b"\x89PNG")


@pytest.mark.browser
def test_the_table_has_settings_and_results_of_all_runs(
    tab: "Page", address: str, logs: Path
) -> None:
    tab.goto(f"{address}?#hparams")
    table = tab.locator("tf-hparams-table-view")
    for name in RESULTS:
        for loop in LOOPS:
            table.get_by_text(f"{name}/{loop}").wait_for()
    texts = table.locator("vaadin-grid-cell-content").all_inner_texts()
    # What differs between the runs comes first, by the names of the command line.
    assert {"experiment", "loop", "data.batch_size", "model", "model.network"} <= set(texts)
    assert not {"epoch", "record", "run_folder", "model.optimizer.differentiable"} & set(texts)
    # Results come first among the five metrics that it opens with.
    width = texts.index("hp/test_accuracy") + 5
    results = ["hp/test_accuracy", "hp/test_loss", "hp/test_mse", "hp/val_accuracy", "hp/val_mse"]
    assert texts[width - 5 : width] == results
    # Cells follow each other row by row, and an empty one for details is somewhere in each.
    for name in RESULTS:
        for loop in LOOPS:
            row = texts[texts.index(f"{name}/{loop}") :][: width + 1]
            numbers = [float(text) for text in row if re.fullmatch(r"[\d.e-]+", text)]
            assert pytest.approx(final(logs, name), rel=1e-3) in numbers


@pytest.mark.browser
def test_the_projector_has_the_codes_of_both_loops(tab: "Page", address: str) -> None:
    with tab.expect_event("framenavigated", lambda frame: "projector_binary" in frame.url) as found:
        tab.goto(f"{address}?x#projector")
    projector = found.value
    projector.locator(".numDataPoints", has_text="300").first.wait_for()
    projector.get_by_text("300x32").wait_for(state="attached")
    projector.get_by_text("2 runs found").wait_for()
    for loop in LOOPS:
        projector.locator("paper-item", has_text=f"autoencoder/{loop}").wait_for(state="attached")
