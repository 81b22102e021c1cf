"""`python -m twinloop`: see `twinloop.cli`."""

import signal
import sys

from twinloop.launched import LAUNCHED, leave_to_first

# Decoding processes import this module too, without the command line.
if __name__ == "__main__":
    # Until the command has begun, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, leave_to_first if LAUNCHED else signal.SIG_DFL)
    from twinloop.cli import main

    sys.exit(main(sys.argv[1:]))
