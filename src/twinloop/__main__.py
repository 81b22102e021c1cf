"""`python -m twinloop`: see `twinloop.cli`."""

import sys

# Processes that decode pictures import this module too, and have no use for the command line.
if __name__ == "__main__":
    from twinloop.cli import main

    sys.exit(main(sys.argv[1:]))
