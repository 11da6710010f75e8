"""Work on ranges of pixels, one single-threaded worker per core.

Torch's own threads split every small operation and wait for each other after it. On a machine
that does anything else at the time, one late thread then holds up all others at every operation
(a step of 0.09 s was seen to take 4.5 s on two loaded cores). Workers that take a range of pixels
each meet once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def split_ranges(size: int, minimum: int, device: torch.device) -> list[slice]:
    """Consecutive ranges that cover 0 .. size-1: one per core of a CPU, one elsewhere.

    Args:
        size: number of items.
        minimum: items below which a range is not worth a worker.
        device: where the work happens.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    count = max(1, min(workers, size // minimum))
    return [slice(a, b) for a, b in pairwise(size * i // count for i in range(count + 1))]


def run_in_workers(work: Callable[[S], T], items: Sequence[S], device: torch.device) -> list[T]:
    """`work` of every item, each in a worker of its own whose torch calls use one thread.

    For few large items, or one item of many small calls, after each of which torch's own threads
    would go on spinning and take a core from the workers. On other devices than a CPU, or with one
    thread, it runs in the caller.

    Args:
        work: sees the caller's grad and inference modes.
        items: what it is called with.
        device: where the work happens.

    Returns:
        The results, in order.
    """
    workers = torch.get_num_threads()
    if device.type != "cpu" or workers == 1:
        return [work(item) for item in items]
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def in_worker(item: S) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):  # both are per thread
            return work(item)

    def submit(item: S) -> Callable[[], T]:
        try:
            return _pool(workers).submit(in_worker, item).result
        except RuntimeError:  # no threads are to be had: the interpreter shuts down, or a limit
            return lambda: work(item)

    waiting = [submit(item) for item in items]
    return [result() for result in waiting]


_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        if workers not in _pools:
            _pools[workers] = _started(workers)
        return _pools[workers]


def _started(workers: int) -> ThreadPoolExecutor:
    """A pool whose threads all run and have set their thread count.

    Torch's setting is both the calling thread's own and the default of threads that have made no
    parallel call yet, so it is given back at the end.
    """
    everyone = threading.Barrier(workers)

    def start() -> None:
        torch.get_num_threads()  # or this thread's first parallel call would undo the next line
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="qpc-exact", initializer=start)
    try:
        for future in [pool.submit(int) for _ in range(workers)]:
            future.result()
    except BaseException:
        everyone.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(workers)
    return pool


def _forget() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that one of them held."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
