"""Who may ask, and how much: sizes are checked while they come, and slow clients are not waited for."""

import io
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from headstart.serve import limits
from headstart.serve.limits import Hosts
from serving import ServerProcess, form, picture

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def impatient(served_run, tmp_path_factory) -> Iterator[ServerProcess]:
    """A server with short times and small limits."""
    found = ServerProcess(tmp_path_factory.mktemp("impatient") / "log.txt", str(served_run.path), constants={
        "headstart.serve.connections.SECONDS_OF_HEADER": 0.5, "headstart.serve.limits.SECONDS_OF_BODY": 0.5,
        "headstart.serve.limits.SECONDS_OF_DISCARDING": 0.5, "headstart.serve.limits.MOST_HELD": 3_000_000,
        "headstart.serve.limits.MOST_REQUESTS": 4, "headstart.serve.connections.MOST_CONNECTIONS": 30,
        "headstart.serve.server.SECONDS_IDLE": 0.5,
        "headstart.serve.measures.described": None,  # what cannot be foreseen, such as a defect of ours
    })  # fmt: skip
    yield found
    assert found.stop() == 0
    assert found.text.count("Traceback") == 1


def status(answer: bytes) -> int:
    return int(answer[9:12] or 0)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose header says this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(server):
    begin = time.monotonic()
    for length in (b"20000001", b"999999999999", b"9" * 18):
        with server.connect() as connection:
            connection.sendall(HEAD + b"Content-Length: " + length + b"\r\nExpect: 100-continue\r\n\r\n")
            assert status(connection.recv(1 << 16)) == 413
    assert time.monotonic() - begin < 10


def test_a_client_that_sends_too_much_reads_its_answer(server):
    found = server.post("/predict", bytes(25_000_000))
    assert found.status == 413
    assert "20,000,000" in found.json["error"]


def test_a_body_without_a_length_is_counted_while_it_comes(server):
    chunk = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
    answer = server.raw(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + 22 * chunk + b"0\r\n\r\n", timeout=10)
    assert status(answer) == 413


def test_pixels_are_counted_before_they_are_decoded(server):
    for size in ((8000, 8000), (1 << 30, 1), (50_001, 1000)):
        assert server.post("/predict", bomb(*size)).status == 413, size
    body, kind = form(("bomb.png", bomb(9000, 9000)), ("fine.png", picture()))
    first, second = server.post("/predict", body, content_type=kind).json["predictions"]
    assert "too large" in first["error"]
    assert "class" in second


def test_kind_and_damage_are_told_apart(server):
    for body, expected in (
        (b"GIF", 415), (b"<svg/>", 415), (b"%!PS-Adobe-3.0 EPSF", 415), (b"http://127.0.0.1/", 415), (b"/etc/passwd", 415),
        (picture(200, "JPEG")[:3000], 422), (picture()[:200], 422), (picture(kind="WEBP")[:100], 422),
    ):  # fmt: skip
        assert server.post("/predict", body, content_type="image/png").status == expected, body[:20]
    # The kind is that of the content, whatever the client says.
    assert server.post("/predict", picture(kind="JPEG"), content_type="application/json").status == 200


def test_too_many_images_and_bad_forms_are_refused(server):
    body, kind = form(*(("a.png", b"x") for _ in range(65)))
    assert server.post("/predict", body, content_type=kind).status == 413
    for body, kind in (
        (form()[0], form()[1]), (b"x", "multipart/form-data; boundary=a"), (b"x", "multipart/form-data"), (b"--a\r\n", form()[1]),
        (b'--a\r\nContent-Disposition: form-data; name="x"\r\n\r\nfield\r\n--a--\r\n', "multipart/form-data; boundary=a"),
    ):  # fmt: skip
        assert server.post("/predict", body, content_type=kind).status == 400, body


def test_a_page_of_another_site_may_not_ask(server):
    body, own = picture(), f"127.0.0.1:{server.port}"
    for headers, expected in (
        ({"Origin": f"http://{own}"}, 200), ({"Origin": f"http://{own}", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200), ({"Origin": "https://attacker.example"}, 403), ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403), ({"Sec_Fetch_Site": "same-site"}, 403), ({"Origin": "http://[x"}, 403),
        ({"Origin": f"http://localhost:{server.port}"}, 403),
    ):  # fmt: skip
        assert server.post("/predict", body, **headers).status == expected, headers


def test_other_names_are_refused(server):
    for host, expected in (
        ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1", 200), ("127.8.8.8", 200), ("[::1]:80", 200),
        ("attacker.example", 421), ("127.0.0.1.attacker.example", 421), ("10.0.0.1", 421), ("localhost@attacker.example", 421),
        ("attacker.example@localhost", 200), ("[x", 421), ("", 421),
    ):  # fmt: skip
        assert server.get("/healthz", Host=host).status == expected, host
    assert status(server.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")) == 400
    assert status(server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\nConnection: close\r\n\r\n")) == 400


def test_names_on_another_address():
    hosts = Hosts("192.0.2.7", ["Proxy.Example"])
    assert {"192.0.2.7", "10.0.0.1:80", "proxy.example:443", "localhost"} <= {
        name for name in ("192.0.2.7", "10.0.0.1:80", "proxy.example:443", "localhost") if name in hosts
    }
    assert "attacker.example" not in hosts


def test_slow_heads_and_bodies_and_silence_end(impatient):
    begin = time.monotonic()
    assert status(impatient.raw(b"GET / HT")) == 408
    assert status(impatient.raw(HEAD + b"X-A: b\r\n")) == 408
    assert status(impatient.raw(HEAD + b"Content-Length: 1000\r\n\r\nabc")) == 408
    assert impatient.raw(b"") == b""
    answer = impatient.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")  # and nothing after it
    assert status(answer) == 200
    with impatient.connect() as connection:  # a byte now and then is no progress
        answer = b""
        for one in HEAD * 20:
            try:
                connection.sendall(bytes([one]))
            except OSError:
                break
            time.sleep(0.02)
        answer = connection.recv(1 << 16)
        assert status(answer) == 408
    assert time.monotonic() - begin < 20


def test_a_head_is_no_place_for_much(impatient):
    answer = impatient.raw(HEAD + b"".join(b"X-%d: %s\r\n" % (place, b"a" * 1000) for place in range(1000)))
    assert status(answer) in (400, 431)


def test_too_many_requests_are_sent_away_for_a_second(impatient):
    found = []

    def hold() -> None:
        found.append(impatient.raw(HEAD + b"Content-Length: 10\r\n\r\nabc"))

    threads = [threading.Thread(target=hold) for _ in range(12)]
    for thread in threads:
        thread.start()
    assert impatient.get("/healthz").status == 200
    for thread in threads:
        thread.join()
    assert {status(one) for one in found} == {408, 503}
    (busy,) = {one.split(b"\r\n\r\n")[1] for one in found if status(one) == 503}
    assert b"try again" in busy
    assert all(b"retry-after: 1" in one for one in found if status(one) == 503)
    assert impatient.post("/predict", picture()).status == 200


def test_too_many_connections_are_sent_away(impatient):
    connections = [impatient.connect() for _ in range(31)]
    assert status(connections[-1].recv(1 << 16)) == 503
    for one in connections:
        one.close()


def test_bodies_together_are_bounded(impatient):
    body = io.BytesIO(bytes(2_000_000)).getvalue()
    with impatient.connect() as first:
        first.sendall(HEAD + b"Content-Length: 2000001\r\n\r\n" + body)
        deadline = time.monotonic() + 0.4
        found = []
        while time.monotonic() < deadline and 503 not in found:
            found.append(impatient.post("/predict", body).status)
        assert 503 in found
    assert impatient.post("/predict", picture()).status == 200


def test_nothing_of_the_inside_is_told(impatient):
    found = impatient.get("/metrics")
    assert found.status == 500
    assert set(found.json) == {"error"}
    assert "NoneType" not in found.body.decode()
    assert "TypeError" in impatient.text
    assert "in lines" in impatient.text
    assert impatient.get("/healthz").status == 200


def test_limits_fit_each_other():
    assert limits.MOST_HELD >= 2 * limits.MOST_BYTES
