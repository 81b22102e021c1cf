"""Python loads this before a command that another launcher has started, where it is on the path."""

import signal

# As twinloop.__main__ does first: nothing is at stake yet.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from tests.faults.moments import follow_orders_of_environment  # noqa: E402

follow_orders_of_environment()
