"""Processes that were started together to train one network: who they are, what they tell each other, and how all of them end.

The first process does everything that one can do alone, and is the only one that writes. The others follow: they wait for what
it sends, and take part where all devices compute together. Between the first process and each of the others lies a TCP
connection for that. The kernel closes it when a process dies, however that happens: so all know at once who it was, and end.

Messages are JSON and plain arrays; nothing that is received is executed.
"""

import atexit
import contextlib
import importlib.metadata
import json
import logging
import os
import queue
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load, save

from headstart.errors import HeadstartError
from headstart.system.devices import join_processes
from headstart.system.text import printable

logger = logging.getLogger("headstart")

CLUSTER = "cluster"  # what --devices calls it
# Where a launcher says how many processes there are, and which one this is: torchrun and Kubernetes' training operator; srun;
# mpirun.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)  # fmt: skip
MEETING = 300.0  # seconds that the processes wait for each other at the beginning
GREETING = 10.0  # seconds that one has to say who it is
# A machine that lost its power or its network closes no connection: it is asked whether it is there.
IDLE, INTERVAL, ASKED = 10, 5, 4  # after so many seconds, every so many seconds, so often
# An error of a collective operation may come before the news of the process that caused it.
NEWS = 5.0
TELLING = 2.0  # seconds at most: a process that has stopped takes no messages
SIZES = struct.Struct(">QQ")  # of a message's JSON and arrays
MOST_JSON, MOST_GREETING = 1 << 28, 1 << 12  # bytes

# Arrays in named groups, such as `model` and `optimizer`.
Groups = Mapping[str, list[np.ndarray]]


@dataclass(frozen=True)
class Place:
    """The place of a process among those that were started together.

    Attributes:
        process: its number, from 0.
        count: how many there are.
        host, port: where the first process listens.
    """

    process: int
    count: int
    host: str
    port: int


class Message(NamedTuple):
    """What a process tells another.

    Attributes:
        kind: `hello`, `welcome`, `doing`, `task`, `arrays`, `failed` or `done`.
        content: JSON.
        arrays: in named groups.
    """

    kind: str
    content: dict[str, Any]
    arrays: dict[str, list[np.ndarray]]


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place that the launcher gave this process in its environment variables.

    Raises:
        HeadstartError: the variables say nothing, or cannot be right.
    """
    found = next((names for names in LAUNCHERS if all(environment.get(name) for name in names)), None)
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    host = environment.get("MASTER_ADDR") or first_host(nodes)
    # One port per job of Slurm, among those that no service has for itself.
    port = environment.get("MASTER_PORT") or (str(61440 + int(environment.get("SLURM_JOB_ID", "0")) % 4096) if nodes else "")
    if not found or not host or not port:
        raise HeadstartError(
            "--devices cluster: nothing says which processes belong together; start them with srun or torchrun, or set "
            "MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK for each"
        )
    numbers = [environment[name] for name in found]
    if not all(re.fullmatch("[0-9]{1,5}", number) for number in (*numbers, port)) or not int(numbers[0]) < int(numbers[1]):
        raise HeadstartError(
            f"--devices cluster: {found[0]} is {numbers[0]!r}, {found[1]} {numbers[1]!r} and the port {port!r}, which cannot be"
        )
    # torchrun listens on MASTER_PORT itself.
    taken = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(int(numbers[0]), int(numbers[1]), host, int(port) + taken)


def first_host(nodes: str) -> str:
    """Return the first host of Slurm's list: `node001` of `node[001-015,020],other`."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]*))?", nodes)
    return match[1] + (match[2] or "") if match else ""


class Connection:
    """A TCP connection between two processes. One thread receives; any may send."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket, self.sending = connected, threading.Lock()
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", INTERVAL), ("TCP_KEEPCNT", ASKED),
            ("TCP_USER_TIMEOUT", 1000 * (IDLE + INTERVAL * ASKED)),
        ):  # fmt: skip
            if hasattr(socket, name):  # Linux has all of them
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, kind: str, content: Mapping[str, Any] | None = None, arrays: Groups | None = None) -> None:
        """Send a message. If the other process has gone, nothing happens: the thread that receives will notice."""
        text = json.dumps({"kind": kind, "content": content or {}}).encode()
        named = {f"{group}.{i:05d}": array for group, members in (arrays or {}).items() for i, array in enumerate(members)}
        blob = save(named) if named else b""
        with contextlib.suppress(OSError), self.sending:
            self.socket.sendall(SIZES.pack(len(text), len(blob)) + text)
            self.socket.sendall(blob)

    def receive(self, most: int = MOST_JSON) -> Message | None:
        """Return the next message, or None if the connection has ended.

        Args:
            most: the largest size of its JSON, in bytes.
        """
        try:
            text_size, blob_size = SIZES.unpack(self.exactly(SIZES.size))
            if text_size > most or (most == MOST_GREETING and blob_size):
                return None  # none of us
            message, blob = json.loads(self.exactly(text_size)), self.exactly(blob_size)
            arrays: dict[str, list[np.ndarray]] = {}
            for key, array in sorted(load(blob).items()) if blob else []:
                arrays.setdefault(key.split(".")[0], []).append(array)
            return Message(message["kind"], message["content"], arrays)
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return None

    def exactly(self, size: int) -> bytes:
        received = bytearray(size)
        view, at = memoryview(received), 0
        while at < size:
            if not (step := self.socket.recv_into(view[at:], min(size - at, 1 << 24))):
                raise EOFError
            at += step
        return bytes(received)


class Cluster:
    """The processes that were started together, as one of them sees them.

    Attributes:
        process, count: its number, from 0, and how many there are.
        doing, way_on: what is being done, and how to go on; ends of the line that says that a process has ended.
        over: whether nothing more is expected of the others.
    """

    def __init__(self, where: Place) -> None:
        self.process, self.count, self.place = where.process, where.count, where
        self.doing, self.way_on, self.over = "", "", False
        self.hosts = {where.process: socket.gethostname()}
        self.connections: dict[int, Connection] = {}
        self.inbox: queue.Queue[Message] = queue.Queue()
        self.leaving = threading.Lock()

    @property
    def others(self) -> list[Connection]:
        return list(self.connections.values())

    def meet(self) -> None:
        """Connect with the others, and let JAX do the same.

        Raises:
            HeadstartError: the others did not come, or have other versions.
        """
        logger.info("%s of %d meets the others at %s:%d", self.name(self.process), self.count, self.place.host, self.place.port)
        told = self.welcome() if self.process == 0 else self.greet()
        for number, connection in self.connections.items():
            threading.Thread(target=self.watch, args=(number, connection), daemon=True).start()
        neighbours = [number for number, host in sorted(self.hosts.items()) if host == self.hosts[self.process]]
        join_processes(told, self.count, self.process, neighbours.index(self.process), len(neighbours))

    def welcome(self) -> str:
        """Wait for all others, and return the address of JAX's coordination service, which they are told."""
        host, waiting = self.place.host, time.monotonic() + MEETING
        with listening(host, self.place.port) as listener:
            while len(self.connections) < self.count - 1:
                listener.settimeout(max(0.01, waiting - time.monotonic()))
                try:
                    connected, _ = listener.accept()
                except TimeoutError:
                    missing = sorted(set(range(1, self.count)) - self.connections.keys())
                    raise HeadstartError(
                        f"{self.count - len(missing)} of {self.count} processes came within {MEETING:.0f} s: "
                        f"process {missing[0]} is missing; see its own messages"
                    ) from None
                self.admit(Connection(connected))
        address = f"{host}:{free_port(host)}"
        for connection in self.others:
            connection.send("welcome", {"address": address, "hosts": self.hosts})
        return address

    def admit(self, connection: Connection) -> None:
        """Take a process that has connected among the others; whoever else it is, is sent away."""
        connection.socket.settimeout(GREETING)
        greeting = connection.receive(MOST_GREETING)
        connection.socket.settimeout(None)
        try:
            said = greeting.content if greeting else {}
            number, host, other = int(said["process"]), str(said["host"]), said["versions"]
        except (KeyError, TypeError, ValueError):
            connection.socket.close()
            return
        if number in self.connections or not 0 < number < self.count:
            raise HeadstartError(f"process {number} came twice: each needs a number of its own below {self.count}")
        self.connections[number], self.hosts[number] = connection, host
        if (own := shared_versions()) != other:
            raise HeadstartError(f"{self.name(number)} has {described(other)}, and process 0 {described(own)}")

    def greet(self) -> str:
        """Connect with the first process, and return the address of JAX's coordination service, which it tells."""
        host, port, waiting = self.place.host, self.place.port, time.monotonic() + MEETING
        while True:
            try:
                connection = Connection(socket.create_connection((host, port), timeout=10))
                break
            except OSError as error:
                if time.monotonic() > waiting:
                    raise HeadstartError(f"process 0 cannot be reached at {host}:{port} ({error})") from None
                time.sleep(0.2)
        self.connections[0] = connection
        own = {"process": self.process, "host": self.hosts[self.process], "versions": shared_versions()}
        connection.send("hello", own)
        answer = connection.receive()
        if not answer or answer.kind != "welcome":
            self.over = True
            why = answer.content["text"] if answer and answer.kind == "failed" else f"process 0 at {host}:{port} has ended"
            raise HeadstartError(why)
        self.hosts = {int(number): host for number, host in answer.content["hosts"].items()}
        return str(answer.content["address"])

    def name(self, number: int) -> str:
        return f"process {number} ({self.hosts.get(number, 'unknown')})"

    def watch(self, number: int, connection: Connection) -> None:
        """Receive what another process sends, until it ends; if it should not have, end this one."""
        while message := connection.receive():
            if message.kind == "failed" and not self.over:
                self.abandon(message.content["text"])
            elif message.kind == "doing":
                self.doing, self.way_on = message.content["doing"], message.content["way_on"]
            else:
                self.over = self.over or message.kind == "done"
                self.inbox.put(message)
        if not self.over:
            self.abandon(f"{self.name(number)} has ended{self.doing}{self.way_on}")

    def abandon(self, text: str) -> None:
        """End this process, whatever its other threads wait for, since the work of all has failed."""
        with self.leaving:
            if self.process == 0:
                telling = threading.Thread(target=self.send, args=("failed", {"text": text}), daemon=True)
                telling.start()
                telling.join(TELLING)
            logger.error("%s", text)
            leave(2)

    def send(self, kind: str, content: Mapping[str, Any] | None = None, arrays: Groups | None = None) -> None:
        """Send a message to all others; of the first process."""
        for connection in self.others:
            connection.send(kind, content, arrays)

    def report(self, doing: str, way_on: str) -> None:
        """Let all know what is being done, and how to go on if it breaks off; of the first process."""
        self.doing, self.way_on = doing, way_on
        self.send("doing", {"doing": doing, "way_on": way_on})

    def receive(self) -> Message:
        """Wait for the next message of the first process, however long."""
        return self.inbox.get()

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends, and let it end without waiting for them."""
        self.over = True
        said = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error).strip() or type(error).__name__
        for connection in self.others:
            connection.send("failed", {"text": f"{self.name(self.process)}: {said.splitlines()[0]}{self.way_on}"})
        # JAX would wait for the others at the end.
        status = 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, HeadstartError) else 1
        atexit.register(leave, status)

    def finish(self) -> None:
        """Tell the others that nothing is left to do; of the first process."""
        self.over = True
        self.send("done")


joined: Cluster | None = None


@contextlib.contextmanager
def together(devices: str) -> Iterator[None]:
    """With `cluster`, meet the processes that were started together, inside the block; else, and inside another one, do nothing.

    What a process raises inside the block ends all others too.

    Raises:
        HeadstartError: the others did not come, or have other versions; or nothing says who they are.
    """
    global joined
    if devices != CLUSTER or (joined and not joined.over):
        yield
        return
    if joined:
        raise HeadstartError("--devices cluster: the other processes have ended with the first training; start all of them again")
    joined = Cluster(place())
    try:
        joined.meet()
        yield
    except BaseException as error:
        if not joined.over:
            joined.fail(error)
        raise
    if joined.process == 0:
        joined.finish()


@contextlib.contextmanager
def computing_together() -> Iterator[None]:
    """Let an error inside the block wait for the news of its cause, if this is one of several processes.

    Where another process has ended, `Cluster.watch` ends this one meanwhile, and says so, also in the log of the run.
    """
    try:
        yield
    except Exception:
        if joined and not joined.over:
            time.sleep(NEWS)
        raise


def follower() -> Cluster | None:
    """Return the cluster if this process is one of its others, which follow the first."""
    return joined if joined and joined.process else None


def first() -> Cluster | None:
    """Return the cluster if this process is the first of several."""
    return joined if joined and not joined.process and not joined.over else None


def leave(status: int) -> None:
    """End this process at once."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def shared_versions() -> dict[str, str]:
    """Return the versions that all processes must share."""
    found = {}
    for name in ("headstart", "keras", "jax", "jaxlib"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def described(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{printable(name)} {printable(version)}" for name, version in packages.items())


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port: on this machine alone if the first process is to be found there, else everywhere.

    Raises:
        HeadstartError: the port is taken.
    """
    local = host == "localhost" or host.startswith("127.")
    try:
        if not local and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server((host if local else "", port))
    except OSError as error:
        raise HeadstartError(f"process 0 cannot listen on port {port} ({error}): set MASTER_PORT to a free one") from None


def free_port(host: str) -> int:
    """Return a port that nothing listens on."""
    with listening(host, 0) as probe:
        return int(probe.getsockname()[1])
