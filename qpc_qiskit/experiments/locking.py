"""One process at a time in a folder."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qpc_qiskit.errors import ExperimentError

LOCK_FILE = ".lock"


class FolderHeldError(ExperimentError):
    """Another process is at work in a folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder}: {holder} is at work there.")
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
    file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(file, folder, wait)
        holder = f"process {os.getpid()} on {socket.gethostname()}\n"
        with suppress(OSError):  # a full disk: the lock holds without its holder's name
            os.ftruncate(file, 0)
            os.write(file, holder.encode())
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        os.close(file)


def _lock(file: int, folder: Path, wait: bool) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        holder = os.pread(file, 1024, 0).decode(errors="replace").strip()
        raise FolderHeldError(folder, holder or "another process") from error
    except OSError:  # a file system without locks
        return
