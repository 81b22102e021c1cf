"""The facts of a data set that models, results and figures are built from."""

from typing import NamedTuple


class DataSpec(NamedTuple):
    """Name, fingerprint, image shape and class names of a data set."""

    name: str
    fingerprint: str
    """SHA-256 of all decoded pixels and labels, equal for equal data on every machine."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    class_names: tuple[str, ...]
