"""Calls here and in other processes, some of which end their process; calls of held folders."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import pytest

from qpc_qiskit.errors import StudyError
from qpc_qiskit.grid.executors import InProcess, WorkerProcesses, open_executor
from qpc_qiskit.grid.locking import FolderHeldError
from qpc_qiskit.grid.running import run_unheld


@pytest.fixture(scope="module")
def calls():
    """A worker imports it by its name, with this process's `sys.path`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield import_module("calls")
    sys.modules.pop("calls")


@pytest.fixture(scope="module")
def processes(calls):
    """One worker: the calls that wait beside one that ends it are not taken with it."""
    with open_executor(1) as executor:
        yield executor


def test_where_calls_run():
    with open_executor(0) as here:
        assert isinstance(here, InProcess)
    with open_executor() as executor:
        assert isinstance(executor, WorkerProcesses)
        assert executor.pids == [], "they are started when they are needed"
    with pytest.raises(ValueError, match="contradict"), open_executor(2, "tcp://127.0.0.1:1"):
        pass
    with pytest.raises(ValueError, match="0 or more"), open_executor(-1):
        pass


def test_a_call_that_kills_its_worker_takes_no_other_with_it(processes, calls):
    found = dict(processes.run(calls.square, range(6)))
    error = found.pop(0)
    assert found == {number: number**2 for number in range(1, 6)}
    assert isinstance(error, StudyError)
    assert "it killed 1 worker that ran nothing else; perhaps it needs" in str(error)


def test_errors_of_calls_are_told_and_the_others_go_on(processes, calls):
    found = dict(processes.run(calls.square, [-1, -2, 3]))
    assert found[3] == 9
    assert isinstance(found[-1], ValueError)
    assert isinstance(found[-2], StudyError), "it cannot be sent as it is"
    assert "Odd('odd')" in str(found[-2])


def test_a_worker_that_died_while_nothing_ran_is_replaced(processes, calls):
    ((_, first),) = processes.run(calls.process_of, [0])
    assert processes.pids == [first]
    os.kill(first, signal.SIGKILL)
    ((_, second),) = processes.run(calls.process_of, [0])
    assert second not in (first, os.getpid())


def test_what_nobody_waits_for_is_ended(processes, calls):
    calls_left = processes.run(calls.square, range(1, 10))
    next(calls_left)
    calls_left.close()
    assert dict(processes.run(calls.square, [5])) == {5: 25}


def test_calls_whose_folder_is_held_are_tried_again_while_others_run():
    tried, told = [], []

    def call(name):
        tried.append(name)
        if name == "held" or (name == "freed" and tried.count("freed") < 2):
            raise FolderHeldError(Path(name), "process 1 on here")
        return name.upper()

    found = dict(
        run_unheld(InProcess(), call, ["held", "freed", "a"], lambda *each: told.append(each[0]))
    )
    assert tried == ["held", "freed", "a", "held", "freed", "held"]
    assert told == ["held", "freed"]
    assert (found["freed"], found["a"]) == ("FREED", "A")
    assert isinstance(found["held"], FolderHeldError)
