"""`twinloop new NAME`: a new experiment and its test, in this project or in a new one."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from twinloop.errors import Parser, UserError

HEADER = """\
# Goal:    {goal}
# Command: python -m twinloop fit --config experiments/{name}.yaml
# Machine: not measured yet
# Time:    not measured yet
# Result:  not measured yet
"""
PROJECT = {
    "Makefile": "Makefile",
    "gitignore": ".gitignore",
    "networks.py": "networks.py",
    "debug.yaml": "experiments/presets/debug.yaml",
}
"""The files of `project/`, and their paths in a new project."""
GOAL = "the metric to reach, the data, and the time limit"

LONGEST = 100
"""Characters of a name, which is also that of a folder in lightning_logs."""

EXPERIMENT = """\
experiment: {name} # runs are kept in lightning_logs under this name
seed_everything: 42 # the same seed gives the same weights
trainer: # flags of Lightning's Trainer
  max_epochs: 5
data: # arguments of twinloop.data.datamodule.ImageDataModule
  source: auto # Fashion-MNIST, or digits without network; a folder, or owner/name on the Hub
  batch_size: 256
model:
  class_path: twinloop.tasks.Classification # or Reconstruction, with an autoencoder
  init_args:
    network: # a class of twinloop.models, or of any file in this folder: my_model.MyNetwork
      class_path: twinloop.models.SequentialClassifier
      init_args:
        widths: [8, 16, 32] # channels at each size; all but the first halve height and width
        dropout: 0.1 # probability of zeroing a feature of the last layer
    optimizer:
      class_path: torch.optim.AdamW
      init_args:
        lr: 0.01 # the peak of the schedule, which changes it after every batch
    schedule: # or Cosine, Plateau, any of torch; without these two lines the rate is constant
      class_path: twinloop.tasks.OneCycle
"""

TEST = '''\
"""{name} trains to the same values in both loops."""

from pathlib import Path

from twinloop.cli import main
from twinloop.comparison.differences import differences
from twinloop.runs.timings import read_record

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "{name}.yaml"
SHORT = (
    *("--data.source", "digits", "--data.batch_size", "64"),
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"),
)


def test_both_loops_train_it_to_the_same_values(tmp_path: Path) -> None:
    for loop in ("lightning", "homemade"):
        options = ["--loop", loop, "--run", str(tmp_path / loop), "--record", "all"]
        assert main(["fit", "--config", str(EXPERIMENT), *SHORT, *options]) == 0
    one, other = (read_record(tmp_path / loop) for loop in ("lightning", "homemade"))
    # Every loss, gradient, metric and weight, and the optimiser's state; weights must have changed.
    assert differences(one, other) == []
'''


def main(args: Sequence[str]) -> int:
    """Write an experiment and its test, and print the next command.

    Raises:
        UserError: an invalid name, files that already exist, or no project.
    """
    parser = Parser("twinloop new", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", help="Letters, digits and dashes.")
    parser.add_argument("--like", type=Path, help="The experiment to copy.")
    parser.add_argument("--project", type=Path, help="A new folder, for a project of your own.")
    options = parser.parse_args(args)
    if options.project:
        _check(options.name)
        write_project(options.project)
    root = options.project or Path()
    experiment, test = write(options.name, options.like, root)
    print(f"{experiment}\n{test}")
    if options.project:
        print(f"next: cd {root}; make debug; make test")
    else:
        own = ".venv/bin/python -m " if Path(".venv").is_dir() else ""
        print(f"next: {own}twinloop fit --config {experiment}")
    return 0


def write_project(folder: Path) -> None:
    """Write what surrounds experiments: a Makefile, a preset, and a module for networks.

    Raises:
        UserError: the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--project: {folder} already exists; choose another folder")
    for name, place in PROJECT.items():
        path = folder / place
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(__file__).parent / "project" / name, path)
        except OSError as error:
            raise UserError(f"--project: cannot write {path}: {error.strerror}") from error


def write(name: str, like: Path | None = None, root: Path = Path()) -> tuple[Path, Path]:
    """Write experiments/NAME.yaml, a copy of `like` or a small classifier, and tests/test_NAME.py.

    Raises:
        UserError: as in `main`.
    """
    _check(name)
    if not (root / "experiments").is_dir():
        raise UserError(
            f"new: {Path.cwd()} has no folder experiments; change to a folder that has, or begin "
            f"a project: twinloop new {name} --project FOLDER"
        )
    experiment = root / "experiments" / f"{name}.yaml"
    test = root / "tests" / f"test_{name.replace('-', '_')}.py"
    for path in (experiment, test):
        if path.exists():
            raise UserError(f"new: {path} already exists; choose another name")
    settings = EXPERIMENT.format(name=name) if like is None else _copied(like, name)
    goal = GOAL if like is None else f"{GOAL} (so far a copy of {like.stem})"
    test.parent.mkdir(exist_ok=True)
    experiment.write_text(HEADER.format(goal=goal, name=name) + settings, encoding="utf-8")
    test.write_text(TEST.format(name=name), encoding="utf-8")
    return experiment, test


def _check(name: str) -> None:
    """Refuse an invalid name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name):
        raise UserError(f"new: {name!r} is not a valid name; use letters, digits and dashes")
    if yaml.safe_load(name) != name:
        raise UserError(f"new: YAML would not read {name!r} as a string; add a letter")
    if len(name) > LONGEST:
        raise UserError(f"new: a name of {len(name):,} letters is too long; use up to {LONGEST}")


def _copied(like: Path, name: str) -> str:
    """The settings of the experiment `like` without its header, and with another name."""
    try:
        lines = like.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"--like: cannot read {like}: {reason}") from error
    while lines and (lines[0].startswith("#") or not lines[0].strip()):
        del lines[0]
    settings, found = re.subn(
        r"^experiment:.*$", f"experiment: {name}", "".join(lines), count=1, flags=re.MULTILINE
    )
    if not found:
        raise UserError(f"--like: {like} is not an experiment: no line 'experiment: ...'")
    return settings
