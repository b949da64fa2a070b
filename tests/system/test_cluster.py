"""What processes that were started together know and tell each other. `tests/test_following.py` starts real ones."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headstart.errors import HeadstartError
from headstart.system import cluster
from headstart.system.cluster import SIZES, Cluster, Connection, Place, first_host, place
from helpers import free_port

TORCHRUN = {"MASTER_ADDR": "node7", "MASTER_PORT": "29400", "WORLD_SIZE": "4", "RANK": "2"}
SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NODELIST": "gpu[012-013,20]", "SLURM_JOB_ID": "5000"}


def test_a_launcher_gives_each_process_its_place():
    assert place(TORCHRUN) == Place(2, 4, "node7", 29400)
    assert place(SLURM) == Place(3, 16, "gpu012", 61440 + 904)
    assert place(SLURM | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7000"}) == Place(3, 16, "10.0.0.1", 7000)
    open_mpi = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "7000"}
    assert place(open_mpi) == Place(0, 2, "a", 7000)


def test_torchrun_listens_on_its_own_port():
    assert place(TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).port == 29401


@pytest.mark.parametrize(
    "environment", [{}, {name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"}, {"SLURM_PROCID": "0"}]
)
def test_without_a_launcher_it_says_how_to_start(environment):
    with pytest.raises(HeadstartError, match="start them with srun or torchrun, or set MASTER_ADDR"):
        place(environment)


@pytest.mark.parametrize("change", [{"RANK": "4"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}, {"MASTER_PORT": "http"}])
def test_a_place_that_cannot_be_is_refused(change):
    with pytest.raises(HeadstartError, match="which cannot be"):
        place(TORCHRUN | change)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node001", "node001"), ("a,b", "a"), ("n[001-015],b", "n001"), ("n[3,7-9]", "n3"), ("a-b[08-10]", "a-b08"), ("", "")],
)
def test_the_first_host_of_slurms_list(nodes, first):
    assert first_host(nodes) == first


@pytest.fixture
def connected():
    """Two connections that are connected with each other."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        with theirs:
            yield Connection(ours), Connection(theirs)


def test_a_message_arrives_as_it_was_sent(connected):
    one, other = connected
    arrays = {"model": [np.float32([[1, 2], [3, 4]]), np.array(5, np.uint32)], "splits": [np.array([], np.int64)]}
    one.send("task", {"stage": "frozen", "loss": float("inf")}, arrays)
    one.send("done")
    kind, content, received = other.receive()
    assert (kind, content) == ("task", {"stage": "frozen", "loss": float("inf")})
    assert received.keys() == arrays.keys()
    for name, members in arrays.items():
        for sent, came in zip(members, received[name], strict=True):
            assert sent.dtype == came.dtype
            assert np.array_equal(sent, came)
    assert other.receive().kind == "done"


def test_an_end_and_what_is_no_message_are_the_same(connected):
    one, other = connected
    one.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert other.receive(cluster.MOST_GREETING) is None
    other.socket.close()
    assert one.receive() is None
    one.send("done")  # to one that has gone: no error


@pytest.fixture
def welcoming(monkeypatch):
    """The first of two processes, which waits for the other, and where it does."""
    monkeypatch.setattr(cluster, "GREETING", 0.2)
    where = Place(0, 2, "127.0.0.1", free_port())
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(Cluster(where).welcome)
        yield where, waiting


def test_strangers_are_sent_away_while_the_first_process_waits(welcoming):
    where, waiting = welcoming
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", SIZES.pack(2, 0) + b"[]", SIZES.pack(1 << 60, 0)):
        stranger = connect(where)
        stranger.sendall(greeting)
        with contextlib.suppress(ConnectionResetError):  # what it has sent was not read
            assert stranger.recv(1) == b""
        stranger.close()
    other = Cluster(Place(1, 2, where.host, where.port))
    told = other.greet()
    assert told == waiting.result(10)
    assert other.hosts.keys() == {0, 1}


def test_a_process_with_other_versions_is_named(welcoming):
    where, waiting = welcoming
    greeting = {"process": 1, "host": "node2", "versions": {"headstart": "0.0"}}
    Connection(connect(where)).send("hello", greeting)
    with pytest.raises(HeadstartError, match=r"process 1 \(node2\) has headstart 0.0, and process 0 headstart"):
        waiting.result(10)


def test_one_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "MEETING", 0.1)
    with pytest.raises(HeadstartError, match="1 of 3 processes came within 0 s: process 1 is missing"):
        Cluster(Place(0, 3, "127.0.0.1", free_port())).welcome()
    with pytest.raises(HeadstartError, match=r"process 0 cannot be reached at 127\.0\.0\.1:"):
        Cluster(Place(1, 3, "127.0.0.1", free_port())).greet()


def connect(where: Place) -> socket.socket:
    while True:
        try:
            return socket.create_connection((where.host, where.port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.01)


def test_all_but_a_cluster_stays_alone():
    with cluster.together("all"), cluster.together("2"):
        assert not cluster.first()
        assert not cluster.follower()
