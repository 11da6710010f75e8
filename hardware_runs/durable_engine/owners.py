"""Who holds a lease: names of processes, and whether one that made a name has ended.

A lease outlasts the longest POST, which is two hours. A process that was killed on this machine
need not be waited for: its name says where it ran, and its number is free.
"""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

_PLACE = ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid")


def new_owner() -> str:
    """A name that no other process has had: `HOST:PLACE:PID:RANDOM`."""
    return f"{socket.gethostname()}:{_place()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_gone(owner: str) -> bool:
    """Whether the process of a name has certainly ended; False where that cannot be told."""
    parts = owner.rsplit(":", 3)
    place = _place()
    if len(parts) != 4 or not place or parts[:2] != [socket.gethostname(), place]:
        return False
    if not parts[2].isdecimal():
        return False
    try:
        os.kill(int(parts[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is somebody else's, or no number of a process
        return False
    return False


def _place() -> str:
    """Within which process numbers are unique: a boot and a namespace; empty where unknown."""
    with suppress(OSError):
        boot = Path(_PLACE[0]).read_text().strip()
        namespace = os.readlink(_PLACE[1])  # noqa: PTH115 - it leads to no path
        return f"{boot}-{namespace.strip('pid:[]')}"
    return ""
