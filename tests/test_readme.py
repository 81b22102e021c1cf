"""Every command and link of the README and of docs/ works as stated there."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from twinloop.cli import main
from twinloop.comparison.parity import experiments, table
from twinloop.data.own import OwnData

ROOT = Path(__file__).parent.parent
DOCS = (
    "commands",
    "data",
    "runs",
    "models",
    "results",
    "convolutions",
    "learner",
    "proof",
    "own-experiments",
    "optimisers",
    "sweeps",
    "projects",
    "loggers",
    "own-data",
)
"""The pages of docs/, in the order in which the README links to them."""
PAGES = {
    path: (ROOT / path).read_text()
    for path in ("README.md", *(f"docs/{name}.md" for name in DOCS), "CONTRIBUTING.md")
}
LINKED = PAGES | {
    path: (ROOT / path).read_text() for path in ("benchmarks/README.md", "notebooks/README.md")
}
"""Pages whose links are followed."""
COMMANDS = list(
    dict.fromkeys(
        line.partition("#")[0].strip()
        for text in PAGES.values()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    )
)
MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", "".join(PAGES.values()), re.DOTALL))
"""The Python of the pages, by the name of the file that each block begins with."""
CLASSIFIER = "-m twinloop fit --config experiments/classifier.yaml"
ELSEWHERE = {
    f".venv/bin/python {CLASSIFIER} --trainer.accelerator gpu "
    "--trainer.precision bf16-mixed": "a GPU",
    f".venv/bin/torchrun --standalone --nproc_per_node 4 {CLASSIFIER} "
    "--trainer.devices 4 --trainer.strategy ddp": "four GPUs, one for each process",
    f"srun --nodes 2 --ntasks-per-node 4 --gpus-per-node 4 .venv/bin/python {CLASSIFIER} "
    "--trainer.num_nodes 2 --trainer.devices 4 --trainer.strategy ddp": "SLURM, eight GPUs",
}
"""Commands that cannot run here, and what they need; their options are parsed."""
CALLING_THESE_TESTS = ("make test", "make test-all", "make lint")
"""What .ci/run calls: checked by running, but not from inside itself."""
STAYING = "make tensorboard"
PARITY = ".venv/bin/python -m twinloop parity"
LONG = ("make faults", "make fuzz", "make bench", PARITY)
"""Too long for this test; test_faults.py, fuzzing/, benchmarks/ and test_parity.py run them."""
PYTHON = ".venv/bin/python -m twinloop "
STARTED = ("--model.network.hidden", "--compile", "--trainer.devices")
"""Options of the commands of `PYTHON` that a shell starts: the first one, and those that start
processes of their own. The others are called in the process of the test, which saves imports."""
NOT_RUN = (*CALLING_THESE_TESTS, *ELSEWHERE, STAYING, *LONG)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout that shares its installed .venv; its experiments take two epochs."""
    copy = tmp_path_factory.mktemp("checkout")
    (copy / "tests").mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, copy / name)
        os.utime(copy / name, (0, 0))  # older than the stamp: nothing is installed again
    (copy / "experiments").mkdir()
    for path in (ROOT / "experiments").glob("*.yaml"):
        short = re.sub(r"max_epochs: \d+", "max_epochs: 2", path.read_text())
        (copy / "experiments" / path.name).write_text(short)
    for folder in ("presets", "sweeps"):
        shutil.copytree(ROOT / "experiments" / folder, copy / "experiments" / folder)
    (copy / ".venv").symlink_to(sys.prefix)
    for name, text in MODULES.items():
        (copy / f"{name}.py").write_text(text)
    (copy / "my-images").mkdir()
    Image.new("RGB", (50, 40), (30, 90, 200)).save(copy / "my-images" / "one.png")
    return copy


def anchors(text: str) -> set[str]:
    """The names by which links reach the headings of a page."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)  # a comment of shell is no heading
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_all_pages_and_commands_are_found() -> None:
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= set(PAGES)
    linked = re.findall(r"\]\(docs/([\w-]+)\.md\)", PAGES["README.md"])
    assert tuple(dict.fromkeys(linked)) == DOCS
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert len(COMMANDS) >= 35
    assert COMMANDS[:2] == ["make train-ae", "make test"]
    assert set(NOT_RUN) <= set(COMMANDS)
    assert list(MODULES) == [
        *("my_model", "my_data", "my_callback", "my_experiment", "my_logger"),
        *("my_waves", "my_stream", "my_augmentation"),
    ]
    # tests/learner/test_docs.py and tests/runs/test_docs.py run the others.
    others = ("README.md", "docs/learner.md", "docs/models.md")
    blocks = [text.count("```python") for page, text in PAGES.items() if page not in others]
    assert sum(blocks) == len(MODULES)


@pytest.mark.parametrize("page", LINKED)
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", LINKED[page])
    for link in (link for link in links if not link.startswith("https://")):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_path_of_the_file_tree_exists() -> None:
    tree = re.findall(r"```\n(experiments/.*?)```", PAGES["README.md"], re.DOTALL)[0]
    paths, package = [], ""
    for line in tree.splitlines():
        if re.match(r"\S+/$", line):
            package = line
            continue
        inside = package if line.startswith("  ") else ""
        paths += [inside + name for name in line.strip().split("  ")[0].split(", ")]
    assert len(paths) >= 12
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_table_of_the_proof_is_the_one_that_the_command_prints() -> None:
    exact = table({(row, value): "exact" for row, value, *_ in experiments()})
    assert f"\n\n{exact}\n\n" in PAGES["docs/proof.md"]


@pytest.mark.parametrize("command", ELSEWHERE)
def test_commands_for_other_machines_are_parsed(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main([*command.partition("-m twinloop ")[2].split(), "--print_config"])
    assert ended.value.code in (None, 0)
    assert "\nexperiment: classifier\n" in capsys.readouterr().out


def test_the_settings_of_the_page_of_loggers_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGES["docs/loggers.md"], re.DOTALL)
    (tmp_path / "more.yaml").write_text(block)
    files = ["--config", "experiments/mlp.yaml", "--config", str(tmp_path / "more.yaml")]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *files, "--print_config"])
    assert ended.value.code in (None, 0)
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]
    names = [logger["class_path"].rpartition(".")[2] for logger in printed]
    assert names == ["TensorBoardLogger", "CSVLogger", "WandbLogger", "MLFlowLogger"]


def test_the_python_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in MODULES.items():
        Path(f"{name}.py").write_text(text)
    try:
        ran = {name: runpy.run_path(f"{name}.py") for name in MODULES}
    finally:
        for name in MODULES:
            sys.modules.pop(name, None)
    logger = ran["my_logger"]["Lines"]("lines.jsonl")
    logger.log_hyperparams({"seed": 1})
    logger.log_metrics({"loss": 0.5}, 3)
    lines = Path("lines.jsonl").read_text()
    assert lines == '{"seed": 1, "step": null}\n{"loss": 0.5, "step": 3}\n'
    sizes = [
        OwnData(ran[name][kind]()).batches()["train"]
        for name, kind in (("my_waves", "Waves"), ("my_stream", "Stream"))
    ]
    assert sizes == [16, 10]
    # It has compared both loops itself; the callback did its work, and the model learned.
    found = ran["my_experiment"]
    weights = torch.cat([weight.flatten() for weight in found["one"].parameters()])
    assert weights.abs().max() == 0.5
    assert found["learn"].metrics["val/accuracy"] > 0.5


def called(command: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, output and errors of a command of `PYTHON`, called in this process."""
    capfd.readouterr()
    try:
        status = main(shlex.split(command.removeprefix(PYTHON)))
    except SystemExit as ended:  # after --help
        status = int(ended.code or 0)
    return status, *capfd.readouterr()


def started(command: str, folder: Path) -> tuple[int, str, str]:
    """The same of any command, started in `folder` by a shell."""
    # Other tests run beside these commands: threads would wait for each other.
    environment = os.environ | {"DATA": "digits", "OMP_NUM_THREADS": "1"}
    # What the make that runs these tests was called with is not for those of the pages.
    for name in ("RESUME", "LOOP", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    bash = ["bash", "-c", command]
    done = subprocess.run(
        bash, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_runs_in_the_order_of_the_pages(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.syspath_prepend(checkout)
    for command in COMMANDS:
        if command in NOT_RUN:
            continue
        if command.startswith(PYTHON) and not any(option in command for option in STARTED):
            status, printed, errors = called(command, capfd)
        else:
            status, printed, errors = started(command, checkout)
        assert status == 0, f"{command}\n{printed}\n{errors}"
        assert not errors, f"{command}\n{errors}"
    for name in MODULES:
        sys.modules.pop(name, None)
    logs = checkout / "lightning_logs"
    assert (logs / "autoencoder" / "version_0-digits" / "results.json").is_file()
    predictions = sorted(logs.glob("mlp/*/predictions/my-images/predictions.csv"))
    assert len(predictions) == 1


@pytest.mark.slow
def test_make_tensorboard_serves_on_this_machine_only(checkout: Path) -> None:
    with subprocess.Popen(
        ["make", "tensorboard"],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            assert server.stdout is not None
            found = (re.search(r"http://localhost:(\d+)/", line) for line in server.stdout)
            address = next(match for match in found if match)
            with urllib.request.urlopen(address[0]) as page:
                assert page.status == 200
            tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
            lines = [line for t in tables if t.exists() for line in t.read_text().splitlines()[1:]]
            rows = [line.split() for line in lines]
            ours = [row for row in rows if row[1].endswith(f":{int(address[1]):04X}")]
            listening = {row[1].partition(":")[0] for row in ours if row[3] == "0A"}
            # 127.0.0.1 as /proc has it; ::1 where the machine has it.
            assert listening
            assert listening <= {"0100007F", "00000000000000000000000001000000"}
        finally:
            os.killpg(server.pid, 15)
            server.wait(timeout=20)


def test_make_alone_prints_every_target() -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = re.findall(r"^  make ([a-z-]+) ", printed, re.MULTILINE)
    assert set(targets) >= {
        *("train-ae", "train-classifier", "train-mlp", "tensorboard"),
        *("test", "test-all", "test-slow", "lint", "clean"),
    }
