"""JAX's coordination service in a process of its own: `python -m headstart.system.coordinator HOST:PORT PROCESSES`.

JAX runs it within the first process. If that one is killed, JAX at once aborts all others, with a stack trace and before they
could say what happened. Here it goes on for a moment after the process that started it has ended, however that was.
"""

import os
import sys
import time

from jax._src.lib import _jax  # there is no public way to the service alone; test_cluster says if it has moved

AFTERLIFE = 10  # seconds: the other processes need one to notice who ended


def main(address: str, processes: str) -> None:
    service = _jax.get_distributed_runtime_service(address, int(processes))
    print("ready", flush=True)
    sys.stdin.read()  # until the process that started this one ends
    time.sleep(AFTERLIFE)
    del service
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
