"""The one exception that a user's mistake or a poor machine ends in."""


class HeadstartError(Exception):
    """What was wrong, where, and what to do, in one or two lines.

    The command line prints it without a traceback and exits with status 2.
    """
