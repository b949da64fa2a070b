"""The exception for a user's mistake or a machine that cannot do the job, and its kinds."""


class HeadstartError(Exception):
    """The message says what was wrong, where, and what to do, in one or two lines.

    The command line prints it without a traceback and exits with status 2.
    """


class UnwritableError(HeadstartError):
    """A file or folder cannot be written: the disk is full, the path is read-only, or something is in the way.

    A run that stopped with this error can be resumed when the cause is removed.
    """


class UnreachableError(HeadstartError):
    """What an address names cannot be reached, or has changed meanwhile: a matter of all files there, and not of one.

    What stopped with this error can go on when the cause is removed.
    """


class DamagedError(HeadstartError):
    """A file is not what it should be: cut, changed, or made by something else. The message names the file and the entry."""
