"""Start the server, end it without losing a request, and replace runs while it answers."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from threadpoolctl import threadpool_limits

from headstart.errors import HeadstartError
from headstart.serve.app import application
from headstart.serve.connections import PatientProtocol
from headstart.serve.limits import Hosts, is_loopback
from headstart.serve.measures import Measures
from headstart.serve.models import Models
from headstart.system.files import read_bytes
from headstart.system.text import printable

logger = logging.getLogger("headstart")

MOST_TOKEN = 4096  # bytes
# The first descriptor that a service manager hands on, see sd_listen_fds(3).
FIRST_DESCRIPTOR = 3
SECONDS_IDLE = 30


def serve(
    paths: Sequence[Path], host: str, port: int, *, token_file: Path | None = None, allowed_hosts: Sequence[str] = (),
    reject: float = 0.0, reject_below: float = 0.0, trust: bool = False,
) -> None:  # fmt: skip
    """Serve runs until a signal ends it.

    Args:
        paths: folders of finished runs.
        host, port: the address to listen on; port 0 is any free one. A socket that a service manager hands on is used instead.
        token_file: a file with what clients must know.
        allowed_hosts: further names that the server may be asked under.
        reject: the precision that is wanted of answers: those that are not sure enough become "none of these"; 0 withholds none.
        reject_below: predictions with a lower probability are marked as rejected, 0..1.
        trust: load layers that may run code, see `headstart.Config`.

    Raises:
        HeadstartError: a run cannot be loaded, the address cannot be used, or the file holds no token.
    """
    token = None if token_file is None else read_token(token_file)
    inherited = inherited_sockets()
    sockets = inherited or [bound(host, port)]
    measures = Measures()
    models = Models(paths, trust, measures, reject, reject_below)
    address = sockets[0].getsockname()[0]
    hosts = Hosts(address if inherited else host, allowed_hosts)
    app = application(models, measures, hosts, token)
    config = uvicorn.Config(
        app, http=PatientProtocol, ws="none", lifespan="off", loop="asyncio", log_config=None, log_level="error",
        access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=SECONDS_IDLE, interface="asgi3",
    )  # fmt: skip
    if token is None and not is_loopback(address):
        logger.warning("everybody who reaches %s can use this server: --token-file keeps others out", address)
    server = Server(config, models, own=[] if inherited else sockets)
    server.welcome = f"serving {', '.join(models.served)} on {link(sockets[0], host)}"
    # The threads of BLAS, which compares features, spin until they get more work, and the engine has use for the cores.
    with threadpool_limits(1, "blas"):
        server.run(sockets=sockets)


class Server(uvicorn.Server):
    """uvicorn's server, which answers everybody who was connected when it ends, and then ends with exit status 0.

    Args:
        models: what a SIGHUP loads anew.
        own: the sockets that only this process listens on.
    """

    welcome = ""

    def __init__(self, config: uvicorn.Config, models: Models, own: list[socket.socket]) -> None:
        super().__init__(config)
        self.models, self.own = models, own
        self.reloading = threading.Lock()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        logger.info("%s", self.welcome)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.end)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self.reload)
        yield

    def end(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + number)
        self.should_exit = True

    def reload(self, *_: Any) -> None:
        """Load what has changed, in a thread; once more if that was asked for meanwhile."""

        def load() -> None:
            with self.reloading:
                self.models.reload()

        threading.Thread(target=load, name="reload", daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("ending: what has been asked is answered first")
        for one in self.own:
            one.listen(0)
        # A connection may be on its way when the queue is made short. After the last look into it, nothing else runs before it is
        # closed.
        await asyncio.sleep(0.02)
        for one in self.own:
            await self.accept_waiting(one)
        await super().shutdown(sockets)
        await asyncio.to_thread(self.reloading.acquire)  # a process must not end while a thread compiles a network

    async def accept_waiting(self, listening: socket.socket) -> None:
        """Accept the connections that wait in a socket's queue: closing it would break them."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # there is none
                return
            connection.setblocking(False)
            await loop.connect_accepted_socket(
                lambda: PatientProtocol(config=self.config, server_state=self.server_state, app_state={}), connection
            )


def bound(host: str, port: int) -> socket.socket:
    """Return a socket of an address. Nobody can connect until it listens.

    Raises:
        HeadstartError: the address is not one of this machine, or is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with contextlib.ExitStack() as if_not_bound:
            one = if_not_bound.enter_context(socket.socket(family, kind, protocol))
            if os.name == "posix":  # a port is free again at once after its server has ended
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
            if_not_bound.pop_all()
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "no such name"
        raise HeadstartError(f"cannot listen on {host}, port {port} ({why}): choose others with --host and --port") from None
    return one


def inherited_sockets() -> list[socket.socket]:
    """Return the sockets that a service manager has opened for this process; mostly there are none.

    Raises:
        HeadstartError: one is not a TCP socket.
    """
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    number = os.environ.pop("LISTEN_FDS", "0")
    try:
        found = [socket.socket(fileno=FIRST_DESCRIPTOR + place) for place in range(int(number))]
    except (OSError, ValueError):
        raise HeadstartError(f"LISTEN_FDS is {number}, but there are not so many sockets from descriptor 3 on") from None
    if any(one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM for one in found):
        raise HeadstartError("a socket of LISTEN_FDS is not of TCP: set ListenStream to a port")
    return found


def read_token(file: Path) -> bytes:
    """Return the token in a file.

    Raises:
        HeadstartError: there is none, or not one that stands in a header.
    """
    try:
        token = read_bytes(file, MOST_TOKEN).strip()
    except OSError as error:
        raise HeadstartError(f"{file} cannot be read: {error.strerror}") from None
    if not token or not token.isascii() or any(not 33 <= one <= 126 for one in token):
        raise HeadstartError(f"{file} holds no token: write a line of letters and digits, such as from openssl rand -hex 32")
    return token


def link(listening: socket.socket, host: str) -> str:
    """Return the address to type into a browser on this machine."""
    address, port = listening.getsockname()[:2]
    name = "localhost" if address in ("0.0.0.0", "::") else f"[{address}]" if ":" in address else address
    return f"http://{printable(name)}:{port}/"
