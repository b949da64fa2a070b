"""A run that is quickly trained, and a server of it that most tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart as hs
from serving import ServerProcess


@pytest.fixture(scope="session")
def served_run(shared, tiny) -> hs.Run:
    return hs.Run(shared("served", lambda out: hs.train(hs.Config(out=str(out), **tiny))))


@pytest.fixture(scope="session")
def photos_run(shared, tiny, photos) -> hs.Run:
    options = tiny | {"data": str(photos), "limit": 0}
    return hs.Run(shared("photos_served", lambda out: hs.train(hs.Config(out=str(out), **options))))


@pytest.fixture(scope="session")
def server(served_run, photos_run, tmp_path_factory) -> Iterator[ServerProcess]:
    """A server of two runs, the digits' first."""
    log: Path = tmp_path_factory.mktemp("server") / "log.txt"
    found = ServerProcess(log, str(served_run.path), str(photos_run.path), "--reject-below", "0.2")
    yield found
    assert found.stop() == 0, found.text
    assert "Traceback" not in found.text
