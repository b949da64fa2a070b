"""Data at addresses, from the command line to the report: a server that answers as S3 does, and one of the web."""

import base64
import csv
import http.server
import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli.main import main
from headstart.inference import bulk
from headstart.system import remote
from helpers import save, scene

pytest.importorskip("s3fs")
boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
KEY, SECRET = "test-access-key-id", "test-secret-access-key"


class Server:
    """A server that answers as S3 does, on one port of the loopback. What it stores outlives a stop."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self.running = moto.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.running.start()
        _, self.port = self.running.get_host_and_port()

    def stop(self) -> None:
        self.running.stop()


@pytest.fixture(scope="module")
def environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("werkzeug"), "disabled", True)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield patch


@pytest.fixture(scope="module")
def server(environment):
    found = Server()
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Scenes of two classes, and a file of each kind that is not read."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        save(scene(number), folder / ("red", "blue")[number % 2] / f"{number:02}.png")
    (folder / "red" / "broken.jpg").write_bytes(b"no image")
    (folder / "red" / "notes.txt").write_text("nothing")
    return folder


@pytest.fixture(scope="module")
def far(server, photos) -> str:
    """The address of the same."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="photos/", Body=b"")  # as consoles make a folder
    for path in photos.rglob("*.*"):
        client.put_object(Bucket="bucket", Key=f"photos/{path.relative_to(photos)}", Body=path.read_bytes())
    return "s3://bucket/photos"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.1,) * 300)
    monkeypatch.setattr(remote, "STOPPED", threading.Event())  # another test may have been told to stop
    monkeypatch.setattr(remote, "SILENT", {})


def train(data: object, out: Path, tiny: dict[str, object]) -> hs.Run:
    return hs.train(hs.recipe("starter", **tiny | {"data": str(data), "limit": 0, "out": str(out)}))


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_training_and_its_measurements_are_those_of_a_local_folder(far, photos, tiny, tmp_path):
    ours, near = train(far, tmp_path / "far", tiny), train(photos, tmp_path / "near", tiny)
    for name in ("split.csv", "weights.safetensors", "test_frozen.npy"):
        assert (ours.path / name).read_bytes() == (near.path / name).read_bytes()
    recorded, local = ours.read_json("data.json"), near.read_json("data.json")
    assert recorded["source"] == ours.config.data == far
    assert {**recorded, "source": ""} == {**local, "source": ""}
    assert recorded["skipped"] == {"no image (.txt)": 1}
    assert ours.evaluate(far)["left_out"] == {name: recorded["images"][name] for name in ("training", "validation")}
    assert KEY.encode() not in contents(ours.path)
    assert SECRET.encode() not in contents(ours.path)


def test_a_bulk_prediction_waits_for_a_server_that_was_stopped(small_run, far, photos, server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bulk, "BLOCK", 8)
    write = bulk.write_block

    def stopping(file, *others):
        write(file, *others)
        if file.stem == "000000":
            server.stop()
            threading.Timer(1.0, server.start).start()

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "headstart"):
        patch.setattr(bulk, "write_block", stopping)
        totals = small_run.predict_to(tmp_path / "far.csv", far, batch_size=4)
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == ["s3://bucket does not answer"]
    near = small_run.predict_to(tmp_path / "near.csv", photos, batch_size=4)
    for one in (totals, near):
        assert (one.images, one.unreadable, one.skipped) == (41, 1, {"no image (.txt)": 1})
    assert (tmp_path / "far.csv").read_text() == (tmp_path / "near.csv").read_text().replace(str(photos), far)


def test_what_is_wrong_is_said_in_a_line(far, server, small_run, tmp_path, monkeypatch, capsys):
    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(map(str, arguments)))
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "there is no s3://no-bucket: check the address" in said("train", "s3://no-bucket/photos")
    assert "there is nothing at s3://bucket/none: check the address" in said("predict", small_run.path, "s3://bucket/none")
    assert "there is nothing at s3://bucket/none" in said("audit", "s3://bucket/none")
    assert "is no data set" in said("evaluate", small_run.path, "--data", f"{far}/red/00.png")
    remote.store_of.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(remote, "WAITS", (0.01, 0.01))
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        patch.setattr("s3fs.S3FileSystem.cachable", False)
        assert "s3://bucket/photos could not be reached for 2 minutes" in said("train", far)
        remote.store_of.cache_clear()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        assert "there are no credentials for s3://bucket: set AWS_PROFILE, or AWS_ACCESS_KEY_ID" in said("train", far)
    remote.store_of.cache_clear()


class Guarded(http.server.SimpleHTTPRequestHandler):
    """Give files to those who have the password and the signature."""

    def send_head(self):
        wanted = "Basic " + base64.b64encode(b"user:pa55word").decode()
        if self.headers["Authorization"] != wanted or "X-Amz-Signature=5ignature" not in self.path:
            return self.send_error(403)
        return super().send_head()

    def log_message(self, *_):
        pass


def test_credentials_in_an_address_are_used_and_never_written(photos, small_run, tiny, tmp_path, caplog, capsys):
    shutil.make_archive(str(tmp_path / "served" / "photos"), "zip", photos)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "served" / "1.png")
    handler = lambda *arguments: Guarded(*arguments, directory=str(tmp_path / "served"))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web, caplog.at_level(logging.DEBUG, "headstart"):
        threading.Thread(target=web.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{web.server_port}"
        whole = f"http://user:pa55word@{place}/photos.zip?X-Amz-Signature=5ignature"
        run = train(whole, tmp_path / "run", tiny)
        assert run.config.data == f"http://{place}/photos.zip"
        main(["predict", str(small_run.path), whole.replace("photos.zip", "1.png"), "--out", str(tmp_path / "found.csv")])
        for wrong in (whole.replace("5ignature", "0ld"), f"http://{place}/photos.zip?token=0ld"):
            with pytest.raises(SystemExit):
                main(["train", wrong, "--out", str(tmp_path / "other")])
        (tmp_path / "list.csv").write_text(f"file\n{whole.replace('photos.zip', '1.png')}\n")
        assert [one.name for one in small_run.stream(tmp_path / "list.csv")] == [f"http://{place}/1.png"]
        with pytest.raises(SystemExit):
            main(["predict", str(small_run.path), str(tmp_path / "list.csv"), "--out", str(tmp_path / "other.csv")])
        web.shutdown()
    with (tmp_path / "found.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [f"http://{place}/1.png"]
    printed = capsys.readouterr()
    assert "access is denied (status 403): check user, password or signature" in printed.err
    assert "has credentials, and --out keeps a list of the images" in printed.err
    for text in (contents(run.path).decode(errors="replace"), caplog.text, printed.out + printed.err):
        assert not any(secret in text for secret in ("pa55word", "5ignature", "0ld"))
