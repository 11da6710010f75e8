"""Ctrl-C and SIGTERM as a flag that a long loop looks at, not an exception out of nowhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(Exception):
    """The user, or the system, asked to stop."""


class Interrupts:
    """Whether a signal to stop has come."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Stop here if a signal has come.

        Raises:
            StopRequested: it has.
        """
        if self.requested:
            raise StopRequested

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal: the first sets the flag, the second stops wherever the program is."""
        again, self.requested = self.requested, True
        if again:
            raise StopRequested


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Collect SIGINT and SIGTERM while the block runs, then put the old handlers back.

    Yields:
        The flag. Outside of the main thread, where Python gives no signals, it stays unset.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {
        signum: signal.signal(signum, interrupts.handle)
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupts
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
