"""Work on ranges of pixels, one single-threaded worker per core.

Torch's own threads split every small operation and wait for each other after it. On a machine
that does anything else at the time, one late thread then holds up all others at every operation
(up to fifty times slower, see benchmarks). Workers that take a range of pixels each meet once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")


def map_ranges(
    work: Callable[[slice], T], size: int, minimum: int, device: torch.device
) -> list[T]:
    """`work` on consecutive ranges that cover 0 .. size-1, in order.

    The split depends only on the arguments and on `torch.get_num_threads()`, so sums over ranges
    are reproducible. `work` runs without gradients.

    Args:
        work: gets a range; on a CPU it runs in a worker whose torch calls use one thread.
        size: number of items.
        minimum: items below which a range is not worth a worker.
        device: where the work happens; only a CPU's is split.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    count = max(1, min(workers, size // minimum))
    edges = [size * i // count for i in range(count + 1)]
    ranges = [slice(a, b) for a, b in pairwise(edges)]
    if count == 1:
        with torch.no_grad():
            return [work(ranges[0])]
    inference = torch.is_inference_mode_enabled()

    def guarded(items: slice) -> T:
        with torch.inference_mode(inference), torch.no_grad():  # both are per thread
            return work(items)

    return list(_pool(workers).map(guarded, ranges))


def run_in_worker(work: Callable[[], T], device: torch.device) -> T:
    """`work()` on one thread, for many small calls between two `map_ranges`.

    Torch's threads would go on spinning after each of them and take a core from the workers.
    """
    workers = torch.get_num_threads()
    if device.type != "cpu" or workers == 1:
        return work()
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def guarded() -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work()

    return _pool(workers).submit(guarded).result()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    all_started = Barrier(workers)

    def start() -> None:
        torch.set_num_threads(1)  # of this thread, and the default of threads yet to come
        all_started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="qpc-exact", initializer=start)
    for future in [pool.submit(lambda: None) for _ in range(workers)]:
        future.result()
    torch.set_num_threads(workers)  # gives that default back
    return pool


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
