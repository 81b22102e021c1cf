"""Count the distinct lines of a loop's own package that two steps of training execute.

`python -m twinloop.cli.lines fit --config ... --loop homemade` prints the number of lines of
Lightning, or of `twinloop.learner`, that the fit executes.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch import Trainer

import twinloop.learner
from twinloop.cli import main
from twinloop.learner import Learner

PACKAGES = tuple(
    str(Path(str(package.__file__)).parent) for package in (lightning, twinloop.learner)
)


def counting(fit: Callable[..., Any], seen: set[tuple[str, int]]) -> Callable[..., Any]:
    """Wrap `fit` so that every line of the loop's package that it executes is added to `seen`."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGES):
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    def counted(*args: Any, **kwargs: Any) -> Any:
        sys.settrace(trace)
        try:
            return fit(*args, **kwargs)
        finally:
            sys.settrace(None)

    return counted


if __name__ == "__main__":
    lines: set[tuple[str, int]] = set()
    Trainer.fit = counting(Trainer.fit, lines)  # type: ignore[method-assign]
    Learner.fit = counting(Learner.fit, lines)  # type: ignore[method-assign]
    status = main([*sys.argv[1:], "--trainer.fast_dev_run", "2"])
    print(len(lines))
    sys.exit(status)
