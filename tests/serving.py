"""A server of trained models in a process of its own, and ways to ask it."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# What the process does: with values of its own for some of the package's constants, it runs the command line.
PROGRAM = """
import importlib, json, sys
for place, value in json.loads(sys.argv[1]).items():
    module, _, name = place.rpartition(".")
    setattr(importlib.import_module(module), name, value)
from headstart.cli.main import main
main(sys.argv[2:])
"""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ServerProcess:
    """`headstart serve` with these arguments, on any free port, ready to answer.

    Args:
        constants: values by place, `headstart.serve.limits.MOST_BYTES`.
        options: further arguments of `subprocess.Popen`.
    """

    def __init__(self, log: Path, *arguments: str, constants: dict[str, Any] | None = None, **options: Any) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(constants or {}), "serve", *arguments, "--port", "0"],
                stderr=file,
                **options,
            )
        end = time.monotonic() + 120
        while not (found := re.search(r"on http://\S+:(\d+)/", self.text)):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.02)
        self.port = int(found[1])

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    @property
    def memory(self) -> int:
        """The most memory that it has taken, in bytes."""
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1])

    def connect(self, timeout: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def raw(self, content: bytes, timeout: float = 30) -> bytes:
        """Send bytes, and return all that comes until the server closes or is silent."""
        with self.connect(timeout) as connection:
            answer = b""
            with contextlib.suppress(OSError):  # it has answered before the end
                connection.sendall(content)
            with contextlib.suppress(OSError):
                while received := connection.recv(1 << 16):
                    answer += received
            return answer

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


class Load:
    """Clients that ask without a pause, each on its connection, until the end of the block.

    Attributes:
        answers: the status of each answer.
        lost: what went wrong with requests that were not answered.
    """

    def __init__(self, server: ServerProcess, body: bytes, clients: int, *, keep: bool = True) -> None:
        self.server, self.body, self.keep = server, body, keep
        self.answers: list[int] = []
        self.versions: set[str] = set()
        self.lost: list[str] = []
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(60)

    def work(self) -> None:
        connection = None
        while not self.ending.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
                    connection.connect()
            except ConnectionRefusedError:
                return  # the server has ended, and has taken no connection
            except OSError as error:
                self.lost.append(f"connecting: {error!r}")
                return
            try:
                connection.request("POST", "/predict", self.body)
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            self.answers.append(answer.status)
            self.versions.add(content.get("version", ""))
            if answer.getheader("connection") == "close" or not self.keep:
                connection.close()
                connection = None


def picture(side: int = 64, kind: str = "PNG", seed: int = 0, **options: Any) -> bytes:
    """Return the bytes of an encoded image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def form(*contents: tuple[str, bytes], boundary: str = "b0undary") -> tuple[bytes, str]:
    """Return the body of a form with files, and its content type."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in contents
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def environment(**changes: str) -> dict[str, str]:
    return os.environ | changes
