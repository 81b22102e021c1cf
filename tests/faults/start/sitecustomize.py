"""Python loads this before a command that another launcher has started, where it is on the path."""

import signal

from twinloop.launched import LAUNCHED, leave_to_first

# As twinloop.__main__ does first: nothing is at stake yet.
signal.signal(signal.SIGINT, leave_to_first if LAUNCHED else signal.SIG_DFL)

from tests.faults.moments import follow_orders_of_environment  # noqa: E402

follow_orders_of_environment()
