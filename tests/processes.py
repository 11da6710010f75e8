"""Other processes for tests, forked from one that has loaded what they need.

A fresh interpreter takes six seconds of a processor for torch, Qiskit and IBM's client. A fork of
the tests' own process would lack the threads that have begun there.
"""

import multiprocessing
import os
import traceback
from pathlib import Path

import pytest

SECONDS = 600
"""More than any of them takes on a busy machine."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["durable_crashes", "ledgers", "posting"])
_TESTS = Path(__file__).parent


def elsewhere(act, *arguments):
    """What a function returns in another process, whose environment is that of this one now."""
    (found,) = together([(act, *arguments)])
    return found


def together(calls):
    """What functions return that are called at the same time, each in a process of its own.

    Args:
        calls: (function, its arguments...) each. No function of a test file: other processes could
            not import it.

    Raises:
        AssertionError: one of them failed, died, or said nothing for `SECONDS`.
    """
    begun = [_begin(act, arguments) for act, *arguments in calls]
    found = []
    for process, reading in begun:
        assert reading.poll(SECONDS), f"{process} says nothing"
        try:
            is_done, answer = reading.recv()
        except EOFError:
            is_done, answer = False, f"{process} died"
        process.join(SECONDS)
        assert is_done, answer
        found.append(answer)
    return found


def _begin(act, arguments):
    reading, writing = CONTEXT.Pipe(duplex=False)
    given = (dict(os.environ), writing, act, arguments)
    process = CONTEXT.Process(target=_answer, args=given, daemon=True)
    with pytest.MonkeyPatch.context() as patch:  # the first one starts the process to fork from
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (_TESTS, _TESTS.parent))))
        process.start()
    writing.close()
    return process, reading


def _answer(environment, writing, act, arguments):
    os.environ.clear()
    os.environ.update(environment)
    try:
        answer = True, act(*arguments)
    except BaseException:  # noqa: BLE001 - told to the test
        answer = False, traceback.format_exc()
    writing.send(answer)
