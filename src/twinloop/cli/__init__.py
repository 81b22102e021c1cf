"""The command line: `twinloop COMMAND ...`, or `python -m twinloop COMMAND ...`.

Imports nothing slow: the help and a mistyped command are answered at once, without PyTorch.
"""

import os
import sys
import traceback
from importlib.metadata import version
from typing import NamedTuple

from twinloop.openmp import limit_spinning


class Command(NamedTuple):
    """The entry of a command, `module:function`, and a line of help."""

    entry: str
    help: str


COMMANDS = {
    "fit": Command("fit:main", "train an experiment, and write its results to a run folder"),
    "validate": Command("evaluate:validate", "print the metrics of a checkpoint on val"),
    "test": Command("evaluate:test", "print the metrics of a checkpoint on test"),
    "predict": Command("predict:main", "run a trained model on a folder of images"),
    "export": Command("export:main", "write a trained model as safetensors, ONNX and torch.export"),
    "compare": Command("compare:main", "train by both loops, and compare the runs"),
    "sweep": Command("sweep:main", "train with settings that Optuna chooses, and find the best"),
    "parity": Command("parity:main", "run the proof of parity, and print its table"),
    "runs": Command("runs:main", "list all runs, compare two, tag them, remove them"),
    "summary": Command("summary:main", "print the layers of a network, their sizes and costs"),
    "convolutions": Command(
        "convolutions:main", "write figures, a page and a workbook of a classifier's convolutions"
    ),
    "cache": Command("cache:main", "list the decoded data sets, or remove them"),
    "new": Command("new:main", "write an experiment and its test, or a project of your own"),
}
"""Every command; its module in `twinloop.cli` is imported when it is called."""


def main(args: list[str]) -> int:
    """Run a command; a user error ends in one line, and with `--debug` in a traceback.

    Returns:
        The exit status: 0, or 2 for an error in the command, a file, or the data.
    """
    name, *options = [arg for arg in args if arg != "--debug"] or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name == "--version":
        print("twinloop", version("twinloop"))
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: there is no command {name!r}; the commands are {known}", file=sys.stderr)
        return 2
    if name == "runs":
        return _light(options, debug="--debug" in args)
    if "torch" not in sys.modules:
        limit_spinning()
    from twinloop.cli.execute import execute

    return execute(COMMANDS[name].entry, options, debug="--debug" in args)


def _light(options: list[str], *, debug: bool) -> int:
    """Execute `runs`, which trains nothing, without importing PyTorch."""
    from twinloop.cli import runs
    from twinloop.errors import explain

    try:
        return runs.main(options)
    except BrokenPipeError:  # of `twinloop runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        message = explain(error)
        if message is None or debug:
            traceback.print_exc()
        print("error:", message or repr(error), file=sys.stderr)
        return 2 if message else 1


def usage() -> str:
    """The help: a line for each command."""
    return "\n".join(
        [
            "usage: twinloop COMMAND [OPTION ...]",
            "",
            *(f"  {name:14}{command.help}" for name, command in COMMANDS.items()),
            "",
            "COMMAND --help lists the options of a command; --debug, with any of them, prints the",
            "traceback of an error; --version prints the version.",
        ]
    )
