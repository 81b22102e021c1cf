"""The facts of a data set that models, results and figures are built from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

MAX_VALUES = 3 * 2**26
"""The most values of an image: 67 million pixels in RGB."""


class DataSpec(NamedTuple):
    """Name, fingerprint, image shape and class names of a data set."""

    name: str
    fingerprint: str
    """SHA-256 of all decoded pixels and labels, equal for equal data on every machine.

    For data of your own any text that changes whenever the data does.
    """
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The facts as a checkpoint or a JSON file has them."""
        tuples = {name: tuple(facts[name]) for name in ("image_shape", "class_names")}
        return cls(**{**facts, **tuples})

    def is_valid(self) -> bool:
        """Whether all parts have their types, and the names print on a line."""
        sizes, names = self.image_shape, (self.name, *self.class_names)
        return (
            len(sizes) == 3
            and all(type(size) is int and size > 0 for size in sizes)
            and math.prod(sizes) <= MAX_VALUES
            and all(isinstance(name, str) and name.isprintable() for name in names)
            and isinstance(self.fingerprint, str)
        )


class DataFacts(NamedTuple):
    """What is known only once a data set is read."""

    test_split: str
    """The name of the test split, or that it was held out."""
    notes: Sequence[str] = ()
    """What a user should know of how the data was read."""
    measures_test: bool = True
    """Whether test has the targets that metrics need."""
