"""What a command does outside of its own folders: Python tells of every file, program and import.

Processes that decode images are not watched; what they leave is seen by looking at the folder.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TARGETS = {
    **dict.fromkeys(("os.rmdir", "os.remove"), ((0, 1),)),
    **dict.fromkeys(("os.mkdir", "os.chmod"), ((0, 2),)),
    **dict.fromkeys(("os.rename", "os.link"), ((0, 2), (1, 3))),
    "os.symlink": ((1, 2),),
    "shutil.rmtree": ((0, 1),),
}
"""Which arguments of an event are a path that is changed, and the open folder that it is in."""
PROGRAMS = {
    **dict.fromkeys(("os.system", "os.startfile"), 0),
    **dict.fromkeys(("os.exec", "os.posix_spawn", "pty.spawn"), 0),
}
ANYWHERE = (Path(sys.prefix), Path("/dev"), Path("/proc/self"))
"""Where Python keeps what it has compiled, and where nothing is kept."""
HARMLESS = ("git", "uname", "lscpu")
"""Programs that say which commit and machine it was."""


class Watch:
    """Keeps what is done while it is `watching`: an audit hook cannot be taken away again.

    Args:
        inside: Where a command may write.
        inputs: What no code may come from.
    """

    def __init__(self, inside: tuple[Path, ...], inputs: Path) -> None:
        self.inside = tuple(map(str, (*inside, *ANYWHERE)))
        self.inputs = str(inputs)
        self.found: set[str] = set()
        self.on = False
        sys.addaudithook(self.event)

    @contextlib.contextmanager
    def watching(self) -> Iterator[set[str]]:
        """Within it, what should not be done is added to the set."""
        self.found = set()
        self.on = True
        try:
            yield self.found
        finally:
            self.on = False

    def event(self, name: str, args: tuple[Any, ...]) -> None:
        """Look at one thing that is done."""
        if not self.on:
            return
        if name == "open":
            if args[2] is not None and args[2] & WRITING:
                self.written(name, args[0])
        elif name in TARGETS:
            for path, folder in TARGETS[name]:
                self.written(name, args[path], args[folder])
        elif name in PROGRAMS:
            self.found.add(f"{name} {args[PROGRAMS[name]]!r}")
        elif name == "subprocess.Popen":
            program = args[1][0] if isinstance(args[1], list | tuple) else args[1]
            if os.fsdecode(program) not in (*HARMLESS, sys.executable):
                self.found.add(f"{name} {args[1]!r}")
        elif name == "exec":
            source = getattr(args[0], "co_filename", "")
            if source.startswith(self.inputs):
                self.found.add(f"runs {source}")

    def written(self, name: str, path: Any, folder: int | None = None) -> None:
        """A path that is about to be changed; a number is that of a file which is open already."""
        if isinstance(path, int):
            return
        beside = f"/proc/self/fd/{folder}" if folder not in (None, -1) else "."
        path = os.path.join(os.path.realpath(beside), os.fsdecode(path))  # noqa: PTH118
        whole = os.path.normpath(path)
        if not whole.startswith(self.inside):
            self.found.add(f"{name} {whole}")
