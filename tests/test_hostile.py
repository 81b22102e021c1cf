"""Files made to run code, to write elsewhere or to mislead: a canary shows that they fail."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from twinloop.cli import main
from twinloop.comparison import report
from twinloop.learner.callbacks.trace import Traced
from twinloop.runs.record import Record
from twinloop.runs.timings import EventTimings, write_timings

TOP = Path(__file__).parent.parent
MLP = str(TOP / "experiments" / "mlp.yaml")
DIGITS = ("--data.source", "digits")
FEW = ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3", "--model.schedule=null")


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoints the tests begin from."""
    folder = tmp_path_factory.mktemp("trained")
    logs = ["--trainer.default_root_dir", str(folder)]
    assert main(["fit", "--config", MLP, *DIGITS, *FEW, *logs]) == 0
    return folder / "lightning_logs" / "mlp" / "version_0-digits"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A user's own image."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (8, 8), 77).save(folder / "grey.png")
    return folder


def reading(command: str, checkpoint: Path, run: Path, images: Path) -> list[str]:
    """A command that reads `checkpoint`, of those that can."""
    config = ["--config", MLP]
    if command == "compare":
        logs = ["--trainer.default_root_dir", str(run.parents[2])]
        return ["compare", *config, *logs, "--against", str(checkpoint)]
    options = [*DIGITS, "--ckpt_path", str(checkpoint), "--trainer.fast_dev_run", "1"]
    if command in ("lightning", "homemade"):
        return ["fit", *config, *options, "--model.schedule=null", "--loop", command]
    if command == "predict":
        options += ["--data.images", str(images)]
    return [command, *config, *options]


READERS = ("lightning", "homemade", "test", "validate", "predict", "compare")
PLACES: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "among the weights": lambda c, canary: c["state_dict"].update(more=canary),
    "in the optimiser": lambda c, canary: c["optimizer_states"][0]["state"][0].update(step=canary),
    "in the loops": lambda c, canary: c["loops"]["fit_loop"]["epoch_progress"].update(
        a={1: canary}
    ),
    "in hyperparameters": lambda c, canary: c.update(hyper_parameters={"a": [{"b": (canary,)}]}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", READERS)
def test_a_checkpoint_that_would_run_code_is_refused(
    command: str,
    place: str,
    run: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt")
    PLACES[place](checkpoint, Canary(tmp_path / "ran"))
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
@pytest.mark.parametrize("command", READERS)
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


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [ran]", "!!python/name:os.mkdir"])
@pytest.mark.parametrize("command", ["fit", "test", "summary", "compare"])
def test_a_yaml_that_names_python_is_refused(
    command: str, tag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(f"{Path(MLP).read_text()}run: {tag}\n")
    with chdir(tmp_path):
        assert main([command, "--config", str(path), *DIGITS]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {path}, line 24: invalid YAML: [^\n]+\n", error), error
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.yaml"]


def test_a_data_folder_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    apply = "!!python/object/apply:os.mkdir"
    metadata = {
        "README.md": f"---\ndataset_info: {apply} ['{tmp_path}/ran']\n---\n",
        "dataset_infos.json": json.dumps({"default": {"builder_name": "fashion_mnist"}}),
    }
    for name in ("fashion_mnist.py", "setup.py", "__init__.py", *metadata):
        folder = tmp_path / name / "fashion_mnist"
        for number in range(12):
            path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), number).save(path)
        (folder / name).write_text(metadata.get(name, script))
        short = ["--trainer.fast_dev_run", "1", "--data.val_size", "2"]
        status = main(["fit", "--config", MLP, "--data.source", str(folder), *short])
        error = capsys.readouterr().err
        assert status in (0, 2), name
        assert (status == 0) == (error == ""), name
        assert status == 0 or re.fullmatch(
            rf"error: data.source: cannot read {folder}: .+\n", error
        )
        assert not (tmp_path / "ran").exists(), name


NAMES = ("</script><img src=x onerror=alert(1)>", "=1+1", "[/red]", "$\\frac$", "two\nlines", "猫")


class Tags(HTMLParser):
    """Collects every tag with its attributes, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, set[str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag and what its attributes are called."""
        self.tags.append((tag, {name for name, _ in attrs}))

    def handle_data(self, data: str) -> None:
        """Keep what is no tag."""
        self.text += data


@pytest.mark.parametrize("loop", ["lightning", pytest.param("homemade", marks=pytest.mark.slow)])
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
    command = ["--config", MLP, "--data.source", str(folder), "--data.val_size", "2"]
    command += ["--trainer.default_root_dir", str(tmp_path), "--experiment", "my [red] $x$ <b>"]
    assert main(["fit", *command, *FEW, "--loop", loop]) == 0
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


def test_the_page_of_a_comparison_takes_names_as_text(tmp_path: Path) -> None:
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
    tags = Tags()
    tags.feed(report.page(comparison, tmp_path / "lightning", tmp_path / "homemade"))
    assert tags.text.count(hostile) == 12
    assert {tag for tag, _ in tags.tags}.isdisjoint({"script", "iframe"})
    assert all("onerror" not in names for _, names in tags.tags)
    assert {frozenset(names) for tag, names in tags.tags if tag == "img"} == {
        frozenset(["alt", "src"])
    }


EXPERIMENTS = ("../../out", "/out", "..", ".hidden", "", "a\nb", "-x", "a/b", "x" * 101)


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("command", ["fit", "test", "summary", "compare"])
def test_an_experiment_whose_name_leads_elsewhere_is_refused(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "inside" / "hostile.yaml"
    path.parent.mkdir()
    text = Path(MLP).read_text().replace("experiment: mlp", f"experiment: {json.dumps(name)}")
    path.write_text(text)
    with chdir(path.parent):
        assert main([command, "--config", str(path), *DIGITS]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {path}: experiment is .+ is not a valid[^\n]+\n", error), error
    assert [file.name for file in tmp_path.rglob("*")] == ["inside", "hostile.yaml"]


@pytest.mark.parametrize(
    "mask", [0o002, *(pytest.param(m, marks=pytest.mark.slow) for m in (0o022, 0o077))]
)
@pytest.mark.parametrize("loop", ["homemade", pytest.param("lightning", marks=pytest.mark.slow)])
def test_files_may_be_read_by_whom_the_umask_lets(
    loop: str, mask: int, images: Path, tmp_path: Path
) -> None:
    logs = ["--trainer.default_root_dir", str(tmp_path / "out")]
    cache = ["--data.cache_dir", str(tmp_path / "out" / "cache")]
    command = ["--config", MLP, *DIGITS, *logs, *cache]
    before = os.umask(mask)
    try:
        assert main(["fit", *command, *FEW, "--loop", loop, "--record", "all"]) == 0
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


@pytest.mark.slow
def test_tensorboard_listens_to_this_machine_only(tmp_path: Path) -> None:
    make = ["make", "--dry-run", "--always-make", "-C", str(TOP), f"LOGS={tmp_path}", "tensorboard"]
    recipe = subprocess.run(make, capture_output=True, text=True, check=True).stdout
    (command,) = re.findall(r"^\S*/tensorboard (.+)$", recipe, re.MULTILINE)
    executable = Path(sys.executable).with_name("tensorboard")
    with subprocess.Popen(
        [executable, *command.split(), "--port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            found = None
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"http://localhost:(\d+)/", line):
                    break
            assert found
            port = int(found[1])
            listening = listeners(port)
        finally:
            process.terminate()
    assert listening
    # 127.0.0.1 as /proc has it; ::1 where the machine has it.
    assert set(listening) <= {"0100007F", "00000000000000000000000001000000"}


def listeners(port: int) -> list[str]:
    """The addresses that something listens on at `port`."""
    time.sleep(0.1)
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            for line in Path(table).read_text().splitlines()[1:]:
                address, _, at = line.split()[1].partition(":")
                if line.split()[3] == "0A" and int(at, 16) == port:
                    found.append(address)
    return found
