"""Where the cells of a study are computed: in this process, on a local cluster, or on any other."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from qpc_qiskit.common.extras import require
from qpc_qiskit.errors import MissingExtra, StudyError

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 4
"""Calls that wait at each worker, so that it never waits for the next."""
ALLOWED_FAILURES = 1
"""Workers that may die over a call on a local cluster; after one more it is put aside."""


class Executor(Protocol):
    """Runs calls, in any order."""

    def run(
        self, function: Callable[[T], R], items: Sequence[T]
    ) -> Iterator[tuple[T, R | Exception]]:
        """Every item with its result, or with the error that it ended in, as they come."""


class InProcess:
    """One after the other, here."""

    def run(
        self, function: Callable[[T], R], items: Sequence[T]
    ) -> Iterator[tuple[T, R | Exception]]:
        """See `Executor.run`."""
        for item in items:
            try:
                found: R | Exception = function(item)
            except Exception as error:  # noqa: BLE001  # as on a cluster: the others go on
                found = error
            yield item, found


class OnDask:
    """On the workers of a Dask cluster.

    A worker that dies takes its calls with it; Dask gives them to others. Dask cannot tell which of
    them killed it: a call that was on several dying workers is put aside, and run alone in the end.
    What kills its workers then as well has failed.

    Args:
        client: of `distributed`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        return str(self._client.scheduler.address)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return list(self._client.run(os.getpid).values())

    def run(
        self, function: Callable[[T], R], items: Sequence[T]
    ) -> Iterator[tuple[T, R | Exception]]:
        """See `Executor.run`."""
        aside: list[T] = []
        for item, error, found in self._run(function, items):
            if _is_killed(error):
                aside.append(item)
            else:
                yield item, found if error is None else _as_exception(error)
        for alone in aside:
            for item, error, found in self._run(function, [alone]):
                yield item, found if error is None else _as_exception(error)

    def _run(
        self, function: Callable[[T], R], items: Sequence[T]
    ) -> Iterator[tuple[T, BaseException | None, Any]]:
        """Every item with its error, or None and its result."""
        from distributed import as_completed

        waiting = deque(enumerate(items))
        futures: dict[Any, T] = {}

        def submit() -> Any:
            number, item = waiting.popleft()
            # No key of its own: a call that another client made must not be taken for this one.
            future = self._client.submit(function, item, pure=False, priority=-number)
            futures[future] = item
            return future

        window = IN_FLIGHT * max(1, len(self._client.nthreads()))
        first = [submit() for _ in range(min(window, len(waiting)))]
        done = as_completed(first, loop=self._client.loop)
        try:
            for future in done:
                if waiting:
                    done.add(submit())
                item = futures.pop(future)
                error = future.exception()
                yield item, error, None if error is not None else future.result()
        finally:
            self._client.cancel(list(futures))


def has_dask() -> bool:
    """Whether there can be several processes."""
    try:
        require("cluster", "")
    except MissingExtra:
        return False
    return True


def _is_killed(error: BaseException | None) -> bool:
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)


def _as_exception(error: BaseException) -> Exception:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        count = error.allowed_failures + 1
        return StudyError(
            f"it killed {count} worker{'s' * (count != 1)} that ran nothing else; perhaps it needs "
            "more memory than there is. The same call tries it again."
        )
    return error if isinstance(error, Exception) else StudyError(repr(error))


@contextmanager
def open_executor(workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor]:
    """Where calls are run.

    Args:
        workers: processes of a local cluster, which listens on the loopback interface only; 0: in
            this process; None: one for each core that this process may use, if Dask is installed,
            which these processes need.
        scheduler: address of a running cluster, such as `tcp://127.0.0.1:8786`; its workers need
            the same versions installed, and see the same folders.

    Raises:
        ValueError: both are given, or a negative number.
        StudyError: the scheduler does not answer.
        MissingExtra: processes are asked for, and Dask is not installed.
    """
    if workers is not None and scheduler is not None:
        raise ValueError("workers and scheduler contradict each other; give one.")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}.")
    if scheduler is not None or workers:
        require("cluster", "A study in several processes")
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield OnDask(client)
    elif workers == 0 or (workers is None and not has_dask()):
        yield InProcess()
    else:
        with _local(workers or len(os.sched_getaffinity(0))) as client:
            yield OnDask(client)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout="20s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise StudyError(f"The Dask scheduler {address} does not answer: {error}") from error
    with client:
        client.wait_for_workers(1, timeout=60)
        yield client


@contextmanager
def _local(workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
        "distributed.admin.large-graph-warning-threshold": "1 GiB",
        "distributed.worker.memory.terminate": False,
    }
    with (
        tempfile.TemporaryDirectory(prefix="qpc-study-") as scratch,
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            # A scheduler always answers HTTP (health, metrics): on a free port, not on 8787.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0", "dashboard": False},
            local_directory=scratch,
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def failures_text(failed: Iterable[tuple[str, Exception]]) -> str:
    """The first of some failures, and how many there are."""
    told = list(failed)
    what, error = told[0]
    more = f" {len(told) - 1} more failed." if len(told) > 1 else ""
    return f"{what}: {error}{more}"
