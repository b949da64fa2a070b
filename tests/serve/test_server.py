"""How a server starts, ends and renews its models: no request is lost, and what cannot work is said in a line."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import headstart as hs
from headstart.cli.main import main
from headstart.serve.server import FIRST_DESCRIPTOR
from headstart.system.files import write_json
from headstart.system.reading import seal
from serving import Load, ServerProcess, environment, picture


@pytest.fixture
def copied(served_run, tmp_path) -> Path:
    return Path(shutil.copytree(served_run.path, tmp_path / "model"))


def renew(folder: Path, temperature: float) -> str:
    """Write a manifest with another temperature, and return its version."""
    content = json.loads((folder / "manifest.json").read_text()) | {"temperature": temperature}
    write_json(folder / "manifest.json", content | {"seal": seal(content)})
    return seal(content)[:12]


def wait_for(what, seconds: float = 60, describe=lambda: "it took too long") -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, describe()
        time.sleep(0.02)


@pytest.mark.parametrize("replacements", [5, pytest.param(20, marks=pytest.mark.long)])
def test_replacements_under_load_lose_no_answer(replacements, copied, tmp_path):
    server = ServerProcess(tmp_path / "log.txt", str(copied))
    versions = {hs.Run(copied).classifier.manifest["seal"][:12]}
    with Load(server, picture(kind="JPEG"), 8) as load:
        for number in range(replacements):
            versions.add(version := renew(copied, 5.25 + number))
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda version=version: version in server.text, describe=lambda: server.text)
            wait_for(lambda version=version: version in load.versions, describe=lambda: load.lost)
    assert server.stop() == 0
    assert load.lost == []
    assert set(load.answers) == {200}
    assert load.versions == versions


def test_a_new_version_that_is_damaged_leaves_the_old_one(copied, tmp_path):
    server = ServerProcess(tmp_path / "log.txt", str(copied))
    before = server.post("/predict", picture()).body
    for weights in (copied / "model.bin", copied / "weights.safetensors"):
        damaged = weights.read_bytes()[:-4] + b"oops"
        weights.unlink()  # the server goes on reading the old file
        weights.write_bytes(damaged)
    renew(copied, 3.0)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "stays at version" in server.text)
    assert server.post("/predict", picture()).body == before
    (copied / "manifest.json").unlink()
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.text.count("stays at version") == 2)
    assert server.post("/predict", picture()).body == before
    assert server.stop() == 0
    assert "Traceback" not in server.text


def test_a_signal_under_load_answers_all_that_were_connected(served_run, tmp_path):
    server = ServerProcess(tmp_path / "log.txt", str(served_run.path))
    body = picture(400, "JPEG")
    with Load(server, body, 8, keep=True) as staying, Load(server, body, 8, keep=False) as leaving:
        wait_for(lambda: min(len(staying.answers), len(leaving.answers)) > 20)
        assert server.stop() == 0
    assert staying.lost == leaving.lost == []
    assert {*staying.answers, *leaving.answers} == {200}


def test_connections_that_wait_to_be_accepted_are_answered_after_the_signal(served_run, tmp_path):
    server = ServerProcess(tmp_path / "log.txt", str(served_run.path))
    body = picture()
    request = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    os.kill(server.process.pid, signal.SIGSTOP)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(20)]
        for one in connections:
            one.sendall(request)
        server.process.send_signal(signal.SIGTERM)
        os.kill(server.process.pid, signal.SIGCONT)
        for one in connections:
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert server.process.wait(60) == 0


def test_a_second_signal_ends_at_once(served_run, tmp_path):
    server = ServerProcess(tmp_path / "log.txt", str(served_run.path))
    with server.connect() as connection:  # a client that takes its time
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        wait_for(lambda: "in_flight 2" in server.get("/metrics").body.decode())
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "ending" in server.text)
        assert server.stop() == 128 + signal.SIGTERM


def test_a_socket_of_a_service_manager_is_used_and_stays_open(served_run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        # Its number must be 3, and the process's own number in LISTEN_PID: a shell gives both.
        script = f'exec {FIRST_DESCRIPTOR}<&"$1"; shift; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        program = [sys.executable, "-m", "headstart", "serve", str(served_run.path)]
        command = ["bash", "-c", script, "bash", str(listening.fileno()), *program]
        body = picture()
        request = (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
        )
        for turn in range(2):  # a restart: what connects meanwhile waits
            with (
                (tmp_path / f"log{turn}.txt").open("wb") as log,
                socket.create_connection(("127.0.0.1", port), timeout=60) as early,
            ):
                early.sendall(request)
                process = subprocess.Popen(command, pass_fds=[listening.fileno()], stderr=log)
                assert early.recv(1 << 16).startswith(b"HTTP/1.1 200")
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            assert f":{port}/" in (tmp_path / f"log{turn}.txt").read_text()


def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["serve", *arguments])
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) <= 2
    assert "Traceback" not in text
    return text


def test_what_cannot_be_served_is_refused_in_a_line(served_run, photos_run, tmp_path, capsys):
    run = str(served_run.path)
    assert "is not a run" in refusal(capsys, str(tmp_path))
    (tmp_path / "served").symlink_to(photos_run.path)
    assert "two runs are named 'served'" in refusal(capsys, run, str(tmp_path / "served"), "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refusal(capsys, run, "--port", str(taken.getsockname()[1]))
    assert "cannot listen" in refusal(capsys, run, "--host", "no.such.name.invalid")
    assert "cannot listen" in refusal(capsys, run, "--host", "192.0.2.1")
    assert "--port is 70000" in refusal(capsys, run, "--port", "70000")
    assert "--reject-below is 2.0" in refusal(capsys, run, "--reject-below", "2")
    assert "--reject is 99, outside" in refusal(capsys, run, "--reject", "99")
    assert "leave out one of them" in refusal(capsys, run, "--reject", "0.9", "--reject-below", "0.9")
    assert "wants the folder" in refusal(capsys)
    (tmp_path / "empty").write_text("\n")
    assert "holds no token" in refusal(capsys, run, "--token-file", str(tmp_path / "empty"))
    assert "cannot be read" in refusal(capsys, run, "--token-file", str(tmp_path / "missing"))


def test_missing_packages_are_named(served_run, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("headstart.serve.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delattr("headstart.serve.server", raising=False)
    assert "pip install 'headstart[serve]'" in refusal(capsys, str(served_run.path))


def test_the_token_is_wanted_for_all_but_the_page(served_run, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    server = ServerProcess(tmp_path / "log.txt", str(served_run.path), "--token-file", str(tmp_path / "token"))
    for path in ("/models", "/metrics", "/v2", "/v2/health/live", "/report/served/report.html", "/examples/served/0", "/none"):
        found = server.get(path)
        assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer"), path
    for token in ("s3cret", "Bearer s3cre", "Bearer s3crets", "bearer s3cret", "Basic s3cret", ""):
        assert server.post("/predict", picture(), Authorization=token).status == 401
    assert server.post("/predict", picture(), Authorization="Bearer s3cret").status == 200
    for path in ("/", "/page.js", "/page.css", "/healthz"):
        assert server.get(path).status == 200
    assert server.stop() == 0


def test_who_listens_to_everybody_without_a_token_is_warned(served_run, tmp_path):
    server = ServerProcess(
        tmp_path / "log.txt", str(served_run.path), "--host", "0.0.0.0", "--allowed-host", "models.example", env=environment()
    )
    assert "warning: everybody" in server.text
    for host, status in (
        ("10.1.2.3", 200), (f"[fd00::1]:{server.port}", 200), ("models.example", 200), (f"Models.Example.:{server.port}", 200),
        (socket.gethostname(), 200), ("attacker.example", 421), ("models.example.attacker.example", 421), ("", 421),
    ):  # fmt: skip
        assert server.get("/healthz", Host=host).status == status, host
    assert server.stop(signal.SIGINT) == 0  # Ctrl-C
