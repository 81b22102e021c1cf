"""How ways are timed in turn, and what becomes of their times."""

from functools import partial

import pytest

from benchmarks.pairs import Target, in_turn, quartiles, ratios, row


def test_ways_are_timed_in_rotating_order_after_a_round_that_is_not_counted() -> None:
    called: list[str] = []

    def way(name: str) -> float:
        called.append(name)
        return float(len(called))

    times = in_turn({name: partial(way, name) for name in "ABC"}, rounds=4)
    assert " ".join(called) == "C A B A B C B C A C A B A B C"
    assert times == {"A": [4, 9, 11, 13], "B": [5, 7, 12, 14], "C": [6, 8, 10, 15]}


def test_a_ratio_is_taken_within_a_round() -> None:
    times = {"slow": [3.0, 8.0, 5.0], "fast": [1.0, 2.0, 5.0]}
    assert ratios(times, "slow", "fast") == [3.0, 4.0, 1.0]
    found = row(times, "slow", "fast", Target(2.9), experiment="mlp")
    assert found == {
        "experiment": "mlp",
        "what": "slow",
        "against": "fast",
        "kind": "times as long",
        "ratio": {"median": 3.0, "low": 2.0, "high": 3.5},
        "seconds": {"slow": 5.0, "fast": 2.0},
        "n": 3,
        "target": "<= 2.9",
        "met": False,
    }


@pytest.mark.parametrize(("limit", "met"), [(3.0, True), (3.1, False)])
def test_a_target_of_at_least_so_much_is_in_times_as_fast(limit: float, met: bool) -> None:
    found = row({"slow": [3.0], "fast": [1.0]}, "fast", "slow", Target(limit, at_least=True))
    assert (found["ratio"]["median"], found["kind"]) == (3.0, "times as fast")
    assert (found["target"], found["met"]) == (f">= {limit:g}", met)


def test_quartiles_of_one_value_are_that_value() -> None:
    assert quartiles([2.5]) == {"median": 2.5, "low": 2.5, "high": 2.5}
    assert quartiles([1, 2, 3, 4, 5]) == {"median": 3, "low": 2, "high": 4}
