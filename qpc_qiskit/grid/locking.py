"""One process at a time in a folder."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from qpc_qiskit.errors import ExperimentError

LOCK_FILE = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system without locks answers."""


class FolderHeldError(ExperimentError):
    """Another process is at work in a folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(folder, holder)  # a worker sends it, which makes it anew of these
        self.holder = holder
        """Which one, for instance "process 12 on node3"."""

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.holder} is at work there."


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for the length of a block.

    The system releases the lock of a process that dies, so that a lock is never left over; the file
    itself stays, with the holder's name while there is one. Version 0.1 locks the same file in the
    same way (`flock`), so that it and this one keep each other out. Where a file system has no
    locks, nothing is held.

    Args:
        folder: made if it is missing.
        wait: until another process lets go of it.

    Raises:
        FolderHeldError: another process holds it, and `wait` is not given.
    """
    path = folder / LOCK_FILE
    lock = FileLock(path, -1 if wait else 0, preserve_lock_file=True, on_acquired=_write_holder)
    try:
        lock.acquire()
    except Timeout as error:
        holder = path.read_text("utf-8", "replace").strip()
        raise FolderHeldError(folder, holder or "another process") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                os.truncate(path, 0)
            lock.release()


def _write_holder(file: int) -> None:
    with suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
