"""`python -m twinloop new NAME`: an experiment of one's own and its test, beside the others."""

import re
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
GOAL = "what it should reach, on which data, and within which time"

LONGEST = 100
"""Letters of a name, which is a folder's in lightning_logs too."""

EXPERIMENT = """\
experiment: {name} # runs are kept in lightning_logs under this name
seed_everything: 42 # the same seed gives the same weights
trainer: # any flag of Lightning's Trainer
  max_epochs: 5
data: # any argument of twinloop.data.datamodule.ImageDataModule
  source: auto # Fashion-MNIST, or digits with no network; a folder, or owner/name on the Hub
  batch_size: 256
model:
  class_path: twinloop.tasks.Classification # or Reconstruction, with an autoencoder
  init_args:
    network: # a class of twinloop.models, or of any file in this folder: my_model.MyNetwork
      class_path: twinloop.models.SequentialClassifier
      init_args:
        widths: [8, 16, 32] # channels at each size; all but the first halve height and width
        dropout: 0.1 # share of the last features
    optimizer:
      class_path: torch.optim.AdamW
      init_args:
        lr: 0.01 # peak; per batch
    schedule: # or Cosine, Plateau; without these two lines the learning rate stays as it is
      class_path: twinloop.tasks.OneCycle
"""

TEST = '''\
"""{name} trains, and to the same numbers in both loops."""

from pathlib import Path

from twinloop.cli import main
from twinloop.comparison.differences import differences
from twinloop.runs.timings import read_record

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "{name}.yaml"
SHORT = (
    *("--data.source", "digits", "--data.batch_size", "64"),
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"),
)


def test_both_loops_train_it_to_the_same_numbers(tmp_path: Path) -> None:
    for loop in ("lightning", "homemade"):
        options = ["--loop", loop, "--run", str(tmp_path / loop), "--record", "all"]
        assert main(["fit", "--config", str(EXPERIMENT), *SHORT, *options]) == 0
    one, other = (read_record(tmp_path / loop) for loop in ("lightning", "homemade"))
    # Every loss, gradient, metric and weight, and the optimiser's state; weights must have moved.
    assert differences(one, other) == []
'''


def main(args: Sequence[str]) -> int:
    """Write an experiment and its test, and print what to type next.

    Raises:
        UserError: a name that cannot be, files that are there already, or no checkout.
    """
    parser = Parser("python -m twinloop new", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", help="Letters, digits and dashes.")
    parser.add_argument("--like", type=Path, help="The experiment to begin with a copy of.")
    asked = parser.parse_args(args)
    experiment, test = write(asked.name, asked.like)
    print(f"{experiment}\n{test}\nnow type: .venv/bin/python -m twinloop fit --config {experiment}")
    return 0


def write(name: str, like: Path | None = None) -> tuple[Path, Path]:
    """Write experiments/NAME.yaml and tests/test_NAME.py; nothing is ever overwritten.

    Args:
        name: Of the experiment: letters, digits and dashes.
        like: The experiment to copy; a small classifier if unset.

    Raises:
        UserError: as in `main`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name):
        raise UserError(f"new: {name!r} is no name; use letters, digits and dashes")
    if yaml.safe_load(name) != name:
        raise UserError(f"new: YAML would not read {name!r} as a name; add a letter")
    if len(name) > LONGEST:
        raise UserError(f"new: a name of {len(name):,} letters is too long; use up to {LONGEST}")
    if not Path("experiments").is_dir():
        raise UserError(f"new: {Path.cwd()} has no folder experiments; go to a checkout's top")
    experiment = Path("experiments", f"{name}.yaml")
    test = Path("tests", f"test_{name.replace('-', '_')}.py")
    for path in (experiment, test):
        if path.exists():
            raise UserError(f"new: {path} is there already; choose another name")
    settings = EXPERIMENT.format(name=name) if like is None else _copied(like, name)
    goal = GOAL if like is None else f"{GOAL} (so far a copy of {like.stem})"
    test.parent.mkdir(exist_ok=True)
    experiment.write_text(HEADER.format(goal=goal, name=name) + settings)
    test.write_text(TEST.format(name=name))
    return experiment, test


def _copied(like: Path, name: str) -> str:
    """The settings of the experiment `like`, without its header and under another name."""
    try:
        lines = like.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"--like: cannot read {like}: {reason}") from error
    while lines and (lines[0].startswith("#") or not lines[0].strip()):
        del lines[0]
    settings, found = re.subn(
        r"^experiment:.*$", f"experiment: {name}", "".join(lines), count=1, flags=re.MULTILINE
    )
    if not found:
        raise UserError(f"--like: {like} is no experiment: it has no line 'experiment: ...'")
    return settings
