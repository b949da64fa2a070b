"""What the user is told if Keras cannot download a data set or weights."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from headstart.errors import HeadstartError

# A server that sends nothing for so many seconds has stalled. Keras itself would wait for ever.
PATIENCE = 60.0


@contextmanager
def explained_download(instead: str) -> Iterator[None]:
    """Turn a failed download inside the block into a `HeadstartError`.

    Keras itself names the address in its message, checks the hash and removes a partial file.

    Args:
        instead: what to do without a network, as the end of a sentence.
    """
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    # A broken connection has its own kind of exception. Keras puts the other failures into words.
    except (ConnectionError, TimeoutError, HTTPException) as error:
        raise HeadstartError(f"the download broke off ({error}); try again\nWithout a network, {instead}") from None
    # Keras raises a plain Exception for a failed fetch, and a ValueError for a wrong hash.
    except Exception as error:
        message = str(error)
        if not message.startswith(
            ("URL fetch failure", "Incomplete or corrupted file", "<urlopen error", "retrieval incomplete")
        ):
            raise
        raise HeadstartError(f"{message}\nWithout a network, {instead}") from None
    finally:
        socket.setdefaulttimeout(usual)
