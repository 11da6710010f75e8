"""What all benchmarks share: settings, interleaved timing, threads, load; see pages.py too.

Rules: both sides of a ratio are taken in one process and in turn (A B A B ...), with the same
threads; the best of several rounds counts; how busy the machine was otherwise is written down.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """What the command line chose."""

    quick: bool
    """Tiny sizes: whether it runs at all; its numbers mean nothing."""
    threads: int
    """Cores and threads for everybody."""

    def pick(self, full, quick):
        return quick if self.quick else full


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate over all rounds."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Median over best, minus one: how disturbed the measurement was."""
        return self.median / self.best - 1


@dataclass
class Table:
    """Rows of equal keys; the keys are the columns."""

    title: str
    rows: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """One number that the design asks for."""

    what: str
    target: str
    value: str
    is_reached: bool


@dataclass
class Report:
    """What a benchmark hands back."""

    title: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    min_rounds: int = 2,
    budget_seconds: float = 60.0,
    slice_seconds: float = 0.2,
    warm_up: bool = True,
) -> dict[str, Timing]:
    """Time candidates in turn.

    Args:
        candidates: what to time, by name.
        rounds: how often everybody has a turn.
        min_rounds: as many run whatever the budget: one run alone may have been disturbed.
        budget_seconds: no further round is begun that would not fit.
        slice_seconds: a fast candidate is repeated within its turn for about so long, at most 20
            times, each repetition timed by itself.
        warm_up: one untimed call each beforehand.
    """
    if warm_up:
        for call in candidates.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    for done in range(rounds):
        elapsed = time.perf_counter() - start
        if done >= min_rounds and elapsed * (done + 1) / done > budget_seconds:
            break
        for name, call in candidates.items():
            gc.collect()
            turn = time.perf_counter()
            for _ in range(20):
                began = time.perf_counter()
                call()
                now = time.perf_counter()
                seconds[name].append(now - began)
                if now - turn > slice_seconds:
                    break
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def busy_process(is_on: bool = True) -> Iterator[None]:
    """Another process that keeps one core busy."""
    if not is_on:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.2)
        try:
            yield
        finally:
            process.kill()


def python_seconds(code: str) -> float:
    """Wall time of `python -c code` in a fresh process, in the repository's root."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120
    )
    return time.perf_counter() - began


class LoadMeter:
    """How many cores other processes used meanwhile (Linux only), and the load averages."""

    def __init__(self) -> None:
        self._load_before = os.getloadavg()[0]
        self._wall = time.perf_counter()
        self._busy = _machine_busy_seconds()
        self._own = sum(os.times()[:4])

    def read(self) -> dict[str, object]:
        wall = time.perf_counter() - self._wall
        others = None
        if self._busy is not None:
            machine = _machine_busy_seconds() - self._busy
            others = round(max(0.0, machine - (sum(os.times()[:4]) - self._own)) / wall, 3)
        return {
            "wall_seconds": round(wall, 1),
            "load_average_before": round(self._load_before, 2),
            "load_average_after": round(os.getloadavg()[0], 2),
            "other_processes_cores": others,
        }


def _machine_busy_seconds() -> float | None:
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, stat.read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
