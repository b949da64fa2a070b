"""The command line: what a process does with its arguments, and how it ends.

Parsing needs neither NumPy nor Keras. Only when there is a command to run is `headstart.cli.commands` imported: help and most
refusals come at once.
"""

import contextlib
import errno
import importlib
import importlib.metadata
import os
import signal
import sys
from typing import Any

from headstart.cli.options import SHELLS, parse, summary
from headstart.errors import HeadstartError, UnreachableError, UnwritableError
from headstart.system.files import is_disk_full
from headstart.system.remote import STOPPED, public
from headstart.system.text import printable

# Ctrl-C; how a batch system ends jobs; a terminal that is closed, or a connection to it that breaks off.
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# What reading and writing open files raise when their disk has gone.
LOST = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.EROFS, getattr(errno, "ESTALE", None), getattr(errno, "ENOTCONN", None))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit status is 2 for what the user can mend, 130 after Ctrl-C, `kill` or a closed terminal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    STOPPED.clear()
    for number in STOPS:
        # What is ignored stays so: SIGHUP under nohup, Ctrl-C in the background of a shell script.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # some that take their place cannot be told
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        run(without_credentials(arguments))
    except (UnreachableError, UnwritableError) as error:
        fail(f"{error}{way_on(error)}")
    except HeadstartError as error:
        fail(str(error))
    except KeyboardInterrupt as error:
        fail(f"interrupted{way_on(error)}", status=130)
    except BrokenPipeError:
        sys.exit(141)  # the reader of our output has gone, as with `| head`
    except OSError as error:
        if is_disk_full(error):
            fail(f"the disk is full ({error}); make room{way_on(error)}")
        if not error.filename and error.errno not in LOST:
            raise
        fail(f"{error.filename or 'a disk'}: {error.strerror}{way_on(error)}")
    except RuntimeError as error:
        if "home directory" not in str(error):  # of `expanduser`
            raise
        fail("a path begins with ~, and there is no such home folder: give the whole path")


def run(arguments: list[str]) -> None:
    """Do what arguments ask for."""
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        return print(summary(), end="")
    if first == "--version":
        return print(f"headstart {importlib.metadata.version('headstart')}")
    if first == "--completion":
        shell = (arguments[1:] or [""])[0]
        if shell not in SHELLS:
            raise HeadstartError(f"--completion wants the name of a shell: {', '.join(SHELLS)}")
        arguments = ["--tyro-write-completion", shell, "-"]
    elif first.startswith("-"):
        raise HeadstartError(f"headstart begins with a command, not with {first} (headstart --help lists them)")
    name, options = parse(arguments)
    getattr(importlib.import_module("headstart.cli.commands"), name)(options)


def without_credentials(arguments: list[str]) -> list[str]:
    """Return arguments without the credentials in addresses, which this process remembers. --mlflow refuses them itself."""
    before = ["", *arguments]
    return [
        word if "--mlflow" in (one, word.partition("=")[0]) else public(word)
        for one, word in zip(before, arguments, strict=False)
    ]


def stop(*_: Any) -> None:
    """End the command with an exception. If that is asked for once more, meanwhile, end the process at once."""
    for number in STOPS:
        if signal.getsignal(number) == stop:
            signal.signal(number, stop_at_once)
    STOPPED.set()  # threads that wait for a connection end, too
    raise KeyboardInterrupt


def stop_at_once(*_: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"headstart: interrupted again\n")
    os._exit(130)


def way_on(error: BaseException) -> str:
    """Return how to go on with the run that an exception has stopped, if there is one."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", [])[-1:])


def fail(message: str, status: int = 2) -> None:
    print("\n".join(map(printable, f"headstart: {message}".split("\n"))), file=sys.stderr)
    sys.exit(status)
