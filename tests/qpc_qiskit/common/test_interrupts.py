import signal
import threading

import pytest

from qpc_qiskit.common.interrupts import StopRequested, deferred_interrupts


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_waits_and_second_stops(signum):
    before = signal.getsignal(signum)
    with deferred_interrupts() as interrupts:
        interrupts.check()
        signal.raise_signal(signum)
        assert interrupts.requested
        with pytest.raises(StopRequested, match=r"^$"):
            interrupts.check()
        with pytest.raises(StopRequested, match=r"^$"):
            signal.raise_signal(signum)
    assert signal.getsignal(signum) is before


def test_other_threads_get_no_handlers():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with deferred_interrupts() as interrupts:
            seen.append((interrupts.requested, signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]
