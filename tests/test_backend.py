import platform
import subprocess
import sys

import pytest

SECOND_TIME = """
import resource
from headstart.backend import keep_freed_memory

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
