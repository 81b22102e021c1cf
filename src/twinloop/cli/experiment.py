"""An experiment file: plain data of a bounded size, and mistakes that are told by its name."""

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
"""With every alias written out; ten lines of aliases of aliases would be more than memory has."""
MAX_DEPTH = 50
SEEDS = 2**32
"""How many seeds there are: NumPy takes no others."""
RENAMED = {"mirror": "tta_flip"}
"""Options of older experiment files, and what they are called now."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""What the parser reads with, which knows no tags that name Python."""


def read_experiment(path: Path) -> dict[str, Any]:
    """Read an experiment file as the mapping that it is.

    Raises:
        UserError: no text, no YAML, tags that name Python, too large, or no mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: over {MAX_BYTES:,} bytes, which no experiment file has")
        text = path.read_text(encoding="utf-8")
        _check_size(text, path)
        content = yaml.load(text, LOADER)
    except OSError as error:
        raise UserError(f"config: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is no text in UTF-8") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:  # also numbers and dates that are none
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{where}: no YAML that can be read: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no experiment; see experiments/ for what one looks like")
    return content


def parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """Parse a command line; what an experiment file has got wrong is told by the file's name.

    Raises:
        UserError: a file that `read_experiment` refuses, a mistake that is in it, or a seed that
            cannot be.
        ArgumentError: a mistake in the other options.
    """
    files = _files(args)
    for file in files:
        read_experiment(file)
    try:
        config = parser.parse_args(args)
    except Exception as error:  # of any type: the parser trips over odd values
        for file in files:
            if _same(error, _mistake_in(file, parser, args)):
                reason = explain(error) or " ".join(str(error).split())
                renamed = [
                    old for old in RENAMED if f"Option '{old}' is not accepted" in str(error)
                ]
                if renamed:
                    reason = f"{renamed[0]} is called {RENAMED[renamed[0]]} now; rename it there"
                raise UserError(f"{file}: {reason}") from error
        raise
    settings = config[config.subcommand] if "subcommand" in config else config
    checked_name(settings.experiment, files_of(settings))
    seed = settings.seed_everything
    if type(seed) is int and not 0 <= seed < SEEDS:
        where = files_of(settings)
        raise UserError(f"seed_everything is {seed} ({where}); it must be from 0 to {SEEDS - 1:,}")
    return config


def checked_name(name: object, where: object) -> str:
    """An experiment's name, found `where`, if it can be that of a folder in lightning_logs.

    Raises:
        UserError: it cannot be a folder's, or would lead out of there.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not re.fullmatch(r"\w[^/\\]{0,99}", name)
    ):
        raise UserError(
            f"{where}: experiment is {name!r}, which is no name; begin with a letter or digit, "
            "and use no slash"
        )
    return name


def files_of(config: Namespace) -> str:
    """The experiment files of a parsed command line, for an error's beginning."""
    return ", ".join(map(str, config.config or ())) or "the experiment"


def _files(args: Sequence[str]) -> list[Path]:
    """The experiment files that a command line names, where they are there."""
    named = [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]
    named += [value for option, value in pairwise(args) if option in ("--config", "-c")]
    return [path for path in map(Path, named) if path.is_file()]


def _mistake_in(file: Path, parser: ArgumentParser, args: Sequence[str]) -> Exception | None:
    """What the parser says of the file alone."""
    command = [arg for arg in args[:1] if not arg.startswith("-")]
    try:
        parser.parse_args([*command, "--config", str(file)])
    except Exception as error:
        return error
    return None


def _same(error: Exception, other: Exception | None) -> bool:
    return type(error) is type(other) and str(error) == str(other)


def _check_size(text: str, path: object) -> None:
    """Count values and brackets before anything is built of them.

    Raises:
        UserError: too many, or too deep.
        yaml.YAMLError: no YAML.
    """
    sizes: dict[str, int] = {}  # of what each anchor names
    around: list[tuple[str | None, int]] = []  # anchors that are open, and what was counted before
    count = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in around):
                raise UserError(f"{path}: *{event.anchor} is within itself")
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
                f"{path}: over {MAX_VALUES:,} values or {MAX_DEPTH} levels, which no experiment "
                "file has"
            )


_load_unbounded = get_loader("yaml")


def _load(text: str) -> Any:
    """What the parser reads values with, and the files that an experiment names for its parts."""
    _check_size(text, "a value")
    return _load_unbounded(text)


set_loader("yaml", _load, exceptions=(yaml.YAMLError,))
