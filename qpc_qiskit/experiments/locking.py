"""One process at a time in a folder."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpc_qiskit.errors import ExperimentError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for the length of a block.

    The system releases the lock of a process that dies, so that a lock is never left over; the file
    itself stays. Where a file system has no locks, and on Windows, nothing is held.

    Args:
        folder: must exist.

    Raises:
        ExperimentError: another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ExperimentError(
                f"{folder}: {holder} is training there. Wait until it is done, stop it, or give "
                "another folder."
            ) from error
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
