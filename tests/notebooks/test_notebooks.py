"""Each notebook has the format of notebooks/README.md, runs, and its check fails until solved."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[0-9]*.py"))
HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""


class Cell(NamedTuple):
    """A cell of a file in percent format."""

    kind: str
    """What follows `# %%`: nothing, `[markdown]`, or tags."""
    text: str
    line: int
    """Of the file, the first of `text`."""


def cells_of(path: Path) -> list[Cell]:
    text = path.read_text()
    marks = list(re.finditer(r"^# %%(.*)\n", text, re.MULTILINE))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        Cell(mark[1].strip(), text[mark.end() : end], text[: mark.end()].count("\n"))
        for mark, end in zip(marks, ends, strict=True)
    ]


def named(path: Path) -> str:
    return path.stem


def test_the_notebooks_are_those_that_the_readme_lists() -> None:
    readme = (NOTEBOOKS / "README.md").read_text()
    listed = re.findall(r"^\| \[(\d+)\. .*?\]\((\w+\.py)\) \|", readme, re.MULTILINE)
    assert [name for _, name in listed] == [path.name for path in SOURCES]
    assert [f"{int(number):02}" for number, _ in listed] == [path.stem[:2] for path in SOURCES]
    assert [int(number) for number, _ in listed] == list(range(1, 18))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_notebook_has_the_format(path: Path) -> None:
    cells = cells_of(path)
    assert path.read_text().startswith(HEADER + "# %% [markdown]\n")
    first = cells[0].text
    assert re.match(rf"# # {int(path.stem[:2])}\. \S.*\n#\n# \*\*You know already\*\*", first)
    assert "# **The new idea" in first
    questions = [n for n, cell in enumerate(cells) if cell.text.startswith("# **Question.**")]
    assert len(questions) in (2, 3)
    for number in questions:
        answer = cells[number + 1]
        if answer.kind == "[markdown]":
            assert answer.text.startswith("# <details><summary>Answer</summary>\n#\n")
            assert answer.text.rstrip().endswith("\n#\n# </details>")
    tags = [cell.kind for cell in cells]
    assert tags.count('tags=["exercise"]') == 1
    assert tags.index('tags=["check"]') == tags.index('tags=["exercise"]') + 1
    assert set(tags) == {"", "[markdown]", 'tags=["exercise"]', 'tags=["check"]'}
    assert len(cells_of(NOTEBOOKS / "solutions" / path.name)) == 1
    assert cells[-1].kind == "[markdown]"
    assert "](../src/twinloop/" in cells[-1].text
    text = "".join(cell.text for cell in cells if cell.kind == "[markdown]")
    for link in re.findall(r"\]\((?!https:)([^)#]+)", text):
        assert "lightning_logs" in link or (NOTEBOOKS / link).is_file(), link


def run(cell: Cell, path: Path, names: dict[str, Any]) -> None:
    """Run a cell so that errors are of the line of the file."""
    exec(compile("\n" * cell.line + cell.text, str(path), "exec"), names)


pytestmark = [
    pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]


def run_all(path: Path) -> dict[str, Any]:
    """Run a notebook until its check fails, then with the solution, and return what it defines."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    solution = NOTEBOOKS / "solutions" / path.name
    for cell in cells_of(path):
        if cell.kind == 'tags=["check"]':
            with pytest.raises(AssertionError, match=r"^[^\n]*(\w+\W+){5,}"):  # a sentence
                run(cell, path, names)
            (solved,) = cells_of(solution)
            run(solved, solution, names)
        if cell.kind != "[markdown]":
            run(cell, path, names)
    plt.close("all")
    return names


@pytest.mark.slow
@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_notebook_runs_and_its_check_fails_until_it_is_solved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "digits")
    run_all(path)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(600)
def test_a_notebook_on_real_data(fashion_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", str(fashion_mnist))
    names = run_all(NOTEBOOKS / "05_stride_2_cnn.py")
    assert names["accuracy"](names["trained"], names["dls"]) > 0.6
