"""Read experiment files: plain data of a limited size, with errors that name the file."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from twinloop.errors import UserError, explain
from twinloop.files import expanded

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
"""With every alias expanded: ten lines of nested aliases could exceed all memory."""
MAX_DEPTH = 50
SEEDS = 2**32
"""The number of seeds, limited by NumPy."""
MOST_SEEDS = 1_000
"""The most runs that differ in the seed."""
PATHS = (
    *("trainer.default_root_dir", "data.init_args.cache_dir"),
    *("ckpt_path", "run_folder", "weights"),
)
"""Settings in which `~` and `$NAME` are written out; `data.source` and `data.images` do so."""
RENAMED = {"mirror": "tta_flip"}
"""Options of older experiment files, and their new names."""
FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+)(?:,([^}]*))?\}")
"""A variable of the environment in a value, and its default, as OmegaConf writes it."""
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
        content = _from_environment(yaml.load(text, LOADER), path)
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


def local_file() -> Path | None:
    """The settings of this machine: the file that TWINLOOP_LOCAL names, or else local.yaml."""
    path = Path(os.environ.get("TWINLOOP_LOCAL", "local.yaml"))
    return path if path.is_file() else None


def with_local(args: Sequence[str]) -> list[str]:
    """The command line with this machine's settings, if any, after the last experiment file."""
    local = local_file()
    ends = [at + 1 for at, arg in enumerate(args) if arg.startswith("--config=")]
    ends += [at + 2 for at, arg in enumerate(args) if arg in ("--config", "-c")]
    if local is None or not ends:
        return list(args)
    return [*args[: max(ends)], "--config", str(local), *args[max(ends) :]]


def parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """Parse a command line; an error in an experiment file names the file.

    The settings of a later file replace those of an earlier one, then come those of `local_file`,
    then options.

    Raises:
        UserError: an invalid experiment file, name or seed.
        ArgumentError: an invalid option.
    """
    args = with_local(args)
    files = _files(args)
    for file in files:
        read_experiment(file)
    try:
        config = parser.parse_args(args)
    except Exception as error:  # of any type, for values that the parser does not expect
        for number, file in enumerate(files, start=1):
            if _same(error, _error_in(files[:number], parser, args)):
                raise UserError(f"{file}: {_reason(error)}") from error
        raise
    settings = config[config.subcommand] if "subcommand" in config else config
    checked_name(settings.experiment, files_of(settings))
    seed = settings.seed_everything
    if type(seed) is int and not 0 <= seed < SEEDS:
        where = files_of(settings)
        raise UserError(f"seed_everything is {seed} ({where}); it must be from 0 to {SEEDS - 1:,}")
    return config


def seeds_from(first: Any, count: int, where: object) -> range:
    """`count` seeds, from the `first` on.

    Raises:
        UserError: the first is no seed, or there are not so many; the message names `where`.
    """
    if type(first) is not int or not 0 <= first < SEEDS:
        raise UserError(
            f"{where}: seed_everything is {first!r}; several seeds count up from an integer from 0 "
            f"to {SEEDS - 1:,}"
        )
    most = min(MOST_SEEDS, SEEDS - first)
    if not 1 <= count <= most:
        raise UserError(f"--seeds is {count:,}; it must be from 1 to {most:,}")
    return range(first, first + count)


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


def expand_paths(config: Namespace) -> None:
    """Write out `~` and `$NAME` in the settings of `PATHS`; an empty path is none.

    Raises:
        UserError: the path of another machine.
    """
    for name in PATHS:
        if (path := config.get(name)) is not None:
            if re.match(r"\w\w+:/", str(path)):
                raise UserError(
                    f"{name} is {path}; it must be local, as only the dirpath of a "
                    "ModelCheckpoint may be remote"
                )
            config[name] = expanded(path) if str(path) else None


def files_of(config: Namespace) -> str:
    """The experiment files of a parsed command line, for error messages."""
    return ", ".join(map(str, config.config or ())) or "the experiment"


def _files(args: Sequence[str]) -> list[Path]:
    """The existing experiment files that a command line names."""
    named = [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]
    named += [value for option, value in pairwise(args) if option in ("--config", "-c")]
    return [path for path in map(Path, named) if path.is_file()]


def _error_in(
    files: Sequence[Path], parser: ArgumentParser, args: Sequence[str]
) -> Exception | None:
    """The parser's error for these files alone."""
    command = [arg for arg in args[:1] if not arg.startswith("-")]
    try:
        parser.parse_args([*command, *(f"--config={file}" for file in files)])
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
    return _from_environment(_load_unbounded(text), "a value")


def _from_environment(value: Any, path: object) -> Any:
    """Write out `${oc.env:NAME}` and `${oc.env:NAME,default}` in all strings.

    Raises:
        UserError: the environment has no such variable, and there is no default.
    """
    if isinstance(value, dict):
        return {key: _from_environment(part, path) for key, part in value.items()}
    if isinstance(value, list):
        return [_from_environment(part, path) for part in value]
    if not isinstance(value, str):
        return value
    for name, default in FROM_ENVIRONMENT.findall(value):
        if not default and name not in os.environ:
            raise UserError(
                f"{path}: the environment has no variable {name}; set it, or give a default: "
                f"${{oc.env:{name},DEFAULT}}"
            )
    return FROM_ENVIRONMENT.sub(lambda match: os.environ.get(match[1], match[2]), value)


set_loader("yaml", _load, exceptions=(yaml.YAMLError,))
