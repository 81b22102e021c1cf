"""What a model must know of a data set: the shape of an image and the names of the classes."""

from typing import NamedTuple


class DataSpec(NamedTuple):
    """The facts of a data set that models, results and figures are built from.

    `fingerprint` is a SHA-256 of all decoded pixels and labels: equal data has the same one on
    every machine, wherever it was read from.
    """

    name: str
    fingerprint: str
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    class_names: tuple[str, ...]
