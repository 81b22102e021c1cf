"""The one exception that is shown to a user as a line, and what other errors say in a line."""

import errno
import re
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

OUT_OF_REACH = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
"""No room, or no right to write: nothing that a traceback would explain."""

COMPILER = ("torch._dynamo", "torch._inductor")
"""Where errors of torch.compile are from."""
LONGEST = 400
"""How much is shown of what the parser says, which may hold whole files."""


class UserError(Exception):
    """A mistake its reader can mend: says what is wrong, where (file, key, row), and what to do."""


class Parser(ArgumentParser):
    """An argument parser whose mistakes are told as all others are, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Tell a mistake.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.prog}: {_cut(message)} (--help shows what there is)")


def explain(error: BaseException | None) -> str | None:
    """What a user did wrong, where an error in the chain of causes is of that kind."""
    while error is not None:
        line = _explain(error)
        if line is not None:
            return escape_unprintable(line)
        error = error.__cause__
    return None


@contextmanager
def as_user_error(what: str) -> Iterator[None]:
    """Tell any error that is not told otherwise as a user's mistake, after `what`.

    For what is made of a user's words, and raises whatever it likes: `--debug` shows where.

    Raises:
        UserError: in place of another error.
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
    """`text` on one line, whatever a file is called: what cannot be printed is spelled out."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _explain(error: BaseException) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ArgumentError):
        return _shorten(error.message or str(error))
    if isinstance(error, OSError) and error.errno in OUT_OF_REACH:
        where = error.filename or "the run folder"
        return f"cannot write {where}: {error.strerror}; mend that, then go on (RESUME=1)"
    if _is_misconfiguration(error):
        return f"trainer: {_shorten(str(error))}"
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on"):
        return f"trainer.callbacks: {_shorten(str(error))}"
    if type(error).__module__.startswith(COMPILER):
        return f"--compile: {str(error).partition(chr(10))[0]}; mend that, or train without it"
    if match := re.fullmatch(r"Function '(\w+)' returned nan values in .* output\.", str(error)):
        return (
            f"the gradient became NaN in {match[1]}, the backward of an operation of the network "
            "or the loss; nothing of it was saved; --debug shows where in the forward it was called"
        )
    return None


def _is_misconfiguration(error: BaseException) -> bool:
    """Whether it is Lightning's error for an invalid argument, which knows of no file."""
    return type(error).__name__ == "MisconfigurationException"


def _shorten(message: str) -> str:
    """The parser's message in one line, with only the first of the types that did not fit."""
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
