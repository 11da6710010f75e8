"""One process at a time in a folder."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from qpc_qiskit.errors import ExperimentError

LOCK_FILE = ".lock"


class FolderHeldError(ExperimentError):
    """Another process is at work in a folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"{folder}: {holder} is at work there. Wait until it is done, stop it, or give another "
            "folder."
        )
        self.holder = holder
        """Which one, for instance "process 12 on node3"."""


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for the length of a block.

    The system releases the lock of a process that dies, so that a lock is never left over; the file
    itself stays. Where a file system has no locks, and on Windows, nothing is held.

    Args:
        folder: must exist.
        wait: until another process lets go of it.

    Raises:
        FolderHeldError: another process holds it, and `wait` is not given.
    """
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        _lock(file, folder, wait)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file: TextIO, folder: Path, wait: bool) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        file.seek(0)
        raise FolderHeldError(folder, file.read().strip() or "another process") from error
    except OSError:  # a file system without locks
        return
