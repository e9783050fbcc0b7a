"""Start a script in several processes of this machine, as a cluster would on several machines."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

COUNT = 2


def free_ports(count: int) -> list[int]:
    """Return numbers of free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(environment: Callable[[int, list[int]], Mapping[str, str]]) -> None:
    """Run this script `COUNT` times, and exit with an error if a process fails.

    Args:
        environment: function from the number of a process and free ports, one per process, to the
            environment variables of this process.
    """
    ports = free_ports(COUNT)
    processes = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment(index, ports)},
        )
        for index in range(COUNT)
    ]
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):  # the others would wait for it
            for process in processes:
                process.terminate()
        time.sleep(0.1)
    if any(process.returncode for process in processes):
        sys.exit("a process failed")
