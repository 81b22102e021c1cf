"""Errors as one line for the user: `UserError`, and the errors of libraries."""

import errno
import re
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

OUT_OF_REACH = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
"""No space or no permission to write; a traceback would not help."""

COMPILER = ("torch._dynamo", "torch._inductor")
"""The modules of the errors of torch.compile."""
LONGEST = 400
"""Characters shown of a parser's message, which may quote a whole file."""


class UserError(Exception):
    """An error that the user can correct: what is wrong, where (file, key, row), and what to do."""


class Parser(ArgumentParser):
    """An argument parser that raises UserError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {_cut(message)} (--help lists the options)")


def explain(error: BaseException | None) -> str | None:
    """Describe the first user error in the chain of causes; None if there is none.

    It is one line, or a list of indented ones below it.
    """
    while error is not None:
        line = _explain(error)
        if line is not None:
            return "\n  ".join(map(escape_unprintable, line.split("\n  ")))
        error = error.__cause__
    return None


@contextmanager
def as_user_error(what: str) -> Iterator[None]:
    """Re-raise unexpected exceptions as UserError, prefixed with `what`.

    For objects created from the user's settings, which may raise anything; `--debug` shows where.
    """
    try:
        yield
    except Exception as error:
        reason = explain(error)
        if reason is not None and not _is_misconfiguration(error):
            raise
        reason = reason or f"{type(error).__name__}: {_shorten(str(error))}"
        raise UserError(f"{what}: {reason}") from error


def escape_unprintable(text: str) -> str:
    """Escape unprintable characters, so that any file name prints on one line."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _explain(error: BaseException) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ArgumentError):
        return _shorten(error.message or str(error))
    if isinstance(error, OSError) and error.errno in OUT_OF_REACH:
        where = error.filename or "the run folder"
        return f"cannot write {where}: {error.strerror}; fix that, then resume (RESUME=1)"
    if _is_misconfiguration(error):
        return f"trainer: {_shorten(str(error))}"
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on"):
        return f"trainer.callbacks: {_shorten(str(error))}"
    if type(error).__module__.startswith(COMPILER):
        return (
            f"--compile: {str(error).partition(chr(10))[0]}; fix that, or train without --compile"
        )
    if match := re.fullmatch(r"Function '(\w+)' returned nan values in .* output\.", str(error)):
        return (
            f"the gradient became NaN in {match[1]}, the backward of an operation of the network "
            "or the loss; checkpoints are unaffected; --debug shows where the forward called it"
        )
    return None


def _is_misconfiguration(error: BaseException) -> bool:
    """Whether it is Lightning's error for an invalid argument, recognised without importing it."""
    return type(error).__name__ == "MisconfigurationException"


def _shorten(message: str) -> str:
    """A parser's message on one line, with only the first of the types that do not match."""
    line = " ".join(message.split())
    line = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: .*?Errors: - ", "", line
    )
    line = re.sub(r" - Expected a .*?(?= Given value: )", ";", line)
    line = re.sub(r"[.;]? (Given value|Got value): (Namespace|NestedArg)\(.*", "", line)
    line = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", line)
    line = re.sub(r"(Given|Got) value: ", "got ", line)
    return _cut(line.replace("Parser key ", "").removesuffix(";"))


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
