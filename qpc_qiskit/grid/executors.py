"""Where calls are run: in this process, in others on this machine, on a Dask cluster."""

from __future__ import annotations

import os
import pickle
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias, TypeVar, cast

from qpc_qiskit.common.extras import require
from qpc_qiskit.errors import StudyError

T = TypeVar("T")
R = TypeVar("R")
Results: TypeAlias = Iterator[tuple[T, R | Exception]]
"""Every item with its result, or with the error that it ended in, as they come."""

IN_FLIGHT = 4
"""Calls that wait at each worker of a cluster, so that it never waits for the next."""


class WorkerDied(StudyError):
    """A worker died over a call."""

    @classmethod
    def of(cls, workers: int) -> WorkerDied:
        """So many died over it, one after the other."""
        return cls(
            f"it killed {workers} worker{'s' * (workers != 1)} that ran nothing else; perhaps it "
            "needs more memory than there is. The same call tries it again."
        )


class Executor(ABC):
    """Runs calls, in any order."""

    def run(self, function: Callable[[T], R], items: Sequence[T]) -> Results[T, R]:
        """Run a call for each item.

        A worker may die over a call, or because of another one beside it: such a call is put aside,
        and run alone in the end. What kills its worker then as well has failed.
        """
        aside: list[T] = []
        for item, found in self._run(function, items):
            if isinstance(found, WorkerDied):
                aside.append(item)
            else:
                yield item, found
        for item in aside:
            yield from self._run(function, [item])

    @abstractmethod
    def _run(self, function: Callable[[T], R], items: Sequence[T]) -> Results[T, R]:
        """The same, where the death of a worker is an error of its call."""


class InProcess(Executor):
    """One after the other, here."""

    def _run(self, function: Callable[[T], R], items: Sequence[T]) -> Results[T, R]:
        for item in items:
            try:
                found: R | Exception = function(item)
            except Exception as error:  # noqa: BLE001  # as on a cluster: the others go on
                found = error
            yield item, found


class WorkerProcesses(Executor):
    """In processes of this machine, which are started when they are needed and stay until `close`.

    They are spawned, so a script that uses them needs `if __name__ == "__main__":`, and calls and
    results are pickled.

    Args:
        count: of processes.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: dict[Connection, BaseProcess] = {}

    @property
    def pids(self) -> list[int | None]:
        """Of the processes that there are now."""
        return [process.pid for process in self._processes.values()]

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for worker in list(self._processes):
            self._end(worker)

    def _run(self, function: Callable[[T], R], items: Sequence[T]) -> Results[T, R]:
        waiting, busy = deque(items), dict[Connection, T]()
        idle = list(self._processes)
        try:
            while waiting or busy:
                while waiting and len(busy) < self._count:
                    worker = idle.pop() if idle else self._start()
                    busy[worker] = waiting.popleft()
                    with suppress(OSError):  # it has died: read as its end below
                        worker.send((function, busy[worker]))
                for ready in wait(list(busy)):
                    worker = cast("Connection", ready)
                    item = busy.pop(worker)
                    try:
                        found = worker.recv()
                        idle.append(worker)
                    except (EOFError, OSError):
                        self._end(worker)
                        found = WorkerDied.of(1)
                    yield item, found
        finally:
            for worker in busy:  # nobody waits for what they are at
                self._end(worker)

    def _start(self) -> Connection:
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        process.start()
        there.close()  # or the end of the process would not be seen
        self._processes[here] = process
        return here

    def _end(self, worker: Connection) -> None:
        process = self._processes.pop(worker)
        process.kill()
        process.join()
        worker.close()


def _serve(calls: Connection) -> None:
    """What a worker does until the other end is closed; Ctrl-C is for the process that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for library in ("OMP", "MKL", "OPENBLAS"):  # loaded with the first call: one thread each
        os.environ[f"{library}_NUM_THREADS"] = "1"
    while True:
        try:
            sent = calls.recv_bytes()
        except EOFError:
            return
        try:
            function, item = pickle.loads(sent)
            found = function(item)
        except Exception as error:  # noqa: BLE001  # it is told where the call is waited for
            found = _as_sent(error)
        calls.send(found)


def _as_sent(error: Exception) -> Exception:
    """An error that can be made anew from what is sent of it, as not every one can."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # whatever its own methods raise
        return StudyError(repr(error))
    return error


class OnDask(Executor):
    """On the workers of a Dask cluster, which gives the calls of a worker that dies to others.

    Args:
        client: of `distributed`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def _run(self, function: Callable[[T], R], items: Sequence[T]) -> Results[T, R]:
        from distributed import KilledWorker, as_completed

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
                item, error = futures.pop(future), future.exception()
                if isinstance(error, KilledWorker):
                    error = WorkerDied.of(error.allowed_failures + 1)
                elif error is not None and not isinstance(error, Exception):
                    error = StudyError(repr(error))
                yield item, error or future.result()
        finally:
            self._client.cancel(list(futures))


@contextmanager
def open_executor(workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor]:
    """Where calls are run.

    Args:
        workers: processes of this machine; 0: in this process; None: one for each core that this
            process may use.
        scheduler: address of a running Dask cluster, such as `tcp://127.0.0.1:8786`; its workers
            need the same versions installed, and see the same folders.

    Raises:
        ValueError: both are given, or a negative number.
        StudyError: the scheduler does not answer.
        MissingExtra: a scheduler is given, and Dask is not installed.
    """
    if workers is not None and scheduler is not None:
        raise ValueError("workers and scheduler contradict each other; give one.")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}.")
    if scheduler is not None:
        require("cluster", "A Dask cluster")
        from distributed import Client

        try:
            client = Client(scheduler, timeout="20s", set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise StudyError(f"The Dask scheduler {scheduler} does not answer: {error}") from error
        with client:
            client.wait_for_workers(1, timeout=60)
            yield OnDask(client)
    elif workers == 0:
        yield InProcess()
    else:
        processes = WorkerProcesses(workers or _num_cores())
        try:
            yield processes
        finally:
            processes.close()


def _num_cores() -> int:
    """That this process may use; macOS does not tell that, and has all of them."""
    told = getattr(os, "sched_getaffinity", None)
    return len(told(0)) if told else os.cpu_count() or 1
