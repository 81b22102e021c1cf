"""Whatever an error says, a user sees a line, or a list, that a terminal can print."""

import re
from argparse import ArgumentError

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from twinloop.errors import LONGEST, Parser, UserError, as_user_error, escape_unprintable, explain


def test_unprintable_characters_are_escaped() -> None:
    # A file name that is no UTF-8 comes as a lone surrogate; U+202E turns the line around.
    assert (
        escape_unprintable("ü 猫 a\nb\x1b[2J\t\udcff\u202e")
        == "ü 猫 a\\nb\\x1b[2J\\t\\udcff\\u202e"
    )


@pytest.mark.parametrize(
    "error",
    [
        UserError("a\nb"),
        ArgumentError(None, "a\x1bb"),
        OSError(13, "denied", "a\nb"),
    ],
)
def test_an_error_is_one_line(error: Exception) -> None:
    line = explain(error)
    assert line is not None
    assert line.isprintable()


def test_what_an_error_lists_has_lines_of_its_own() -> None:
    error = UserError("2 images", "a.png: cut\nshort", "b.png")
    assert str(error) == "2 images\n  a.png: cut\nshort\n  b.png"
    assert explain(error) == "2 images\n  a.png: cut\\nshort\n  b.png"


def test_a_long_parser_error_is_cut() -> None:
    line = explain(ArgumentError(None, "x" * 10_000))
    assert line == "x" * LONGEST + "..."
    parser = Parser("twinloop compare")
    parser.add_argument("--seeds", type=int)
    with pytest.raises(UserError, match=r"9\.\.\. \(--help lists the options\)$"):
        parser.parse_args(["--seeds", "9" * 10_000])


@pytest.mark.parametrize(
    "found",
    [
        "Expected a dot import path string: StepLR",
        "Import path a.StepLR does not correspond to a subclass of Schedule",
    ],
)
def test_a_parser_error_of_a_factory_names_what_is_wrong(found: str) -> None:
    either = (
        "Type typing.Callable[[Optimizer], LRScheduler] expects a function or a callable class: "
    )
    wrong = "Option 'steps' is not accepted"
    line = explain(ArgumentError(None, f'Key "schedule": {found} - {either}{wrong}'))
    assert line == f'Key "schedule": {wrong}'
    line = explain(ArgumentError(None, f'Key "warmup": Expected a float. got a - {either}{wrong}'))
    assert line == 'Key "warmup": Expected a float. got a'


def test_a_class_that_is_not_found_is_named() -> None:
    message = """Parser key "model":
      Does not validate against any of the Union subtypes
      Subtypes: [<class 'twinloop.tasks.task.Task'>, <class 'NoneType'>]
      Errors:
        - Problem with given class_path 'twinloop.tasks.Classification':
            Parser key "network":
              - Expected a path but nets.Nope either not accessible or invalid
              - Type Made expects a function or a callable class: No module named 'nets'
        - Expected a <class 'NoneType'>
      Given value type: <class 'jsonargparse._util.NestedArg'>
      Given value: NestedArg(key='network', val='nets.Nope')"""
    assert explain(ArgumentError(None, message)) == (
        '"model": Problem with given class_path \'twinloop.tasks.Classification\': "network": '
        "No module named 'nets'"
    )


def test_a_mistake_on_the_command_line_comes_without_the_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = Parser("twinloop new")
    parser.add_argument("name")
    message = "twinloop new: the following arguments are required: name (--help "
    with pytest.raises(UserError, match=re.escape(message)):
        parser.parse_args([])
    assert capsys.readouterr().err == ""


def test_an_error_of_any_type_becomes_a_user_error() -> None:
    with pytest.raises(UserError, match=r"^model: KeyError: 'a'$"), as_user_error("model"):
        raise KeyError("a")
    with (
        pytest.raises(UserError, match=r"^mlp.yaml: trainer: no such thing$"),
        as_user_error("mlp.yaml"),
    ):
        raise MisconfigurationException("no such thing")
    with pytest.raises(UserError, match=r"^as it was$"), as_user_error("model"):
        raise UserError("as it was")
    with pytest.raises(KeyboardInterrupt), as_user_error("model"):
        raise KeyboardInterrupt
