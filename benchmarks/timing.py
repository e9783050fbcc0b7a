"""Time actions in turn, and a copy of memory."""

import os
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

Action = Callable[[], object]


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB.

    Linux's `ru_maxrss` counts the process that started this one too, so it is the second choice.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def interleaved(actions: Mapping[str, Action], seconds: float, least: int = 7) -> dict[str, float]:
    """Return the median milliseconds of each action.

    They run in turn, so that a slowdown of the machine affects all of them: after two rounds of
    warm-up, for about `seconds`, in at least `least` rounds. Each round has its own order, because
    an action is faster if the one before it left the same inputs in the cache.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(2):
        for action in actions.values():
            action()
    order, end, turn = random.Random(0), time.perf_counter() + seconds, 0
    while turn < least or (time.perf_counter() < end and turn < 400):
        for name in order.sample(list(actions), len(actions)):
            start = time.perf_counter()
            actions[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
        turn += 1
    return {name: median(kept) for name, kept in times.items()}


def copy_action(size: int) -> Action:
    """Return a copy of `size` bytes by all CPUs: it reads and writes them once."""
    parts = cpus()
    source = np.ones(max(size // parts, 1), np.uint8)
    buffers = [(source.copy(), source.copy()) for _ in range(parts)]
    pool = ThreadPoolExecutor(parts)

    def copy() -> None:
        list(pool.map(lambda pair: np.copyto(*pair), buffers))

    return copy
