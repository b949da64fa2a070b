"""JAX on several devices, and on those of several processes."""

import os
import socket
import subprocess
import sys
from typing import Any

from headstart.errors import HeadstartError
from headstart.system.backend import has_gpu, load_keras, silent_stderr


def learning_devices(devices: str) -> list[str]:
    """Return the names of the devices that `--devices` asks for; none where the backend computes on one and chooses it.

    Args:
        devices: `all`, `cluster` or a number.

    Raises:
        HeadstartError: there are fewer, or the backend is not JAX.
    """
    keras, several = load_keras(), devices not in ("all", "1")
    if keras.backend.backend() != "jax":
        if several:
            raise HeadstartError(
                f"--devices {devices} needs JAX, not {keras.backend.backend()}: install jax, and set KERAS_BACKEND=jax"
            )
        return []
    found = keras.distribution.list_devices()
    if devices == "all" and not has_gpu():
        return found[:1]  # a CPU's cores work together as they are
    if several and devices != "cluster" and int(devices) > len(found):
        more = "" if has_gpu() else "; a CPU counts as one"
        raise HeadstartError(f"--devices {devices}: JAX finds only {len(found)} here{more}")
    return found if devices in ("all", "cluster") else found[: int(devices)]


def join_processes(address: str, count: int, process: int, neighbour: int, neighbours: int) -> None:
    """Let JAX compute on the devices of several processes. Call it before anything is computed.

    Args:
        address: `HOST:PORT`, where the first process is to start the coordination service.
        count: the number of processes.
        process: the number of this one, from 0.
        neighbour: its number among those on this machine, from 0.
        neighbours: how many these are. If each sees all GPUs of the machine, each takes one.

    Raises:
        HeadstartError: the backend is not JAX, or JAX is in use already.
    """
    if load_keras().backend.backend() != "jax":
        learning_devices("cluster")
    import jax

    options: dict[str, Any] = {}
    if process == 0 and (served := serve_coordination(address, count)):
        # Its own service, which nobody uses, gets a port that nobody knows.
        options["coordinator_bind_address"] = served
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if neighbours > 1 and (visible is None or len(visible.split(",")) >= neighbours):
        options["local_device_ids"] = [neighbour]
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # JAX would ask the launcher too, and take one device where Slurm or Open MPI started it.
        jax.distributed.initialize(address, count, process, cluster_detection_method="deactivate", **options)
    except RuntimeError as error:
        raise HeadstartError(f"--devices cluster: JAX cannot begin ({str(error).splitlines()[0]})") from None
    from jax.experimental import multihost_utils

    with silent_stderr(1), silent_stderr(2):  # each connection is reported
        multihost_utils.sync_global_devices("headstart")


def serve_coordination(address: str, count: int) -> str:
    """Start `headstart.system.coordinator`; return an address on which nothing listens, or "" if it does not start."""
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "headstart.system.coordinator", f"[::]:{port}", str(count)]
    # It notices by its stdin that this process has ended. It ends by itself, so nobody waits for it.
    service = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    SERVICES.append(service)
    assert service.stdout
    if service.stdout.readline() != b"ready\n":
        return ""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


SERVICES: list[subprocess.Popen[bytes]] = []  # kept, since their stdin would be closed with them


def replicated(value: Any, layout: Any) -> Any:
    """Return an array of JAX on all devices of a Keras `TensorLayout`, or for None on the first device of this process."""
    import jax

    if layout is None:
        return jax.numpy.asarray(jax.device_get(value))
    sharding = layout.backend_layout
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    array = jax.device_get(value)  # `device_put` would compare the values of all processes, one array at a time
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
