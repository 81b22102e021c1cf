"""The one exception that is shown to a person as a line and not as a traceback."""


class UserError(Exception):
    """A mistake its reader can mend: says what is wrong, where (file, key, row), and what to do."""
