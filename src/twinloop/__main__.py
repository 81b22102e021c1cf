"""`twinloop` and `python -m twinloop`: see `twinloop.cli`."""

import signal
import sys
from pathlib import Path

from twinloop.launched import LAUNCHED, leave_to_first


def run() -> None:
    """Run the command of `sys.argv`, and exit with its status.

    An experiment may name classes in files of the current folder, however the command was started.
    """
    # Until the command has begun, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, leave_to_first if LAUNCHED else signal.SIG_DFL)
    if not sys.flags.safe_path and __name__ != "__main__":  # as -m does
        sys.path.insert(0, str(Path.cwd()))  # absolute: a file is parsed from its own folder
    from twinloop.cli import main

    sys.exit(main(sys.argv[1:]))


# Decoding processes import this module too, without the command line.
if __name__ == "__main__":
    run()
