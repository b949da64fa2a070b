"""Ray: what workers compute is what one process computes, also if one of them is killed, and what cannot work is said at once."""

import itertools
import os
import pickle
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
import headstart.ray
from headstart.cli.main import main
from headstart.data.decode import Decoding
from headstart.data.on_demand import OnDemand, digest, fingerprint
from headstart.inference import bulk
from headstart.system import workers
from headstart.training.blocks import Blocks
from headstart.training.features import BatchToView
from helpers import free_port, random_images, tiny_network

ray = pytest.importorskip("ray")
# Ray warns of what it itself will change; its sockets and processes outlive the test in which they were made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data"),
]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two workers on this machine. Whatever asks for one in this process gets it."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(digits, tmp_path_factory) -> Path:
    """A table of eleven digits, one of them in a damaged file, and of one file that is missing."""
    folder = tmp_path_factory.mktemp("photos")
    names = [f"{number:02}.png" for number in range(12)]
    for name, image in zip(names[:11], digits.images(digits.test[:11]), strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "05.png").write_bytes(b"no image")
    (folder / "files.csv").write_text("\n".join(["file", *names]) + "\n")
    return folder


def kill_one() -> int:
    """Kill a worker, as a machine would that has no memory left, and return its number."""
    (running,) = workers.RUNNING
    process = ray.get(running.members[0].__ray_call__.remote(lambda _: os.getpid()))
    os.kill(process, signal.SIGKILL)
    return process


def test_the_table_is_that_of_one_process_though_a_worker_is_killed(cluster, small_run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "BLOCK", 1)
    small_run.predict_to(tmp_path / "one.csv", photos / "files.csv", reject=0.2)
    write, killed = bulk.write_block, []

    def killing(*arguments) -> None:
        write(*arguments)
        killed or killed.append(kill_one())

    monkeypatch.setattr(bulk, "write_block", killing)
    totals = small_run.predict_to(tmp_path / "found.csv", photos / "files.csv", reject=0.2, ray="auto")
    assert killed
    assert (totals.images, totals.unreadable) == (12, 2)
    assert (tmp_path / "found.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert workers.RUNNING == []


def test_what_was_interrupted_goes_on_with_and_without_workers(cluster, small_run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bulk, "BLOCK", 4)
    small_run.predict_to(tmp_path / "one.csv", photos)
    write, done = bulk.write_block, itertools.count(1)

    def stopping(*arguments) -> None:
        write(*arguments)
        if next(done) == 1:
            raise KeyboardInterrupt

    arguments = ["predict", str(small_run.path), str(photos), "--out", str(tmp_path / "found.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "write_block", stopping)
        with pytest.raises(SystemExit, match="130"):
            main([*arguments, "--ray"])
    assert "go on with headstart predict" in (told := capsys.readouterr().err)
    assert told.rstrip().endswith("--ray local")
    main(arguments)
    assert "1 of 3 blocks done already" in capsys.readouterr().err
    assert (tmp_path / "found.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_workers_that_do_not_see_the_files_are_named(cluster, small_run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bulk, "exists", lambda path: True)  # as if this process saw what they do not see
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(small_run.path), str(photos / "files.csv"), "--out", str(tmp_path / "found.csv"), "--ray", "auto"])
    assert f"does not see {photos / '11.png'}, which is here" in (told := capsys.readouterr().err)
    assert "Traceback" not in told


def test_a_dataset_gets_the_columns_of_the_table(cluster, small_run, photos):
    paths = [photos / f"{number:02}.png" for number in range(7)]
    dataset = ray.data.from_items([{"bytes": path.read_bytes(), "id": place} for place, path in enumerate(paths)])
    found = headstart.ray.predict(dataset, small_run.path, batch_size=2, concurrency=1).take_all()
    for row, one in zip(sorted(found, key=lambda row: row["id"]), small_run.stream(paths, 2), strict=True):
        assert list(row) == ["bytes", "id", "class", "confidence", "unlike", "error", *small_run.class_names]
        assert (row["class"], bool(row["error"]), row["unlike"]) == (one.label or None, bool(one.error), one.unlike)
        expected = [None] * 10 if one.error else one.probabilities.tolist()
        assert [row[name] for name in small_run.class_names] == expected


def test_images_of_a_dataset_are_bytes_arrays_or_paths(cluster, small_run, photos, digits, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    monkeypatch.setattr("headstart.ray.allow_cores", lambda number: None)  # this process needs its cores
    make = [ray.put(headstart.ray.inference.shipped.opening(small_run.classifier, 64, 2000, False, 0.0))]

    def answering(column: str = "") -> headstart.ray.Answering:
        return headstart.ray.Answering(make, column, ["unlike"], 1)

    pixels = digits.images(digits.test[:3])
    expected = small_run.predict(pixels).labels
    tensors = ray.get(ray.data.from_numpy(pixels).to_arrow_refs())[0]
    assert answering("data")(tensors)["class"].to_pylist() == expected
    paths = [*(str(photos / f"{number:02}.png") for number in range(3)), str(photos / "missing.png"), None]
    found = answering()(arrow.table({"item": paths}))
    assert found["class"].to_pylist() == [*expected, None, None]
    assert [bool(error) for error in found["error"].to_pylist()] == [False, False, False, True, True]
    for column, table, message in (
        ("", {"what": [1]}, "none of the columns bytes, image, path, item: name that of the images; there are what"),
        ("there", {"what": [1]}, "no column 'there'"),
        ("item", {"item": [paths[0]], "error": [0]}, "a column 'error', and so have the answers"),
        ("item", {"item": [1.5]}, "an array must be uint8"),
    ):
        with pytest.raises(hs.HeadstartError, match=message):
            answering(column)(arrow.table(table))


def test_features_and_accuracy_are_those_of_one_process_though_a_worker_is_killed(cluster, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.training.features.EXTRACTION_BATCH", 8)
    options = tiny | {"rotation": 0.05, "rand_augment": True, "views": 2}
    write, killed, found = Blocks.write, [], {}

    def killing(*arguments) -> None:
        killed or killed.append(kill_one())
        write(*arguments)

    for name, where in (("one", {}), ("ray", {"ray": "auto"})):
        monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / name))
        if where:
            monkeypatch.setattr(Blocks, "write", killing)
        run = hs.train("starter", out=str(tmp_path / f"run-{name}"), **options, **where)
        files = {file.name: file.read_bytes() for file in (tmp_path / name / "features").glob("*.npy")}
        found[name] = files, run.array("test_frozen").tolist(), run.metrics["test"]["frozen"]["accuracy"]
    assert killed
    assert found["one"][0].keys() == found["ray"][0].keys()
    assert found["one"] == found["ray"]
    assert "ray =" not in (tmp_path / "run-ray" / "config.toml").read_text()


def test_a_network_that_gives_maps_too_survives_the_journey():
    network, _ = tiny_network()
    network.cut = "stage0_relu"
    extractor, images = network.feature_extractor(), random_images(4)
    for ours, theirs in zip(
        extractor.predict_on_batch(images), pickle.loads(pickle.dumps(extractor)).predict_on_batch(images), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


class Odd:
    """Work that goes wrong."""

    kind = {"packages": "1.0"}  # noqa: RUF012

    def __call__(self, task: str) -> str:
        if task == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "refuse":
            raise hs.HeadstartError("this cannot be")
        return {"fine": "done"}[task]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("kill", "2 workers of the cluster died at the same task"),
        ("refuse", "^this cannot be$"),
        ("err", "failed: KeyError: 'err'"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_said_in_a_line(task, message, cluster, monkeypatch):
    monkeypatch.setattr(workers, "MOST_DEATHS", 1)
    running = workers.Workers(Odd, 2)
    assert list(running.results(["fine"] * 20)) == ["done"] * 20
    with pytest.raises(hs.HeadstartError, match=message):
        list(running.results(["fine", task]))
    running.close()


def test_a_worker_that_computes_otherwise_gets_no_task(cluster, caplog):
    running = workers.Workers(Odd, 1)
    running.expected = {"packages": "2.0"}
    with pytest.raises(hs.HeadstartError, match="no worker of the cluster is left: those that differ"):
        list(running.results(["fine"]))
    assert "is not used: its packages is 1.0, and that of the first worker 2.0" in caplog.text
    running.close()


def test_a_cluster_has_a_place_for_each_gpu_or_else_for_each_core():
    assert workers.places([{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}]) == (12, 1, {"num_cpus": 1})
    both = [{"CPU": 32.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 24.0, "GPU": 1.0}]
    assert workers.places(both) == (5, 4, {"num_cpus": 4, "num_gpus": 1})


def test_images_decoded_on_demand_travel_as_the_names_of_their_files(tmp_path):
    images = random_images(4, 16)
    names = [f"{number}.png" for number in range(4)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    stats = np.array([fingerprint(tmp_path / name) for name in names])
    digests = np.array([digest(image) for image in images])
    whole = OnDemand(tmp_path, names, stats, 16, Decoding(), digests)
    batch = BatchToView(whole.part(np.array([3, 1])), 0, (hs.Config(), 1, 64))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(batch)).pixels(), images[[3, 1], :, ::-1])
    (tmp_path / "3.png").unlink()
    with pytest.raises(hs.HeadstartError, match=r"does not see .*3\.png: put the images where every machine has them"):
        batch.pixels()


def test_an_address_that_does_not_answer_is_said_in_seconds(small_run, photos, tmp_path, capsys):
    for address in (f"127.0.0.1:{free_port()}", f"ray://localhost:{free_port()}", "no-such-machine.invalid:6379"):
        begin = time.monotonic()
        with pytest.raises(SystemExit, match="2"):
            main(["predict", str(small_run.path), str(photos), "--out", str(tmp_path / "found.csv"), "--ray", address])
        assert f"--ray {address}: nothing answers there" in capsys.readouterr().err.splitlines()[-1]
        assert time.monotonic() - begin < 60
    assert not (tmp_path / "found.csv").exists()


def test_what_answers_and_is_not_ray_is_told_apart(cluster):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.0 400 Bad request")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(hs.HeadstartError, match="what answers there is not Ray"), workers.connected(address_of(server)):
            pass
    workers.refuse_unreachable(ray.get_runtime_context().gcs_address)


def address_of(server: socket.socket) -> str:
    host, port = server.getsockname()
    return f"{host}:{port}"


@pytest.mark.parametrize("address", ["10.0.0.1", "http://there:80", "a b:1", "://:1"])
def test_what_is_no_address_is_refused(address, small_run, photos, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(small_run.path), str(photos), "--out", str(tmp_path / "found.csv"), "--ray", address])
    assert f"--ray {address}: give local, auto, HOST:PORT or ray://HOST:PORT" in capsys.readouterr().err
    with pytest.raises(hs.HeadstartError, match="give local, auto"):
        hs.Config(ray=address)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"budget": "5m"}, "leave out --budget or --ray"), ({"cache_features": False}, "leave out --weights none and --no-cache"),
     ({"devices": "cluster"}, "leave one of them out")],
)  # fmt: skip
def test_what_does_not_go_with_workers_is_refused(options, message):
    with pytest.raises(hs.HeadstartError, match=message):
        hs.Config(ray="local", **options)


def test_without_ray_a_line_says_what_to_install(small_run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(small_run.path), str(photos), "--out", str(tmp_path / "found.csv"), "--ray"])
    assert capsys.readouterr().err.splitlines()[-1] == "headstart: Ray is not installed: pip install 'headstart[ray]'"
