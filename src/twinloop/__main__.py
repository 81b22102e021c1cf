"""`python -m twinloop`: see `twinloop.cli`."""

import signal
import sys

from twinloop.launched import LAUNCHED, leave_to_first

# Processes that decode images import this module too, and have no use for the command line.
if __name__ == "__main__":
    # Until the command begins, and nothing is at stake, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, leave_to_first if LAUNCHED else signal.SIG_DFL)
    from twinloop.cli import main

    sys.exit(main(sys.argv[1:]))
