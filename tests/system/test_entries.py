"""Entries of the cache: what was written is read again; whatever else has an entry's name is removed, and said in one line."""

import json
import os
import socket
from typing import Annotated

import numpy as np
import pytest
from msgspec import Meta

from headstart.system import entries
from headstart.system.entries import read_sealed, read_stored, seal, write_sealed, written_array

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


def write(path, rows=ROWS):
    with written_array(path) as stream:
        header = {"descr": rows.dtype.str, "fortran_order": False, "shape": rows.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(rows.tobytes())


def read(path):
    return read_stored(path, ("float16", "float32"), (20, 3))


@pytest.fixture
def entry(tmp_path):
    """An array entry that another process has written, for a test to damage."""
    path = tmp_path / "cache" / "a.npy"
    path.parent.mkdir()
    write(path)
    entries.VERIFIED.clear()
    return path


def test_an_array_comes_back_as_it_was_written(entry):
    stored = read(entry)
    np.testing.assert_array_equal(stored.mapped(), ROWS)
    assert len(stored) == 20
    entry.unlink()  # another process clears the cache
    np.testing.assert_array_equal(stored.mapped(), ROWS)


def test_an_array_that_was_written_otherwise_gets_the_same_seal(entry, tmp_path):
    other = tmp_path / "a.npy"
    np.save(other, ROWS)
    assert seal(other, "a.npy") == read(entry).seal
    assert other.read_bytes()[-32:] == entry.read_bytes()[-32:]


def test_a_missing_entry_is_not_worth_a_line(tmp_path, caplog):
    assert read(tmp_path / "a.npy") is None
    assert read_sealed(tmp_path / "a.json", dict[str, int]) is None
    assert not caplog.messages


def test_an_entry_is_verified_once(entry, monkeypatch):
    assert read(entry)
    monkeypatch.setattr(entries, "refuse_changed", lambda *_: pytest.fail("verified again"))
    assert read(entry)


def shuffled(path):
    content = path.read_bytes()
    rows = np.frombuffer(content[-32 - ROWS.nbytes : -32], np.float32).reshape(ROWS.shape)[::-1]
    path.write_bytes(content[: -32 - ROWS.nbytes] + rows.tobytes() + content[-32:])


def zeros(path):
    content = path.read_bytes()
    path.write_bytes(content[: -32 - ROWS.nbytes] + bytes(ROWS.nbytes) + content[-32:])


def another_entry(path):
    write(path.with_name("b.npy"), ROWS[::-1])
    path.with_name("b.npy").replace(path)
    entries.VERIFIED.clear()


def link(path):
    os.replace(path, path.parent.parent / "elsewhere.npy")
    path.symlink_to(path.parent.parent / "elsewhere.npy")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def a_socket(path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def folder(path):
    path.unlink()
    (path / "within").mkdir(parents=True)
    (path / "within" / "file").touch()


def another_version(path):
    np.save(path, ROWS)


def other_numbers(path):
    write(path, ROWS.astype(np.float64))


def other_shape(path):
    write(path, ROWS[:10])


def huge(path):
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(1 << 40)


def objects(path):
    np.save(path, np.array([print], object), allow_pickle=True)


HARMS = [
    shuffled, zeros, another_entry, link, pipe, a_socket, folder, another_version, other_numbers, other_shape, huge, objects,
    lambda path: path.write_bytes(path.read_bytes()[:50]), lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes() + b"more"),
    lambda path: path.chmod(0o666), lambda path: path.chmod(0o620),
]  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_whatever_else_has_the_name_of_an_array_is_removed_in_one_line(harm, entry, caplog, monkeypatch):
    monkeypatch.chdir(entry.parent)
    harm(entry)
    assert read(entry) is None
    assert len(caplog.messages) == 1
    assert str(entry) in caplog.text
    assert "it is made again" in caplog.text
    assert not os.path.lexists(entry)
    write(entry)
    np.testing.assert_array_equal(read(entry).mapped(), ROWS)


def test_an_entry_of_another_user_is_not_used(entry, caplog, monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert read(entry) is None
    assert "could be written by another user" in caplog.text


def test_whatever_the_users_mask_an_entry_is_theirs_alone(tmp_path):
    mask = os.umask(0)
    try:
        write(tmp_path / "a.npy")
        write_sealed(tmp_path / "a.json", {"a": 1})
        entries.VERIFIED.clear()
        assert read(tmp_path / "a.npy")
        assert read_sealed(tmp_path / "a.json", dict[str, int])
    finally:
        os.umask(mask)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_a_json_entry_comes_back_as_it_was_written(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"\udce9": "x"}}
    write_sealed(tmp_path / "a.json", content)
    assert read_sealed(tmp_path / "a.json", dict) == content


def deep(path):
    path.write_text('{"content": {"a": ' + 100_000 * "[" + 100_000 * "]" + '}, "sha256": "' + 64 * "0" + '"}')


def as_deep_as_can_be_parsed(path):
    path.write_text('{"content": {"a": ' + 900 * "[" + 900 * "]" + '}, "sha256": "' + 64 * "0" + '"}')


def large(path):
    path.write_text('{"content": {"a": "' + 60_000_000 * "x" + '"}}')


def renamed(path):
    write_sealed(path.with_name("b.json"), {"a": 3})
    path.with_name("b.json").replace(path)


def changed(path):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"content": {"a": 2}}))


@pytest.mark.parametrize(
    "harm",
    [deep, as_deep_as_can_be_parsed, large, renamed, changed, link, pipe, folder,
     lambda path: path.write_text('{"a": 1}'), lambda path: path.write_text("{}"), lambda path: path.write_text("[]"),
     lambda path: path.write_bytes(b"\xff\xfe"), lambda path: path.write_text("1" + 10_000 * "0"),
     lambda path: path.write_text(path.read_text()[:20]), lambda path: path.chmod(0o666),
     lambda path: write_sealed(path, {"a": -1}), lambda path: write_sealed(path, {"a": float("nan")}),
     lambda path: write_sealed(path, {"a": "1"})],
)  # fmt: skip
def test_whatever_else_has_the_name_of_a_json_entry_is_removed_in_one_line(harm, tmp_path, caplog):
    path = tmp_path / "cache" / "a.json"
    path.parent.mkdir()
    write_sealed(path, {"a": 1})
    harm(path)
    assert read_sealed(path, dict[str, Annotated[int, Meta(ge=0)]]) is None
    assert len(caplog.messages) == 1
    assert "it is made again" in caplog.text
    assert not os.path.lexists(path)
