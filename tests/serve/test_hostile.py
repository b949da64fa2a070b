"""Some hundred requests that somebody might send to break the server: none gets a 5xx but 503, and it answers afterwards."""

import base64
import io
import json
import random
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from serving import ServerProcess, form, picture

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "JPEG2000", "AVIF", "ICO", "PDF", "EPS")
METHODS = (
    "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND", "get", "X" * 300, "\x00", "PRI",
)  # fmt: skip
PATHS = (
    "/", "/predict", "/explain", "/models", "/metrics", "/v2", "/v2/models/served/infer", "/v2/models/%00/infer", "*",
    "http://evil/", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/report/served/..%2f..%2fetc%2fpasswd",
    "/report/served/report.html\x00.png", "/examples/served/99999999999999999999", "/examples/served/1e9",
    "/predict?model=" + "x" * 5000, "/predict?model=%ff%fe", "/predict?model=../served", "/predict?url=http://127.0.0.1/", "/%",
    "/%zz", "//evil/", "/\xff", "?", "", "/" + "a/" * 3000,
)  # fmt: skip
HEADERS = (
    "Transfer-Encoding: chunked", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: chunked, chunked",
    "Content-Length: -1", "Transfer-Encoding : chunked", "Transfer-Encoding: gzip", "Content-Length: 5, 5",
    "Content-Length: +5", "Content-Length: 0x5", "Content-Length: 99999999999999999999999", "Content-Length: 19999999",
    "Content-Length: 3", "Content-Length: ٣", "Content-Length:", "Content-Length: 3\r\nContent-Length: 4",
    "Content-Length: 3\r\nTransfer-Encoding: chunked", "Expect: 100-continue", "Expect: x",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13",
    "Connection: close, close",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Connection: host",
    "Host: evil", "X: " + "a" * 70_000, "X\x00: b", ": b", "X", " folded: yes", "Content-Type: multipart/form-data",
    "Authorization: Bearer \xff", "Content-Type: multipart/form-data; boundary=" + "b" * 5000,
    "Content-Type: multipart/form-data; boundary=\"\r\n", "Content-Type: multipart/form-data; boundary=a; charset=utf-7",
    "Content-Encoding: gzip", "Inference-Header-Content-Length: 5", "Inference-Header-Content-Length: -1", "Origin: \xff",
    "Sec-Fetch-Site: x", "Range: bytes=0-1", "Cookie: " + "a=b;" * 1000,
)  # fmt: skip


def black(width: int, frames: int, kind: str) -> bytes:
    file, frame = io.BytesIO(), Image.new("P", (width, width))
    frame.save(file, kind, save_all=frames > 1, append_images=[frame] * (frames - 1))
    return file.getvalue()


# 30 kB, and 108 MB decoded; many frames; a text of 50 MB.
BOMBS = (black(6000, 1, "PNG"), black(300, 200, "GIF"), zlib.compress(bytes(50_000_000)))


def bomb(rng: random.Random) -> bytes:
    """Return an image that is much larger than its bytes."""
    if rng.random() < 0.6:
        return rng.choice(BOMBS[:2])
    head = struct.pack(
        ">IIBBBBB", rng.choice((1, 1 << 16, 1 << 31)), rng.choice((1, 1 << 16, 0)), rng.choice((8, 16)), 6, 0, 0, 0
    )
    text = b"a\x00\x01\x00\x00\x00" + BOMBS[2]
    chunks = [(b"IHDR", head), (b"iTXt", text), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def image(rng: random.Random) -> bytes:
    """Return an image of any kind, mostly damaged."""
    content = bytearray(ENCODED[rng.choice(list(ENCODED))])
    choice = rng.random()
    if choice < 0.3:
        content = content[: rng.randrange(1, len(content))]
    elif choice < 0.7:
        for _ in range(rng.randrange(1, 30)):
            content[rng.randrange(min(len(content), rng.choice((30, 300, 10**9))))] = rng.randrange(256)
    elif choice < 0.8:
        content += bytes(rng.randrange(256) for _ in range(rng.randrange(300)))
    return bytes(content)


def encoded_images() -> dict[str, bytes]:
    found = {}
    for kind in KINDS:
        for mode in ("RGB", "L", "CMYK", "I;16", "F", "RGBA", "P"):
            file = io.BytesIO()
            try:
                Image.fromarray(np.zeros((40, 30), np.uint8)).convert(mode).save(file, kind)
            except (OSError, ValueError, KeyError):
                continue
            found[f"{kind} {mode}"] = file.getvalue()
    return found


ENCODED = encoded_images()


def request(method: str, path: str, headers: list[str], body: bytes, *, length: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def images_alone(rng: random.Random) -> bytes:
    return request("POST", "/predict", [f"Content-Type: image/{rng.choice(KINDS).lower()}"], image(rng))


def bombs(rng: random.Random) -> bytes:
    return request("POST", "/predict", [], bomb(rng))


def forms(rng: random.Random) -> bytes:
    body, kind = form(
        *((rng.choice(("a.png", "../../x", "\x00", "ü", "n" * 3000)), image(rng)) for _ in range(rng.randrange(70)))
    )
    if rng.random() < 0.5:
        place = rng.randrange(len(body))
        body = body[:place] + rng.choice((b"\r\n--b0undary\r\n", b"--", b"\r", b"\x00" * 100)) + body[place + rng.randrange(40) :]
    return request("POST", "/predict", [f"Content-Type: {kind}"], body)


def heads(rng: random.Random) -> bytes:
    headers = rng.sample(HEADERS, rng.randrange(1, 4))
    body = rng.choice(
        (b"", b"abc", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"3;x=" + b"y" * 70_000 + b"\r\nabc\r\n")
    )
    return request(rng.choice(METHODS), rng.choice(PATHS), headers, body, length=rng.random() < 0.3)


def addresses(rng: random.Random) -> bytes:
    return request(rng.choice(METHODS), rng.choice(PATHS), [], rng.choice((b"", image(rng))))


def garbage(rng: random.Random) -> bytes:
    content = bytearray(request("POST", "/predict", [], image(rng)))
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(1, 3000)) + b"\r\n\r\n"
    if rng.random() < 0.3:
        return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500)  # TLS
    for _ in range(rng.randrange(1, 10)):
        content[rng.randrange(min(100, len(content)))] = rng.randrange(256)
    return bytes(content)


def inference(rng: random.Random) -> bytes:
    deep = rng.choice((10, 10_000, 200_000))
    shape = [rng.choice((0, 1, 2, 64, 65, -1, 1 << 62, 1.5, "1", None)) for _ in range(rng.choice((1, 4, 4, 4, 5, 100)))]
    data = rng.choice((
        [0] * 12, [300], [1e400], ["a"], "x", None, {}, [[1, 2], [3]], [base64.b64encode(image(rng)).decode()], [1 << 100] * 12,
    ))  # fmt: skip
    one = {"name": rng.choice(("images", "x")), "datatype": rng.choice(("UINT8", "BYTES", "FP64")), "shape": shape, "data": data,
           "parameters": rng.choice(({}, {"binary_data_size": rng.choice((-1, 0, 5, 1 << 70))}, {"a": {"b": []}}))}  # fmt: skip
    text = json.dumps({"inputs": [one] * rng.choice((1, 1, 1, 2, 1000))}).encode()
    text = rng.choice(
        (text, text, text, text[: rng.randrange(len(text))], b"[" * deep, b'{"a":' * deep, b'"' + b"\\ud800" * 99 + b'"')
    )
    headers = [f"Inference-Header-Content-Length: {rng.choice((len(text), 0, 5, 10**8, '', 'x'))}"] if rng.random() < 0.5 else []
    return request("POST", "/v2/models/served/infer", headers, text + rng.choice((b"", b"\xff\xff\xff\xff", bytes(1000))))


def cut(rng: random.Random) -> bytes:
    """Return the beginning of a request; what is missing never comes."""
    content = rng.choice(MAKERS[:-1])(rng)
    return content[: rng.randrange(len(content))]


MAKERS: tuple[Callable[[random.Random], bytes], ...] = (
    images_alone, images_alone, bombs, forms, heads, heads, addresses, garbage, inference, inference, cut,
)  # fmt: skip
REQUESTS, CLIENTS = 600, 12
# In bytes: what the server may take more than before. Two bombs are decoded at a time, of 108 MB each.
MOST_MEMORY = 1_000_000_000


@pytest.fixture
def attacked(served_run, tmp_path) -> Iterator[ServerProcess]:
    found = ServerProcess(tmp_path / "log.txt", str(served_run.path), constants={
        "headstart.serve.connections.SECONDS_OF_HEADER": 0.3, "headstart.serve.limits.SECONDS_OF_BODY": 0.3,
        "headstart.serve.limits.SECONDS_OF_DISCARDING": 0.3,
    })  # fmt: skip
    yield found
    if found.process.poll() is None:
        found.process.kill()


def test_hostile_requests_neither_break_nor_fill_the_server(attacked):
    expected = attacked.post("/predict", picture()).body
    before, statuses, failed = attacked.memory, Counter(), []

    def attack(client: int) -> None:
        for number in range(client, REQUESTS, CLIENTS):
            rng = random.Random(number)
            maker = rng.choice(MAKERS)
            answer = attacked.raw(maker(rng), timeout=20)
            status = int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
            statuses[status] += 1
            if (status >= 500 and status != 503) or b"Traceback" in answer or b"/site-packages" in answer:
                failed.append((number, maker.__name__, answer[:300]))

    threads = [threading.Thread(target=attack, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert attacked.process.poll() is None
    assert sum(statuses.values()) == REQUESTS
    assert {200, 400, 413, 415, 422} <= statuses.keys(), statuses  # the requests reach all that checks them
    assert attacked.memory - before < MOST_MEMORY
    assert attacked.post("/predict", picture()).body == expected
    counts = attacked.get("/metrics").body.decode()
    assert "headstart_requests_in_flight 1\n" in counts
    assert counts.count("headstart_requests_total{") < 100  # paths that do not exist are counted together
    assert attacked.stop() == 0
    assert "Traceback" not in attacked.text, attacked.text
