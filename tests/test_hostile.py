"""Files made to run code, to write elsewhere or to mislead, and a payload that never runs."""

import csv
import html
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import COMMAND, EXPERIMENT, SHORT, Payload, fit, run_in
from twinloop.cli import main
from twinloop.comparison import report
from twinloop.comparison.parity import LOOPS
from twinloop.learner.callbacks.trace import Traced
from twinloop.runs.record import Record
from twinloop.runs.timings import EventTimings, write_timings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoints the tests begin from."""
    folder = tmp_path_factory.mktemp("trained")
    assert fit(folder) == 0
    return run_in(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A user's own image."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (8, 8), 77).save(folder / "grey.png")
    return folder


def reading(command: str, checkpoint: Path, run: Path, images: Path) -> list[str]:
    """A command that reads `checkpoint`, of those that can."""
    if command == "compare":
        logs = ["--trainer.default_root_dir", str(run.parents[2])]
        return ["compare", "--config", EXPERIMENT, *logs, "--against", str(checkpoint)]
    if command == "export":
        return ["export", str(checkpoint)]
    options = [*COMMAND, "--ckpt_path", str(checkpoint), "--trainer.fast_dev_run", "1"]
    if command in ("lightning", "homemade"):
        return ["fit", *options, "--model.schedule=null", "--loop", command]
    return [command, *options, *(["--data.images", str(images)] * (command == "predict"))]


READERS = ("lightning", "homemade", "test", "predict", "compare", "export")
PLACES: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "among the weights": lambda c, code: c["state_dict"].update(more=code),
    "in the optimiser": lambda c, code: c["optimizer_states"][0]["state"][0].update(step=code),
    "in the loops": lambda c, code: c["loops"]["fit_loop"]["epoch_progress"].update(a={1: code}),
    "in hyperparameters": lambda c, code: c.update(hyper_parameters={"a": [{"b": (code,)}]}),
}


@pytest.mark.parametrize(
    ("command", "place"),
    [(command, "among the weights") for command in READERS]
    + [("homemade", place) for place in list(PLACES)[1:]],
)
def test_a_checkpoint_that_would_run_code_is_refused(
    command: str,
    place: str,
    run: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt")
    PLACES[place](checkpoint, Payload(tmp_path / "ran"))
    path = tmp_path / "hostile.ckpt"
    torch.save(checkpoint, path)
    assert main(reading(command, path, run, images)) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {path}: refused, because [^\n]+\n", error), error
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # the payload is one
    assert (tmp_path / "ran").is_dir()


@contextmanager
def hostile_module(folder: Path) -> Iterator[Path]:
    """A module that leaves a file where it is imported, in the folder of a command that runs."""
    (folder / "hostile_module.py").write_text(
        "open('ran', 'w').close()\n\n\nclass Task:\n    pass\n"
    )
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder / "ran"
    sys.modules.pop("hostile_module", None)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # a short run has none
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("command", ["lightning", "homemade", "predict", "compare"])
def test_hyperparameters_in_a_checkpoint_import_nothing(
    command: str, run: Path, images: Path, tmp_path: Path
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt")
    del checkpoint["settings"]  # a short run has others
    wanted = {"_class_path": "hostile_module.Task", "_instantiator": "hostile_module.Task"}
    network = {"class_path": "hostile_module.Task", "init_args": {}}
    checkpoint["hyper_parameters"] = wanted | {"network": network}
    checkpoint["datamodule_hyper_parameters"] = dict(wanted)
    path = tmp_path / "hostile.ckpt"
    torch.save(checkpoint, path)
    with hostile_module(tmp_path) as ran:
        assert main(reading(command, path, run, images)) == 0
        assert not ran.exists()


@pytest.mark.parametrize("command", ["fit", "test", "summary", "compare"])
def test_a_hostile_yaml_is_refused_and_runs_nothing(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "inside" / "hostile.yaml"
    path.parent.mkdir()
    text = Path(EXPERIMENT).read_text()
    for hostile, message in {
        f"{text}run: !!python/object/apply:os.mkdir [ran]\n": ", line 24: invalid YAML",
        text.replace(
            "experiment: mlp", "experiment: ../../out"
        ): ": experiment is .+ is not a valid",
    }.items():
        path.write_text(hostile)
        with chdir(path.parent):
            assert main([command, "--config", str(path), "--data.source", "digits"]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(rf"error: {path}{message}[^\n]+\n", error), error
        assert [file.name for file in tmp_path.rglob("*")] == ["inside", "hostile.yaml"]


@pytest.mark.slow
def test_a_data_folder_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    apply = "!!python/object/apply:os.mkdir"
    metadata = {
        "README.md": f"---\ndataset_info: {apply} ['{tmp_path}/ran']\n---\n",
        "dataset_infos.json": json.dumps({"default": {"builder_name": "fashion_mnist"}}),
    }
    for name in ("fashion_mnist.py", *metadata):
        folder = tmp_path / name / "fashion_mnist"
        for number in range(12):
            path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), number).save(path)
        (folder / name).write_text(metadata.get(name, script))
        short = ["--trainer.fast_dev_run", "1", "--data.val_size", "2"]
        status = main(["fit", "--config", EXPERIMENT, "--data.source", str(folder), *short])
        error = capsys.readouterr().err
        assert status in (0, 2), name
        assert (status == 0) == (error == ""), name
        assert status == 0 or re.fullmatch(
            rf"error: data.source: cannot read {folder}: .+\n", error
        )
        assert not (tmp_path / "ran").exists(), name


NAMES = ("</script><img src=x onerror=alert(1)>", "=1+1", "[/red]", "$\\frac$", "two\nlines", "猫")


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_classes_may_have_any_name(
    loop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    label = datasets.ClassLabel(names=list(NAMES))
    features = datasets.Features(image=datasets.Image(), label=label)
    pixels = [np.full((8, 8), 20 * number, np.uint8) for number in range(12)]
    rows = {"image": pixels, "label": [number % 6 for number in range(12)]}
    folder = tmp_path / "=2+2 $x$"
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    capsys.readouterr()  # the bar of writing it
    command = ["--config", EXPERIMENT, "--data.source", str(folder), "--data.val_size", "2"]
    command += ["--trainer.default_root_dir", str(tmp_path), "--experiment", "my [red] $x$ <b>"]
    assert main(["fit", *command, *SHORT, "--loop", loop]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert "my [red] $x$ <b> on =2+2 $x$" in printed
    run = tmp_path / "lightning_logs" / "my [red] $x$ <b>" / "version_0-=2+2 $x$"
    found = json.loads((run / "results.json").read_text())["test"]["class_accuracy"]
    shown = [*NAMES[:4], "two\\nlines", "猫"]
    assert list(found) == shown

    images = tmp_path / "=images"
    images.mkdir()
    for name in ("=1+1.png", "-2.png", "two\nlines.png", "@a.png", "plain.png"):
        Image.new("L", (8, 8), 77).save(images / name)
    assert main(["predict", *command, "--data.images", str(images)]) == 0
    assert capsys.readouterr().err == ""
    with (run / "predictions" / "=images" / "predictions.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["file", "class", shown[0], "'=1+1", *shown[2:]]
    files = ["'-2.png", "'=1+1.png", "'@a.png", "plain.png", "two\\nlines.png"]
    assert sorted(line[0] for line in lines) == files
    for line in lines:
        assert not line[1].startswith(("=", "+", "-", "@"))
        assert sum(map(float, line[2:])) == pytest.approx(1, abs=1e-4)


def test_the_page_of_a_comparison_escapes_names(tmp_path: Path) -> None:
    hostile = NAMES[0]
    for loop, event in (("lightning", "on_train_batch_start"), ("homemade", "before_batch")):
        end = {"lightning": "on_train_batch_end", "homemade": "cleanup_batch"}[loop]
        events = [Traced(name, "train", 0, 0) for name in (event, end)]
        (tmp_path / loop).mkdir()
        record = Record(steps=[{"loss": torch.tensor(1.0)}])
        write_timings(tmp_path / loop, EventTimings(events, [0.0, 1.0]), record)
    results = {
        "dataset": {"name": hostile},
        **{"machine": hostile, "device": hostile, "versions": {hostile: hostile}},
    }
    comparison = {
        **{"experiment": hostile, "command": hostile, "verdicts": {hostile: hostile}},
        "costs": {hostile: {"lightning": [1.0], "homemade": [1.0]}},
        "results": {"lightning-42": results},
    }
    page = report.page(comparison, tmp_path / "lightning", tmp_path / "homemade")
    assert page.count(html.escape(hostile)) == 12
    for tag in (hostile, "<script", "<iframe", "<img src=x"):
        assert tag not in page


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
@pytest.mark.parametrize("loop", ["homemade", "lightning"])
def test_files_have_the_permissions_of_the_umask(
    loop: str, mask: int, images: Path, tmp_path: Path
) -> None:
    logs = ["--trainer.default_root_dir", str(tmp_path / "out")]
    cache = ["--data.cache_dir", str(tmp_path / "out" / "cache")]
    command = [*COMMAND, *logs, *cache]
    before = os.umask(mask)
    try:
        short = [*SHORT, "--trainer.max_epochs", "1", "--record", "all"]
        assert main(["fit", *command, *short, "--loop", loop]) == 0
        assert main(["predict", *command, "--data.images", str(images)]) == 0
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777
        for path in (tmp_path / "out").rglob("*")
    }
    expected = {name: (0o777 if (tmp_path / name).is_dir() else 0o666) & ~mask for name in modes}
    assert modes == expected
    assert {Path(name).suffix for name in modes} >= {
        *(".ckpt", ".png", ".json", ".yaml", ".csv", ".npz", ".npy", ".pt", ".lock"),
    }
