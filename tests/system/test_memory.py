import platform
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from headstart.system import memory
from headstart.system.memory import forget_peak_memory, peak_memory_mb
from headstart.training.checkpoint import Checkpoint

MEGABYTES = 300


def hold() -> None:
    """Hold 300 MB for a moment."""
    np.ones(MEGABYTES * 10**6, np.uint8)


def can_forget() -> bool:
    hold()
    before = peak_memory_mb()
    forget_peak_memory()
    return peak_memory_mb() < before - MEGABYTES / 2


def stages(folder: Path) -> None:
    """Check what checkpoints say of the memory that their stages held."""
    checkpoint = Checkpoint(folder)
    checkpoint.start_clock()
    hold()
    checkpoint.stop_clock("large")
    checkpoint.stop_clock("small")
    checkpoint.write()
    small, large = checkpoint.memory_mb["small"], checkpoint.memory_mb["large"]
    assert large > small + MEGABYTES / 2
    resumed = Checkpoint(folder)
    resumed.start_clock()
    resumed.stop_clock("large")
    resumed.start_clock()
    hold()
    resumed.stop_clock("small")
    assert resumed.memory_mb["large"] == large
    assert resumed.memory_mb["small"] > small + MEGABYTES / 2
    assert resumed.seconds["large"] > checkpoint.seconds["large"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can forget its peak")
def test_each_stage_has_the_peak_of_its_own_and_a_resumed_one_the_highest(tmp_path):
    # In a process of its own, since one that trains keeps what it has freed.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        if not process.submit(can_forget).result():
            pytest.skip("this system does not let a process forget its peak")
        process.submit(stages, tmp_path).result()


def test_elsewhere_it_is_the_peak_so_far(tmp_path, monkeypatch):
    known = peak_memory_mb()
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "no" / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    forget_peak_memory()
    assert peak_memory_mb() >= 0.5 * known


SECOND_TIME = """
import resource
from headstart.system.memory import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{call}
page_faults()
print(page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_large_block_that_was_freed_is_not_mapped_anew():
    assert faults_of_the_second_block("keep_freed_memory()") < 0.1 * faults_of_the_second_block("")


def faults_of_the_second_block(call: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_TIME.format(call=call)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)
