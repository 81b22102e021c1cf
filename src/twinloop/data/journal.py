"""What of a decoding is done, on disk, so that the next process resumes one that was killed."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twinloop.data.decode import Decoded, Task


class Journal:
    """A file of JSON lines: the plan of a decoding, then each task that is done.

    The rows of a task are on disk before its line is. A file that has another plan is ignored, and
    so is a line that was cut off.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        self.path, self.plan = path, plan
        self.tasks: set[Task] = set()
        self.done = Decoded()
        lines, size = read_lines(path)
        self.is_new = lines[:1] != [plan]
        if not self.is_new:
            os.truncate(path, size)  # or the next line would be added to one that was cut off
            for (array, first), found in lines[1:]:
                self.tasks.add((array, first))
                unreadable = [(split, row, reason) for split, row, reason in found["unreadable"]]
                self.done.add(Decoded(found["rows"], found["animated"], unreadable))

    def begin(self) -> None:
        """Write the plan, with nothing done."""
        self.path.write_text(f"{json.dumps(self.plan)}\n")

    def note(self, task: Task, found: Decoded) -> None:
        """Add the line of a task that is done."""
        with self.path.open("a") as file:
            file.write(f"{json.dumps([task, asdict(found)])}\n")


def read_lines(path: Path) -> tuple[list[Any], int]:
    """The lines of a journal up to the first that is not whole, and their size in bytes."""
    lines: list[Any] = []
    size = 0
    with suppress(FileNotFoundError, ValueError), path.open("rb") as file:
        for line in file:
            lines.append(json.loads(line[:-1]))  # no JSON where the end of the line is missing
            size += len(line)
    return lines, size
