"""Processes of a Ray cluster that do one kind of work, task after task. Who dies is started again, and loses nothing.

Ray places the processes, carries tasks and results, and starts again what has died. Only which process gets which task is decided
here: Ray's own retries bind a task to the process that had it, and fail if its machine never comes back.
"""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from headstart.errors import HeadstartError
from headstart.system.processor import allow_cores, usable_cores
from headstart.system.text import first_line

logger = logging.getLogger("headstart")

# What `--ray` calls a cluster that is started on this machine, and the addresses that it accepts, which are Ray's own.
LOCAL = "local"
ADDRESS = r"local|auto|(ray://)?([^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
# What to do where a worker does not see a file that is there.
EVERYWHERE = "put the images where every machine has them under the same path"
# Seconds that an address has to answer.
ANSWERING = 5.0
# How a client of gRPC, which Ray speaks, begins, by HTTP/2: the preface and empty settings. A server answers with its own.
SETTINGS = b"\x04"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + bytes(5)
# Tasks that each worker has: while it does one, it gets the next. So many are begun in all, or wait for an earlier one.
SLOTS, AHEAD = 2, 4
# Deaths of workers at one task after which the task is to blame; restarts of one worker after which its machine is.
MOST_DEATHS, MOST_RESTARTS = 3, 20
# Seconds without a worker after which the log says so.
PATIENCE = 30.0


def is_cluster(address: str) -> bool:
    """Whether a text can be the address of a cluster, as `connected` takes it."""
    return re.fullmatch(ADDRESS, address) is not None


def wrong_address(address: str) -> str:
    """Return what is wrong with an address of a cluster that a user gave; "" if nothing is, or if none was given."""
    return f"--ray {address}: give local, auto, HOST:PORT or ray://HOST:PORT" if address and not is_cluster(address) else ""


def import_ray() -> Any:
    """Import and return Ray.

    Raises:
        HeadstartError: it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise HeadstartError("Ray is not installed: pip install 'headstart[ray]'") from None
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected with a Ray cluster inside the block. If this process is connected with one already, that is used, and stays.

    Args:
        address: `local` starts one of this machine's cores, `auto` finds the one that this machine belongs to; `HOST:PORT` and
            `ray://HOST:PORT` are Ray's own addresses; empty: nothing is done.

    Raises:
        HeadstartError: Ray is not installed, the address does not answer, or the cluster has other versions.
    """
    if not address:
        yield
        return
    refuse_unreachable(address)
    ray = import_ray()
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            connect(ray, address)
            stack.callback(ray.shutdown)
        stack.callback(close_all)
        yield


def connect(ray: Any, address: str) -> None:
    """Connect this process with a cluster."""
    # Ray would report each start to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"num_cpus": usable_cores(), "include_dashboard": False} if address == LOCAL else {}
    ending = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # nothing runs there, other versions, a service that is not Ray, ...
        raise HeadstartError(f"--ray {address}: {first_line(error)}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ending or signal.SIG_DFL)  # Ray has put its own in its place


def refuse_unreachable(address: str) -> None:
    """Refuse an address where nothing answers, or something else than Ray: Ray itself would try for minutes."""
    if not (found := re.fullmatch(r"(?:ray://)?(.*):(\d+)", address)):
        return
    try:
        with socket.create_connection((found[1].strip("[]"), int(found[2])), ANSWERING) as connection:
            connection.sendall(GREETING)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise HeadstartError(f"--ray {address}: nothing answers there ({error})") from None
    if answer[3:4] != SETTINGS and not os.environ.get("RAY_USE_TLS"):
        raise HeadstartError(f"--ray {address}: what answers there is not Ray")


class Worker:
    """A process of the cluster. It opens what it works with when it is first asked, and again when it was started anew.

    Its methods get Ray's reference to a function without arguments, in a list, which keeps Ray from resolving it before the cores
    are set. The function returns what a worker works with: a function of a task, with an attribute `kind`, a dictionary from
    names to texts, which says what its results depend on.

    Args:
        cores: how many of its machine's it may use.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.work: Any = None

    def kind(self, make: list[Any]) -> tuple[str, dict[str, str]]:
        """Return the name of the machine, and what the results depend on."""
        return socket.gethostname(), self.opened(make).kind

    def do(self, make: list[Any], task: Any) -> Any:
        """Return the result of a task."""
        return self.opened(make)(task)

    def opened(self, make: list[Any]) -> Any:
        if self.work is None:
            allow_cores(self.cores)
            self.work = import_ray().get(make[0])()
        return self.work


class Task:
    """What a worker is given, and what it gave back."""

    def __init__(self, content: Any) -> None:
        self.content, self.result = content, None
        self.done, self.deaths = False, 0


class Workers:
    """Processes of the cluster that this process is connected with: one for each GPU or, without any, one for each core.

    They all compute alike: the first one sets what the results depend on, and one that differs gets no task.

    Args:
        make: returns what a worker works with, see `Worker`. It is sent to each machine once.
        most: how many can have something to do; by default, any number.

    Attributes:
        closed: whether they have ended.
    """

    def __init__(self, make: Callable[[], Any], most: int = sys.maxsize) -> None:
        self.ray, self.closed = import_ray(), False
        close_all()  # their places are needed
        RUNNING.append(self)
        number, cores, resources = places(machines())
        options = resources | {"max_restarts": MOST_RESTARTS, "scheduling_strategy": "SPREAD"}
        actor, self.make = self.ray.remote(**options)(Worker), [self.ray.put(make)]
        self.members = [actor.remote(cores) for _ in range(max(1, min(number, most)))]
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, Task | None]] = {}
        self.again: list[Task] = []
        self.ill: set[Any] = set()
        self.expected: dict[str, str] = {}
        self.lost = ""
        for worker in self.members * SLOTS:
            self.start(worker)

    @property
    def kind(self) -> dict[str, str]:
        """What the results depend on. It waits until a worker has started."""
        while not self.expected:
            self.step()
        return self.expected

    def results(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the result of each task, in order. A task is taken when there is somebody to do it.

        Raises:
            HeadstartError: a worker raised it, or failed otherwise; a task kills its workers; or no worker is left.
        """
        tasks, begun, exhausted = map(Task, tasks), deque[Task](), False
        while begun or not exhausted:
            while self.idle and (self.again or (not exhausted and len(begun) < AHEAD * len(self.members))):
                if self.again:
                    task = self.again.pop()
                elif following := next(tasks, None):
                    begun.append(task := following)
                else:
                    exhausted = True
                    break
                worker = self.idle.pop()
                self.busy[worker.do.remote(self.make, task.content)] = worker, task
            if begun and begun[0].done:
                yield begun.popleft().result
            elif begun or not exhausted:
                self.step()

    def start(self, worker: Any) -> None:
        """Ask a worker to open what it works with. Ray asks again until it, or what is started in its place, has answered."""
        self.busy[worker.kind.options(max_task_retries=-1).remote(self.make)] = worker, None

    def step(self) -> None:
        """Wait until a worker has started, has done its task or has died."""
        if not self.busy:
            raise HeadstartError(f"no worker of the cluster is left: {self.lost or 'none could start'}")
        done, _ = self.ray.wait(list(self.busy), timeout=PATIENCE)
        if not done:
            if not any(task for _, task in self.busy.values()):
                logger.info("waiting until a worker has started; the cluster may have no free place for one")
            return
        worker, task = self.busy.pop(done[0])
        try:
            found = self.ray.get(done[0])
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HeadstartError):
                raise error.cause from None
            raise HeadstartError(
                f"a worker of the cluster failed: {type(error.cause).__name__}: {first_line(error.cause)}"
            ) from error
        except self.ray.exceptions.RayError as error:  # the process, its machine or what it gave back is lost
            return self.bury(worker, task, error)
        if task:
            task.content, task.result, task.done = None, found, True
        elif not self.fits(*found):
            return
        self.ill.discard(worker)
        self.idle.append(worker)

    def bury(self, worker: Any, task: Task | None, error: Exception) -> None:
        """Let another worker do the task of one that has died, and ask whatever Ray starts in its place."""
        if not task:  # it was started again too often, or could not be started at all
            self.lost = reason(error)
            return
        task.deaths += 1
        if task.deaths > MOST_DEATHS:
            raise HeadstartError(f"{task.deaths} workers of the cluster died at the same task, the last one so: {reason(error)}")
        if worker not in self.ill:
            logger.info("a worker of the cluster has died: others do what it had begun")
        self.ill.add(worker)
        self.again.append(task)
        self.start(worker)

    def fits(self, host: str, kind: dict[str, str]) -> bool:
        """Whether a worker that has started computes as the first one does; if it does not, a warning says so."""
        self.expected = self.expected or kind
        differing = [name for name in {**self.expected, **kind} if self.expected.get(name) != kind.get(name)]
        if differing:
            logger.warning(
                "a worker on %s is not used: its %s is %s, and that of the first worker %s",
                host, differing[0], kind.get(differing[0], "missing"), self.expected.get(differing[0], "missing"),
            )  # fmt: skip
            self.lost = f"those that differ from the first one in {differing[0]} are not used"
        return not differing

    def close(self) -> None:
        """End all of them, so that others have their places."""
        if self.closed:
            return
        RUNNING.remove(self)
        self.closed = True
        with contextlib.suppress(Exception):  # the cluster may have gone
            for future in self.busy:  # or Ray would say that it asks again
                self.ray.cancel(future)
            for worker in self.members:
                self.ray.kill(worker)


# Those that have not ended.
RUNNING: list[Workers] = []


def close_all() -> None:
    for workers in list(RUNNING):
        workers.close()


def reason(error: Exception) -> str:
    """Return why a worker has died. Ray's errors end with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def machines() -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster, as Ray names them."""
    return [node["Resources"] for node in import_ray().nodes() if node["Alive"]]


def places(nodes: list[dict[str, float]]) -> tuple[int, int, dict[str, int]]:
    """Return how many workers a cluster has places for, how many cores each may use, and what each wants of Ray.

    Args:
        nodes: see `machines`.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if not with_gpus:
        return sum(int(node.get("CPU", 0)) for node in nodes), 1, {"num_cpus": 1}
    cores = max(1, min(int(node.get("CPU", 1) // node["GPU"]) for node in with_gpus))
    return sum(int(node["GPU"]) for node in with_gpus), cores, {"num_cpus": cores, "num_gpus": 1}
