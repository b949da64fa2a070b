"""The command line: what a process does with its arguments, and how it ends.

Parsing needs neither NumPy nor Keras. Only when there is a command to run is `headstart.cli.commands` imported: help and most
refusals come at once.
"""

import contextlib
import importlib
import importlib.metadata
import signal
import sys

from headstart.cli.options import SHELLS, parse, summary
from headstart.errors import HeadstartError, UnwritableError
from headstart.system.files import is_disk_full
from headstart.system.text import printable


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit status is 2 for what the user can mend, 130 after Ctrl-C or `kill`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system ends jobs so: they should say how to go on
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # some that take their place cannot be told
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        run(arguments)
    except UnwritableError as error:
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
        if not error.filename:
            raise
        fail(f"{error.filename}: {error.strerror}{way_on(error)}")
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


def way_on(error: BaseException) -> str:
    """Return how to go on with the run that an exception has stopped, if there is one."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", [])[-1:])


def fail(message: str, status: int = 2) -> None:
    print("\n".join(map(printable, f"headstart: {message}".split("\n"))), file=sys.stderr)
    sys.exit(status)
