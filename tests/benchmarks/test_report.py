"""What was measured is kept, and shown."""

import json
from pathlib import Path

from benchmarks import report
from benchmarks.pairs import Target, row

ABOUT = {
    "machine": "2 cores of a kind",
    "device": "cpu",
    "threads": 1,
    "data": "digits",
    "versions": {"python": "3.11", "torch": "2.13"},
    "commit": "0123456789abcdef+",
    "seconds": 7,
}
TIMES = {"ours": [0.002, 0.004], "theirs": [0.001, 0.001]}
GROWTH = [
    {"grows": "data", "times": 1, "images": 9, "us_per_image": 0.2, "own_mb": 90.0}
    | {"mapped_mb": 10.0},
    *(
        {"grows": grows, at: 2, "loop": loop, "step_ms": {"median": 1.0, "low": 0.9, "high": 1.2}}
        | ({} if loop == "by hand" else {"added_ms": {"median": 0.25, "low": 0.2, "high": 0.3}})
        | ({} if loop == "by hand" else {"share": {"median": 0.25, "low": 0.2, "high": 0.3}})
        | {"n": 3}
        for grows, at in (("batch", "size"), ("width", "times"), ("processes", "processes"))
        for loop in ("by hand", "Learner")
    ),
]


def test_a_part_takes_its_place_in_the_readme_and_leaves_the_rest(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Before\n\n" + "\n".join(report.MARKERS) + "\n\nAfter.\n")
    lines = [row(TIMES, "ours", "theirs", Target(1.5), experiment="mlp")]
    report.keep("loops", ABOUT, lines, tmp_path)
    report.keep("batches", ABOUT, [row(TIMES, "theirs", "ours")], tmp_path)
    first = readme.read_text()
    report.keep("loops", ABOUT | {"seconds": 9}, lines, tmp_path)
    text = readme.read_text()
    before, _, after = first.rpartition("7 s.")  # the second section is that of the loops
    assert text == f"{before}9 s.{after}"
    assert text.startswith("# Before\n\n<!-- measured")
    assert text.endswith("<!-- end of measured -->\n\nAfter.\n")
    assert text.index("### Batches alone") < text.index("### Loops")
    line = "| mlp | ours | theirs | 3.000 (2.500 to 3.500) times as long | <= 1.5 **missed** | 3 ms"
    assert line in text
    kept = json.loads((tmp_path / "results.json").read_text())
    assert list(kept) == ["loops", "batches"]
    assert kept["loops"] == {"about": ABOUT | {"seconds": 9}, "rows": lines}


def test_growth_is_shown_as_table_and_figure(tmp_path: Path) -> None:
    report.keep("growth", ABOUT, GROWTH, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| x1 | 9 | 0.200 | 90 | 10 |" in text
    assert "| 2 | Learner | 1 (0.9 to 1.2) | 0.25 (0.2 to 0.3) | 25.0% | 3 |" in text
    assert "Learner adds less than 1% where a step takes over 25.0 ms." in text
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_a_profile_has_the_share_of_each_part() -> None:
    rows = [
        {"experiment": "mlp", "loop": "Learner", "ms": {"data": 1.0, "forward": 3.0}},
        {"experiment": "mlp", "loop": "Learner", "python_ms": {"torch": 0.5, "rich": 0.0}},
    ]
    text = report.section("profile_steps", {"about": ABOUT, "rows": rows})
    assert "| mlp | Learner | 4.00 | 1.00 (25%) | 3.00 (75%) |" in text
    assert "| mlp | Learner | 0.50 | 0.50 (100%) | 0.00 (0%) |" in text


def test_seconds_are_in_a_unit_that_fits() -> None:
    found = [report._seconds(seconds) for seconds in (2.5, 0.0125, 3e-6, 4e-9)]
    assert found == ["2.5 s", "12.5 ms", "3 us", "4 ns"]
