"""The same experiment in two training loops: Lightning's Trainer and a homemade Learner.

`load` gives the trained task of a run, and `export` writes it for other programs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinloop.runs.export import export as export
    from twinloop.runs.load import load as load


def __getattr__(name: str) -> Any:
    """Import `load` or `export` when it is first used: both import PyTorch."""
    if name not in ("load", "export"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"twinloop.runs.{name}"), name)
