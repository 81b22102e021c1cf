"""Jupyter: whether this is a notebook, and an output of a cell that is replaced while it runs."""

import sys
import time
from typing import Any


def in_notebook() -> bool:
    """Whether cells of a notebook are run here, whose outputs a browser shows."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class Output:
    """One output of a cell, replaced at most every so many `seconds`.

    What it shows is by MIME type: `{"text/html": "<b>1</b>", "text/plain": "1"}`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.handle: Any = None
        self.shown = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the seconds are over."""
        return time.monotonic() - self.shown >= self.seconds

    def show(self, content: dict[str, Any]) -> None:
        """Show this in place of what is there, at once."""
        from IPython.display import display

        self.shown = time.monotonic()
        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.handle.update(content, raw=True)

    def end(self) -> None:
        """Leave what is there; the next to be shown is an output of its own."""
        self.handle, self.shown = None, 0.0
