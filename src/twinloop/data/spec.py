"""The facts of a data set that models, results and figures are built from."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class DataSpec(NamedTuple):
    """Name, fingerprint, image shape and class names of a data set."""

    name: str
    fingerprint: str
    """SHA-256 of all decoded pixels and labels, equal for equal data on every machine."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The facts as a checkpoint or a JSON file has them."""
        tuples = {name: tuple(facts[name]) for name in ("image_shape", "class_names")}
        return cls(**{**facts, **tuples})
