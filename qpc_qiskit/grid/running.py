"""Calls that each take a folder, several processes at work at once; the images that calls share."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

from qpc_qiskit.data.images import ImageData, load_source
from qpc_qiskit.errors import StudyError
from qpc_qiskit.grid.executors import Executor
from qpc_qiskit.grid.locking import FolderHeldError
from qpc_qiskit.options.records import DataSource

T = TypeVar("T")
R = TypeVar("R")


def run_unheld(
    executor: Executor,
    function: Callable[[T], R],
    items: Sequence[T],
    on_held: Callable[[T, FolderHeldError], None] | None = None,
) -> Iterator[tuple[T, R | Exception]]:
    """Run calls, and again those whose folder another process holds: it may die over them.

    Args:
        executor: where.
        function: raises `FolderHeldError` where it finds its folder held.
        items: that it is called with.
        on_held: told once of each item that is held.

    Yields:
        As `Executor.run`. `FolderHeldError` is the result of what was still held when nothing else
        was left to run.
    """
    left, told = list(items), set[int]()
    while left:
        held: list[tuple[T, FolderHeldError]] = []
        for item, found in executor.run(function, left):
            if not isinstance(found, FolderHeldError):
                yield item, found
                continue
            held.append((item, found))
            if on_held is not None and id(item) not in told:
                on_held(item, found)
            told.add(id(item))
        if len(held) == len(left):
            yield from held
            return
        left = [item for item, _ in held]


@lru_cache(maxsize=2)
def known_images(source: DataSource, sha256: str) -> ImageData:
    """Images that a call was planned with, as they are found where it runs.

    Args:
        source: where they are.
        sha256: `ImageData.fingerprint` of them.

    Raises:
        DataError: they cannot be had.
        StudyError: they are others.
    """
    data = load_source(source)
    if data.fingerprint() != sha256:
        raise StudyError(
            f"{data.name}: these images are not those that the network was trained and tested on; "
            f"look for others in {source.data_dir or 'the library that bundles them'}."
        )
    return data
