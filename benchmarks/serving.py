"""Classifying over HTTP: `headstart serve` against FastAPI around Keras' `predict`, LitServe, and the engine alone.

python -m benchmarks.serving --run runs/photos --litserve envs/litserve/bin/python
"""

import base64
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common
from benchmarks.prediction import train, write_files

TEXT = """JPEG files of 500 px, each in a request of its own, sent by so many clients that wait for each answer before they ask
again, over connections that stay open. The servers hold the same network and run beside each other, one asked at a time; the
client is one process on the same cores. FastAPI is what its users write first: Pillow decodes, and Keras' `predict` computes,
one image at a time. LitServe collects up to 64 images for 5 milliseconds, which Keras computes. The engine alone is
`Classifier.predict` of the same files' bytes, without HTTP. p50 and p99 are the latencies that half and 99 % of the requests
stay below."""
SECONDS_TO_START = 180.0

FASTAPI = """
import io, sys, keras, numpy as np, uvicorn
from fastapi import FastAPI, Request
from PIL import Image

model = keras.models.load_model(sys.argv[1], compile=False)
app = FastAPI()

@app.post("/predict")
async def predict(request: Request):
    image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize(model.input_shape[2:0:-1])
    logits = model.predict(np.asarray(image)[None], verbose=0)[0]
    return {"class": int(np.argmax(logits)), "logits": logits.tolist()}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
"""
LITSERVE = """
import base64, io, sys
import litserve

class Api(litserve.LitAPI):
    def setup(self, device):
        import keras
        self.model = keras.models.load_model(sys.argv[1], compile=False)

    def decode_request(self, request):
        import numpy as np
        from PIL import Image
        image = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB")
        return np.asarray(image.resize(self.model.input_shape[2:0:-1]))

    def predict(self, images):
        return self.model.predict_on_batch(images)

    def encode_response(self, logits):
        return {"class": int(logits.argmax()), "logits": logits.tolist()}

if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=64, batch_timeout=0.005), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
"""


@dataclass(frozen=True)
class Options(common.Options):
    """Measure serving."""

    run: str = ""  # folder of a finished run; empty: a frozen one on 1,000 images is trained for it
    size: int = 64  # side in pixels of that run's network
    images: int = 200  # JPEG files, of the test split's images
    side: int = 500  # side of the files in pixels
    clients: tuple[int, ...] = (1, 8, 64)  # how many ask at the same time
    seconds: float = 10.0  # of each measurement, after everybody has been answered twice
    repeats: int = 3  # measurements of each contender
    litserve: str = ""  # Python of an environment with LitServe, Keras and its backend; empty: LitServe is left out


def main(options: Options) -> None:
    import headstart as hs

    table = common.Table("serving", "Serving", TEXT, options)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = options.run or common.in_own_process(train, options, folder)
        run, files, exported = hs.Run(path), Path(folder) / "files", str(Path(folder) / "model.keras")
        data = common.load(run.config)
        write_files(data.images(np.resize(data.test, options.images)), files, options.side)
        common.in_own_process(export, path, exported)
        engine = stack.enter_context(common.contender(prepare_engine, path, files))
        programs = {
            "headstart": [sys.executable, "-m", "headstart", "serve", path, "--port"],
            "FastAPI": [sys.executable, "-c", FASTAPI, exported],
        }  # fmt: skip
        if options.litserve:
            script = Path(folder) / "serve_with_litserve.py"  # its workers import it
            script.write_text(LITSERVE)
            programs["LitServe"] = [options.litserve, str(script), exported]
        ports = {name: stack.enter_context(started(program)) for name, program in programs.items()}
        for clients in options.clients:
            contenders = {"engine": engine} | {
                name: stack.enter_context(
                    common.contender(prepare_load, port, files, clients, options.seconds, name == "LitServe")
                )
                for name, port in ports.items()
            }  # fmt: skip
            add_row(table, clients, common.alternate(contenders, options.repeats))
        table.write()


def export(run: str, file: str) -> None:
    import headstart as hs

    hs.Run(run).model.save(file)


@contextlib.contextmanager
def started(program: list[str]) -> Iterator[int]:
    """Start a server with a free port as its last argument, and yield the port when it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*program, str(port)], start_new_session=True)
    try:
        end = time.monotonic() + SECONDS_TO_START
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None or time.monotonic() > end:
                raise ChildProcessError(f"{program[0]} {program[1]} does not listen")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # LitServe's workers outlive it
            os.killpg(process.pid, signal.SIGKILL)


def prepare_engine(path: str, folder: Path) -> Callable[[], dict[str, Any]]:
    import headstart as hs

    classifier = hs.Run(path).classifier
    bodies = [file.read_bytes() for file in sorted(folder.iterdir())]
    classifier.predict(bodies)

    def measure() -> dict[str, Any]:
        begin = time.perf_counter()
        for _ in range(5):
            classifier.predict(bodies)
        return {"rate": 5 * len(bodies) / (time.perf_counter() - begin)}

    return measure


def prepare_load(port: int, folder: Path, clients: int, seconds: float, as_json: bool) -> Callable[[], dict[str, Any]]:
    bodies = [file.read_bytes() for file in sorted(folder.iterdir())]
    if as_json:  # LitServe reads no other
        bodies = [json.dumps({"image": base64.b64encode(body).decode()}).encode() for body in bodies]
    kind = "application/json" if as_json else "image/jpeg"
    requests = [
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]
    return lambda: load(port, requests, clients, seconds)


class Client:
    """A connection that asks again as soon as it is answered."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self.socket, self.selector = socket.create_connection(("127.0.0.1", port)), selector
        self.socket.setblocking(False)
        selector.register(self.socket, selectors.EVENT_READ, self)

    def ask(self, request: bytes) -> None:
        self.begin, self.unsent, self.answer = time.perf_counter(), memoryview(request), b""
        self.send()

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        self.selector.modify(self.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0), self)

    def answered(self) -> bool:
        """Read what has come, and return whether that is the whole answer.

        Raises:
            ConnectionError: the server has closed, or has refused the request.
        """
        received = self.socket.recv(1 << 16)
        self.answer += received
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not received or (found and not head.startswith(b"HTTP/1.1 200")):
            raise ConnectionError(self.answer[:200])
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return bool(found) and len(body) >= int(lengths[0].split(b":")[1])


def load(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Ask a server from so many clients, and return requests a second and latencies in milliseconds."""
    latencies, asked, answered = [], 0, 0
    with selectors.DefaultSelector() as selector:
        everybody = [Client(port, selector) for _ in range(clients)]
        for client in everybody:
            client.ask(requests[asked % len(requests)])
            asked += 1
        begin, start = float("inf"), time.perf_counter()
        while time.perf_counter() < begin + seconds:
            # Whatever a server does at its first batches is done when everybody has been answered twice.
            if begin == float("inf") and answered >= 2 * clients and time.perf_counter() > start + 1:
                begin = time.perf_counter()
            for key, events in selector.select(1):
                client = key.data
                if events & selectors.EVENT_WRITE:
                    client.send()
                if events & selectors.EVENT_READ and client.answered():
                    answered += 1
                    now = time.perf_counter()
                    if now > begin:
                        latencies.append(1000 * (now - client.begin))
                    client.ask(requests[asked % len(requests)])
                    asked += 1
        for client in everybody:
            client.socket.close()
    low, high = np.percentile(latencies, [50, 99])
    return {"rate": len(latencies) / seconds, "p50": float(low), "p99": float(high)}


def add_row(table: common.Table, clients: int, found: dict[str, list[Any]]) -> None:
    table.samples[f"{clients} clients"] = found
    rates = {name: [sample["rate"] for sample in samples] for name, samples in found.items()}
    row: dict[str, Any] = {"clients": clients}
    for name in (name for name in rates if name != "engine"):
        row[f"{name}, requests/s"] = common.median(rates[name])
        for which in ("p50", "p99"):
            row[f"{name}, {which} ms"] = common.median([sample[which] for sample in found[name]])
    row["engine alone, images/s"] = common.median(rates["engine"])
    row["headstart / FastAPI"] = common.ratio(rates["headstart"], rates["FastAPI"])
    if "LitServe" in rates:
        row["headstart / LitServe"] = common.ratio(rates["headstart"], rates["LitServe"])
    row["headstart / engine"] = common.ratio(rates["headstart"], rates["engine"])
    table.rows.append(row)


if __name__ == "__main__":
    main(tyro.cli(Options))
