"""Blocks of features in the cache: what is killed goes on, several processes share, and nothing of that changes a bit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import HeadstartError
from headstart.system.cache import prune
from headstart.system.rows import StoredRows, joined
from headstart.training import blocks
from headstart.training.blocks import Blocks, remove_least_used

ROWS, BATCH = 22, 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("headstart.training.blocks.ROWS_OF_BLOCK", 8)


def blocks_in(folder: Path, rows: int = ROWS) -> Blocks:
    folder.mkdir(exist_ok=True)
    return Blocks(folder, ["plain", "plain-maps"], rows, [(3,), (2, 2, 1)], BATCH)


def inputs(rows: range) -> np.ndarray:
    return np.arange(rows.start, rows.stop, dtype=np.float32)


class Computing:
    """Stands for an engine: it remembers which rows it was given, and may fail before one of them."""

    def __init__(self, fails_before: int = 10**6, factor: float = 1.0) -> None:
        self.rows, self.fails_before, self.factor = [], fails_before, factor

    def __call__(self, batches):
        for batch in batches:
            if self.fails_before in batch:
                raise KeyboardInterrupt
            self.rows += batch.astype(int).tolist()
            yield [self.factor * np.stack([batch, batch / 3, -batch], 1), np.tile(batch[:, None, None, None], (1, 2, 2, 1)) / 7]


def complete(folder: Path, computing: Computing) -> list[np.ndarray]:
    return [np.asarray(rows) for rows in blocks_in(folder).complete(inputs, computing, "test rows")]


def test_rows_are_those_that_were_computed(tmp_path):
    features, maps = complete(tmp_path, Computing())
    np.testing.assert_array_equal(features[:, 1], (np.arange(ROWS, dtype=np.float32) / 3).astype(np.float16))
    assert (features.dtype, features.shape, maps.shape) == (np.float16, (ROWS, 3), (ROWS, 2, 2, 1))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        f"plain{kind}-0000{number}.npy" for number in range(3) for kind in ("", "-maps")
    )


def test_a_killed_computation_goes_on_at_its_next_block(tmp_path):
    expected = complete(tmp_path / "whole", Computing())
    with pytest.raises(KeyboardInterrupt):
        complete(tmp_path / "killed", first := Computing(fails_before=12))
    assert first.rows == list(range(12))
    assert len(list((tmp_path / "killed").glob("*.npy"))) == 2, "half a block is no block"
    found = complete(tmp_path / "killed", second := Computing())
    assert second.rows == list(range(8, ROWS))
    assert all(map(np.array_equal, found, expected))
    complete(tmp_path / "killed", third := Computing())
    assert third.rows == []


@pytest.mark.parametrize("harm", ["cut", "zeros", "gone", "other"])
def test_a_block_that_does_not_fit_is_computed_again_alone(harm, tmp_path, monkeypatch):
    expected = complete(tmp_path, Computing())
    file = tmp_path / "plain-maps-00001.npy"
    content = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        other = (tmp_path / "plain-maps-00000.npy").read_bytes()
        file.write_bytes({"cut": content[:-1], "zeros": content[:-40] + bytes(40), "other": other}[harm])
    monkeypatch.setattr("headstart.system.entries.VERIFIED", set())
    found = complete(tmp_path, computing := Computing())
    assert computing.rows == list(range(8, 16))
    assert all(map(np.array_equal, found, expected))
    assert file.read_bytes() == content


def test_the_first_batch_chooses_the_type_whoever_computes_it(tmp_path):
    """Only the outputs of the first batch fit float16; and the other way round."""
    large = 6000.0
    expected = complete(tmp_path / "whole", Computing(factor=large))[0]
    assert expected.dtype == np.float32, "3 * 6000 lies within a factor of 16 of float16's largest number"
    claim = blocks_in(tmp_path / "shared").claim(0)
    other = blocks_in(tmp_path / "shared")
    computing = Computing(factor=large)
    assert other.compute(other.missing(), inputs, computing, "test rows")
    assert computing.rows == [*range(4), *range(8, ROWS)]
    assert sorted(other.found) == [1, 2]
    claim.held.close()
    np.testing.assert_array_equal(complete(tmp_path / "shared", again := Computing(factor=large))[0], expected)
    assert again.rows == list(range(8))


def test_a_block_of_another_type_than_the_first_is_computed_again(tmp_path):
    """A process of an older processor may have left it."""
    complete(tmp_path, Computing())
    complete(tmp_path / "other", Computing(factor=6000.0))
    (tmp_path / "other" / "plain-00001.npy").replace(tmp_path / "plain-00001.npy")
    found = complete(tmp_path, computing := Computing())
    assert computing.rows == list(range(8, 16))
    assert found[0].dtype == np.float16


SHARING = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np
import test_blocks
from headstart.training import blocks
blocks.ROWS_OF_BLOCK = 8
class Slow(test_blocks.Computing):
    def __call__(self, batches):
        for outputs in super().__call__(batches):
            time.sleep(0.05)
            yield outputs
slow = Slow()
print("begun", flush=True)
sys.stdin.readline()
found = [np.asarray(rows) for rows in test_blocks.blocks_in(Path({folder!r}), 64).complete(test_blocks.inputs, slow, "rows")]
print(float(found[0].sum()), len(slow.rows), flush=True)
"""


def test_processes_share_the_blocks(tmp_path):
    code = SHARING.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "begun\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    (first, computed), (second, also_computed) = (process.communicate()[0].split() for process in processes)
    assert float(first) == float(second)
    assert 64 <= int(computed) + int(also_computed) <= 2 * 64
    assert not list(tmp_path.glob(".partial-*"))


CLAIMING = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_blocks
from headstart.training import blocks
blocks.ROWS_OF_BLOCK = 8
claim = test_blocks.blocks_in(Path({folder!r})).claim(1)
print("claimed", flush=True)
sys.stdin.readline()
"""


def test_a_block_that_another_process_has_claimed_is_left_to_it_until_it_is_killed(tmp_path):
    code = CLAIMING.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    mine = blocks_in(tmp_path)
    assert mine.compute(mine.missing(), inputs, computing := Computing(), "test rows")
    assert computing.rows == [*range(8), *range(16, ROWS)]
    assert mine.missing() == [1]
    assert not mine.compute([1], inputs, computing, "test rows")
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert len(complete(tmp_path, computing)[0]) == ROWS
    assert not list(tmp_path.glob(".partial-*"))


def test_sets_are_removed_together_and_never_while_they_are_used(tmp_path, monkeypatch):
    """What is read last stays; here, nothing may stay but what is used."""
    complete(tmp_path, Computing())
    used = Blocks(tmp_path, ["used"], ROWS, [(3,)], BATCH).complete(
        inputs, lambda batches: ([np.stack([batch] * 3, 1)] for batch in batches), "test rows"
    )  # fmt: skip
    (tmp_path / "of-an-old-version.npy").write_bytes(bytes(100))
    monkeypatch.setattr(blocks, "MOST_CACHE_BYTES", 0)
    remove_least_used(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"used-0000{number}.npy" for number in range(3)]
    np.testing.assert_array_equal(used[0][np.array([20, 3])][:, 0], [20, 3])
    del used
    prune(tmp_path.iterdir(), 0)
    assert not list(tmp_path.iterdir())


def test_rows_are_read_in_any_order_across_blocks_and_views(tmp_path):
    features, _ = blocks_in(tmp_path).complete(inputs, Computing(), "test rows")
    whole = np.asarray(features)
    for rows in (np.array([21, 0, 7, 8, 9, 9]), np.arange(5, 19), slice(6, 11), np.arange(ROWS) % 3 == 0, np.arange(0)):
        np.testing.assert_array_equal(features[rows], whole[rows])
    both = joined([StoredRows(features.arrays, np.array([3, 1])), features])
    np.testing.assert_array_equal(both[np.array([0, 1, 2, 23])], whole[[3, 1, 0, 21]])
    assert (len(both), both.shape, both.nbytes) == (24, (24, 3), 24 * 3 * 2)


def test_rows_of_a_file_that_was_cut_off_meanwhile_are_refused(tmp_path):
    features, _ = blocks_in(tmp_path).complete(inputs, Computing(), "test rows")
    (tmp_path / "plain-00001.npy").write_bytes(b"")
    with pytest.raises(HeadstartError, match=r"plain-00001\.npy is damaged: it ends too early"):
        features[np.array([9])]
