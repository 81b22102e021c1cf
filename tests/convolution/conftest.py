"""Hypothesis generates the same examples every time and keeps nothing on disk."""

from hypothesis import settings

settings.register_profile(
    "deterministic", derandomize=True, max_examples=40, deadline=None, database=None
)
settings.load_profile("deterministic")
