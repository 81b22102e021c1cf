"""Read experiment files: plain data of a limited size, with errors that name the file."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from twinloop.errors import UserError, explain

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
"""With every alias expanded: ten lines of nested aliases could exceed all memory."""
MAX_DEPTH = 50
SEEDS = 2**32
"""The number of seeds, limited by NumPy."""
RENAMED = {"mirror": "tta_flip"}
"""Options of older experiment files, and their new names."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser's own loader, which refuses tags of Python objects."""


def read_experiment(path: Path) -> dict[str, Any]:
    """Read an experiment file.

    Raises:
        UserError: not text, invalid YAML, tags of Python objects, too large, or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: over {MAX_BYTES:,} bytes, too large for an experiment file")
        text = path.read_text(encoding="utf-8")
        _check_size(text, path)
        content = yaml.load(text, LOADER)
    except OSError as error:
        raise UserError(f"config: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not valid UTF-8") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:  # the last two: invalid dates, keys
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{where}: invalid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an experiment; see experiments/ for examples")
    return content


def parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """Parse a command line; an error in an experiment file names the file.

    Raises:
        UserError: an invalid experiment file, name or seed.
        ArgumentError: an invalid option.
    """
    files = _files(args)
    for file in files:
        read_experiment(file)
    try:
        config = parser.parse_args(args)
    except Exception as error:  # of any type, for values that the parser does not expect
        for file in files:
            if _same(error, _error_in(file, parser, args)):
                raise UserError(f"{file}: {_reason(error)}") from error
        raise
    settings = config[config.subcommand] if "subcommand" in config else config
    checked_name(settings.experiment, files_of(settings))
    seed = settings.seed_everything
    if type(seed) is int and not 0 <= seed < SEEDS:
        where = files_of(settings)
        raise UserError(f"seed_everything is {seed} ({where}); it must be from 0 to {SEEDS - 1:,}")
    return config


def checked_name(name: object, where: object) -> str:
    """An experiment's name, which is also that of its folder in lightning_logs.

    Raises:
        UserError: it is not a valid name of a folder; the message begins with `where`.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not re.fullmatch(r"\w[^/\\]{0,99}", name)
    ):
        raise UserError(
            f"{where}: experiment is {name!r}, which is not a valid name; begin with a letter or "
            "digit, and use no slash"
        )
    return name


def files_of(config: Namespace) -> str:
    """The experiment files of a parsed command line, for error messages."""
    return ", ".join(map(str, config.config or ())) or "the experiment"


def _files(args: Sequence[str]) -> list[Path]:
    """The existing experiment files that a command line names."""
    named = [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]
    named += [value for option, value in pairwise(args) if option in ("--config", "-c")]
    return [path for path in map(Path, named) if path.is_file()]


def _error_in(file: Path, parser: ArgumentParser, args: Sequence[str]) -> Exception | None:
    """The parser's error for the file alone."""
    command = [arg for arg in args[:1] if not arg.startswith("-")]
    try:
        parser.parse_args([*command, "--config", str(file)])
    except Exception as error:
        return error
    return None


def _same(error: Exception, other: Exception | None) -> bool:
    return type(error) is type(other) and str(error) == str(other)


def _reason(error: Exception) -> str:
    for old, new in RENAMED.items():
        if f"Option '{old}' is not accepted" in str(error):
            return f"{old} is called {new} now; rename it in the file"
    return explain(error) or " ".join(str(error).split())


def _check_size(text: str, path: object) -> None:
    """Count values and levels before any object is built.

    Raises:
        UserError: too many values, or too many levels.
        yaml.YAMLError: invalid YAML.
    """
    sizes: dict[str, int] = {}  # values in each anchor
    around: list[tuple[str | None, int]] = []  # open collections: anchor, and the count before
    count = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in around):
                raise UserError(f"{path}: *{event.anchor} contains itself")
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = around.pop()
            if anchor:
                sizes[anchor] = count - before
        if count > MAX_VALUES or len(around) > MAX_DEPTH:
            raise UserError(
                f"{path}: over {MAX_VALUES:,} values or {MAX_DEPTH} levels, too large for an "
                "experiment file"
            )


_load_unbounded = get_loader("yaml")


def _load(text: str) -> Any:
    """Load an option's value, or a file that an experiment names for one of its parts."""
    _check_size(text, "a value")
    return _load_unbounded(text)


set_loader("yaml", _load, exceptions=(yaml.YAMLError,))
