"""A sweep file: which settings vary over which values, and who chooses the next ones."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinloop.errors import UserError

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median", "halving")
DIRECTIONS = ("minimize", "maximize")
KEYS = ("metric", "direction", "sampler", "pruner", "trials", "seed", "settings")
OF_SETTING = ("choices", "low", "high", "step", "log", "when")
MOST = 100_000
"""The most trials of a sweep, and the most combinations of a grid."""

Value = bool | int | float | str | None
Values = dict[str, Value]
"""The values of the settings that vary, by key."""


@dataclass(frozen=True)
class Setting:
    """A setting that varies: over `choices`, or else from `low` to `high`, in whole numbers or not.

    Args:
        key: Its name on the command line, without dashes.
        choices: Its values; other than scalars, as JSON.
        low: The least value.
        high: The largest value.
        step: The distance of values, if there is one.
        log: Whether the logarithm is uniform.
        when: The values of earlier settings with which it exists; always, if there are none.
    """

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    when: Mapping[str, Sequence[Value]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return type(self.low) is int and type(self.high) is int and type(self.step) is not float

    def exists(self, values: Values) -> bool:
        """Whether it exists beside the values of earlier settings."""
        return all(key in values and values[key] in wanted for key, wanted in self.when.items())

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.choices or (self.low, self.high)

    @property
    def all_values(self) -> tuple[Value, ...]:
        """Every value; none of a continuous range."""
        step = self.step or (1 if self.is_whole else 0)
        if self.choices or not step:
            return self.choices
        return tuple(self.low + n * step for n in range(round((self.high - self.low) / step) + 1))


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep file; `metric` and `direction` are those of the task if unset."""

    settings: tuple[Setting, ...]
    metric: str | None
    direction: str | None
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    trials: int
    seed: int

    def combinations(self) -> list[Values]:
        """All values of a grid, each combination once."""
        return list(_combined(self.settings, {}))

    def probes(self) -> list[Values]:
        """For each choice and each end of a range, a combination that has it."""
        found: list[Values] = []
        for setting in self.settings:
            for end in setting.ends:
                values = self._with({setting.key: end})
                found += [] if values in found else [values]
        return found

    def _with(self, wanted: Values) -> Values:
        """A combination with these values, and with others that their conditions need."""
        wanted = dict(wanted)
        for setting in reversed(self.settings):  # conditions are on earlier ones
            if setting.key in wanted:
                wanted |= {key: any_of[0] for key, any_of in setting.when.items()}
        values: Values = {}
        for setting in self.settings:
            if setting.exists(values):
                values[setting.key] = wanted.get(setting.key, setting.ends[0])
        return values


def options(values: Values) -> list[str]:
    """The options of `fit` for these values."""
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    ]


def shown(value: Value) -> str:
    """A value in a table: four digits of a number, and of a class its name."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value.rpartition(".")[2] if isinstance(value, str) else json.dumps(value)


def parse_sweep(content: Mapping[str, Any], path: Path) -> Sweep:
    """The sweep in the `content` of the file at `path`.

    Raises:
        UserError: an unknown key, or an invalid value; the message names file and key.
    """
    _check_keys(content, KEYS, f"{path}")
    settings: list[Setting] = []
    given = content.get("settings")
    if not isinstance(given, dict) or not given:
        raise UserError(f"{path}: settings has nothing to vary; list keys of the experiment there")
    for key, value in given.items():
        settings.append(_setting(str(key), value, settings, f"{path}: settings: {key}"))
    sampler = _named(content, "sampler", SAMPLERS, "tpe", path)
    direction = content.get("direction")
    if direction not in (None, *DIRECTIONS):
        raise UserError(f"{path}: direction is {direction!r}; it must be minimize or maximize")
    metric = content.get("metric")
    if not isinstance(metric, str | None):
        raise UserError(f"{path}: metric is {metric!r}; it must be a name such as val/loss")
    sweep = Sweep(
        *(tuple(settings), metric, direction, sampler),
        pruner=_named(content, "pruner", PRUNERS, "none", path),
        trials=_count(content, "trials", 1, MOST if sampler["name"] == "grid" else 20, path),
        seed=_count(content, "seed", 0, 42, path),
    )
    if sampler["name"] == "grid":
        _check_grid(sweep, path)
    return sweep


def _check_keys(content: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{where}: there is no key {key!r}; the keys are {', '.join(known)}")


def _named(
    content: Mapping[str, Any], key: str, names: Sequence[str], default: str, path: Path
) -> dict[str, Any]:
    """A name, or a mapping of it and of Optuna's arguments."""
    given = content.get(key, default)
    found = dict(given) if isinstance(given, dict) else {"name": given}
    if found.get("name") not in names:
        raise UserError(f"{path}: {key} is {given!r}; it must be one of {', '.join(names)}")
    return found


def _count(content: Mapping[str, Any], key: str, least: int, default: int, path: Path) -> int:
    number = content.get(key, default)
    if type(number) is not int or not least <= number <= MOST:
        raise UserError(f"{path}: {key} is {number!r}; it must be from {least} to {MOST:,}")
    return number


def _setting(key: str, value: Any, earlier: Sequence[Setting], where: str) -> Setting:
    value = {"choices": value} if isinstance(value, list) else value
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}; give a list of choices, or low and high")
    _check_keys(value, OF_SETTING, where)
    when = _conditions(value.get("when", {}), earlier, where)
    if "choices" in value:
        if set(value) - {"choices", "when"} or not isinstance(value["choices"], list):
            raise UserError(f"{where}: choices are a list, without low, high, step and log")
        choices = tuple(map(_scalar, value["choices"]))
        if not choices or len({repr(choice) for choice in choices}) < len(choices):
            raise UserError(f"{where}: choices are empty, or one is there twice; list each once")
        return Setting(key, choices, when=when)
    return Setting(key, when=when, **_range(value, where))


def _range(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Low, high, step and log of a range that is not empty."""
    found = {name: _number(value.get(name), f"{where}: {name}") for name in ("low", "high")}
    step, log, (low, high) = value.get("step"), value.get("log", False), found.values()
    if step is not None:
        step = _number(step, f"{where}: step")
        parts = (high - low) / step if step > 0 else 0.5
        if log or abs(parts - round(parts)) > 1e-6:
            raise UserError(f"{where}: step is {step}; high is low plus steps, and log has none")
    if low >= high:
        raise UserError(f"{where}: the range from {low} to {high} is empty; low must be less")
    if type(log) is not bool or (log and low <= 0):
        raise UserError(f"{where}: log is {log!r}; it is true or false, and needs a low above 0")
    return found | {"step": step, "log": log}


def _conditions(when: Any, earlier: Sequence[Setting], where: str) -> dict[str, Sequence[Value]]:
    known = {setting.key: setting for setting in earlier}
    if not isinstance(when, dict):
        raise UserError(f"{where}: when is {when!r}; it maps keys to values: {{KEY: VALUE}}")
    found: dict[str, Sequence[Value]] = {}
    for key, values in when.items():
        if key not in known:
            raise UserError(f"{where}: when: {key!r} is not listed before it; list it there")
        wanted = tuple(map(_scalar, values if isinstance(values, list) else [values]))
        there = known[key].all_values
        if missing := [value for value in wanted if value not in there]:
            raise UserError(f"{where}: when: {key} never is {missing[0]!r}; name its choices")
        found[key] = wanted
    return found


def _number(value: Any, where: str) -> float:
    with suppress(ValueError):
        number: Any = float(value) if isinstance(value, str) else value  # YAML has no 1e-3
        if type(number) in (int, float) and math.isfinite(number):
            return number  # type: ignore[no-any-return]
    raise UserError(f"{where} is {value!r}; it must be a number")


def _scalar(value: Any) -> Value:
    return value if isinstance(value, bool | int | float | str | None) else json.dumps(value)


def _check_grid(sweep: Sweep, path: Path) -> None:
    """Make sure that a grid has a limited number of combinations."""
    for setting in sweep.settings:
        if not setting.all_values:
            raise UserError(
                f"{path}: settings: {setting.key}: a grid has no values of a continuous range; "
                "give it a step, or choices"
            )
    if math.prod(len(setting.all_values) for setting in sweep.settings) > MOST:
        raise UserError(f"{path}: the grid has over {MOST:,} combinations; take random or tpe")


def _combined(settings: Sequence[Setting], values: Values) -> Iterator[Values]:
    if not settings:
        yield values
        return
    first, *rest = settings
    if not first.exists(values):
        yield from _combined(rest, values)
        return
    for value in first.all_values:
        yield from _combined(rest, values | {first.key: value})
