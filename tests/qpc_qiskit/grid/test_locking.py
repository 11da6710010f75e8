"""One process at a time in a folder, of this version or of the one before."""

import errno
import fcntl
import os
import pickle
import signal
import sys
import threading
from pathlib import Path

import pytest
from processes import PIPE, Process

from qpc_qiskit.grid.locking import LOCK_FILE, FolderHeldError, locked


def test_a_lock_is_waited_for_and_let_go(tmp_path):
    entered, order = threading.Event(), []

    def second():
        entered.set()
        with locked(tmp_path, wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    with locked(tmp_path):
        waiting.start()
        assert entered.wait(10)
        with pytest.raises(FolderHeldError, match=r"process \d+ on .* is at work there"):
            locked(tmp_path).__enter__()
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert (tmp_path / ".lock").read_text() == ""


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass
    with pytest.raises(ValueError, match="inside"), locked(tmp_path):
        raise ValueError("inside")


def test_what_is_no_lack_of_locks_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), locked(tmp_path / "file"):
        pass
    with locked(tmp_path / "missing"):
        assert (tmp_path / "missing").is_dir()


def locked_by_version_0_1(folder):
    """As its `locked` did it."""
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(file, 0)
    os.write(file, b"process 7 on old\n")
    return file


def test_a_folder_that_version_0_1_holds_is_refused(tmp_path):
    old = locked_by_version_0_1(tmp_path)
    with pytest.raises(FolderHeldError, match=r": process 7 on old is at work there\.$"):
        locked(tmp_path).__enter__()
    assert (tmp_path / LOCK_FILE).read_text() == "process 7 on old\n"
    os.close(old)
    with locked(tmp_path), pytest.raises(BlockingIOError):
        locked_by_version_0_1(tmp_path)


def test_a_lock_of_a_process_that_died_is_passed_over(tmp_path):
    """Its name is left in the file, as version 0.1 left it; the system has let go of the lock."""
    code = (
        "import sys; from pathlib import Path; from qpc_qiskit.grid.locking import locked\n"
        f"with locked(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with Process([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderHeldError):
            locked(tmp_path).__enter__()
        other.kill()
        assert other.wait(60) == -signal.SIGKILL
    assert (tmp_path / LOCK_FILE).read_text().startswith("process ")
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")


def test_what_a_worker_finds_held_is_told_where_it_is_waited_for():
    error = FolderHeldError(Path("here"), "process 3 on node1")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "here: process 3 on node1 is at work there."
    assert again.holder == error.holder
