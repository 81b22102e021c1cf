"""Change a file or a nested value somewhere."""

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing.sandbox import Draw


def damaged(whole: bytes, draw: Draw) -> bytes:
    """A file cut off, or with a few bytes of it changed."""
    if draw(st.booleans()):
        return whole[: draw(st.integers(0, len(whole) - 1))]
    changed = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(whole) - 1))
        changed[place] ^= draw(st.integers(1, 255))
    return bytes(changed)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key and item in a nested value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        yield (*at, key)
        if isinstance(part, dict | list):
            yield from places(part, (*at, key))


CHANGES = ("set", "set", "set", "drop", "wrap", "rename")


def mutated(
    value: Any, draw: Draw, values: st.SearchStrategy[Any], changes: Sequence[str] = CHANGES
) -> Any:
    """`value` with one key or item in it changed, renamed, left out or moved."""
    *way, key = draw(st.sampled_from(sorted(places(value), key=str)))
    parent = value
    for step in way:
        parent = parent[step]
    change = draw(st.sampled_from(changes))
    if change == "set":
        parent[key] = draw(values)
    elif change == "drop":
        del parent[key]
    elif change == "wrap":
        parent[key] = [parent[key]]
    elif isinstance(parent, dict):
        parent[draw(st.one_of(st.text(max_size=5), st.sampled_from([1, None, "__class__"])))] = (
            parent.pop(key)
        )
    return value
