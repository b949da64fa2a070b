"""The one exception that a user's mistake or a poor machine ends in, and the kind after which a run can go on."""


class HeadstartError(Exception):
    """What was wrong, where, and what to do, in one or two lines.

    The command line prints it without a traceback and exits with status 2.
    """


class UnwritableError(HeadstartError):
    """A file or folder cannot be written: the disk is full, it is read-only, or something is in the way.

    Once that is mended, a run that it stopped can be resumed.
    """
