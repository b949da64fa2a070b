import os
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.errors import HeadstartError
from headstart.system import cache
from headstart.system.cache import cache_folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Nothing of a cache is known yet, and the system's temporary files lie in a folder of the test's."""
    forget()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    yield tmp_path / "tmp"
    forget()


def forget():
    cache.writable_cache.cache_clear()
    cache.private_folder.cache_clear()


@pytest.mark.parametrize("place", ["file", "file/below", "read-only", "no home"])
def test_a_cache_that_cannot_be_written_is_made_elsewhere_and_said_once(place, temporary, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / place))
    if place == "no home":
        for name in ("HEADSTART_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    if place == "read-only":  # whose permissions would not keep root from writing
        monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    folders = [cache_folder(kind) for kind in ("features", "plan", "features")]
    assert folders[0] == folders[2] == temporary / f"headstart-{os.getuid()}" / "features"
    assert folders[1].is_dir()
    assert folders[0].parent.stat().st_mode & 0o777 == 0o700
    assert len(caplog.messages) == 1
    assert "HEADSTART_CACHE=FOLDER" in caplog.text


def read_only(**_):
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("taken", ["link", "open to all"])
def test_a_folder_that_others_can_reach_is_not_used(taken, temporary, tmp_path, monkeypatch):
    expected = temporary / f"headstart-{os.getuid()}"
    if taken == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        expected.symlink_to(tmp_path / "theirs")
    else:
        expected.mkdir()
        expected.chmod(0o777)
    monkeypatch.setenv("HEADSTART_CACHE", "/proc/nothing")
    folder = cache_folder("features").parent
    assert folder.parent == temporary
    assert folder != expected
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "theirs", "a disk without modes"])
def test_a_folder_of_a_kind_that_is_not_the_users_alone_is_not_used(kind, temporary, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "cache" / "features"
    if kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "file":
        place.touch()
    else:
        place.mkdir(mode=0o755)
    user = os.getuid()
    with monkeypatch.context() as patch:
        if kind == "theirs":
            folder = tmp_path / "cache"
            patch.setattr(cache, "writable_cache", lambda _: folder)
            (temporary / f"headstart-{user + 1}").mkdir(mode=0o700)
            patch.setattr("os.getuid", lambda: user + 1)
        if kind == "a disk without modes":
            patch.setattr("pathlib.Path.chmod", lambda *_: None)
        folders = [cache_folder("features") for _ in range(2)]
    assert folders[0] == folders[1]
    assert folders[0].name == "features"
    assert folders[0].is_relative_to(temporary)
    assert len(caplog.messages) == 1
    assert f"{place} is not used" in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o770])
def test_a_folder_of_a_kind_becomes_the_users_alone(mode, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "features"
    place.mkdir(parents=True)
    place.chmod(mode)
    assert cache_folder("features") == place
    assert place.stat().st_mode & 0o777 == 0o700
    assert not caplog.messages


@pytest.mark.parametrize("which", ["cache", "above"])
def test_a_cache_that_all_users_could_exchange_is_not_used(which, temporary, tmp_path, monkeypatch, caplog):
    root = tmp_path / "above" / "cache"
    root.mkdir(parents=True)
    monkeypatch.setenv("HEADSTART_CACHE", str(root))
    (root if which == "cache" else root.parent).chmod(0o777)
    assert cache_folder("features").is_relative_to(temporary)
    assert "all users can write to" in caplog.text
    cache.writable_cache.cache_clear()
    (root if which == "cache" else root.parent).chmod(0o1777)
    assert cache_folder("features") == root / "features"


def test_a_cache_may_be_a_link_to_another_disk(tmp_path, monkeypatch, caplog):
    (tmp_path / "large").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "large")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    cache_folder("features")
    assert (tmp_path / "large" / "features").is_dir()
    assert not caplog.messages


KILLED = """
import os, signal, sys
from headstart.system.cache import cache_folder
from headstart.system.files import temporary_folder
with temporary_folder(cache_folder("features") / "a.npy") as folder:
    (folder / "a.npy").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    processes = [
        subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    abandoned, used = [Path(process.stdout.readline().strip()) for process in processes]
    processes[0].kill()
    processes[0].wait()
    cache_folder("features")
    assert not abandoned.exists()
    assert (used / "a.npy").exists()
    processes[1].communicate("")
    assert list((tmp_path / "cache" / "features").iterdir()) == []


def test_without_any_place_it_is_said_how_to_choose_one(temporary, tmp_path, monkeypatch):
    temporary.rmdir()
    monkeypatch.setenv("HEADSTART_CACHE", "/proc/nothing")
    with pytest.raises(HeadstartError, match="set HEADSTART_CACHE"):
        cache_folder("features")


def test_the_cache_lies_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADSTART_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("plan") == tmp_path / "headstart" / "plan"


def test_clearing_removes_what_is_cached_of_a_kind_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    others = [tmp_path / "mine", tmp_path / "cache" / "mine", cache_folder("plan") / "costs.json"]
    for other in others:
        other.write_text("kept")
    features = cache_folder("features")
    (features / "a.npy").write_bytes(bytes(10))
    (features / "below").mkdir()
    (features / "below" / "b.npy").write_bytes(bytes(5))
    (features / "link").symlink_to(tmp_path / "mine")
    (features / "linked folder").symlink_to(tmp_path)
    assert cache.usage("features").files == 4
    cleared = cache.clear("features")
    assert cleared.files == 4
    assert cleared.size >= 15
    assert not features.exists()
    assert [other.read_text() for other in others] == ["kept"] * 3
    assert cache.clear("features") == cache.usage("features") == (0, 0)


def test_a_folder_that_is_a_link_is_left_to_its_owner(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.npy").touch()
    (tmp_path / "cache" / "features").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HeadstartError, match="empty that folder yourself"):
        cache.clear("features")
    assert (tmp_path / "elsewhere" / "a.npy").exists()


def test_pruning_keeps_what_was_used_last(tmp_path):
    for age, name in enumerate(["new", "older", "oldest"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    cache.prune(tmp_path.iterdir(), 250)
    assert {file.name for file in tmp_path.iterdir()} == {"new", "older"}


def test_reading_is_using(tmp_path):
    for age, name in enumerate(["written last", "read last"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 + 5000 * age, 2000 - age))
    cache.prune(tmp_path.iterdir(), 100)
    assert [file.name for file in tmp_path.iterdir()] == ["read last"]
