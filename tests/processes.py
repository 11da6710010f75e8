"""New Python processes that need not import: forks of one that has torch, Qiskit and ours loaded.

`run` and `Process` stand for those of `subprocess` where a test needs another process, but not what
a fresh interpreter does before its first line: milliseconds in place of seconds of imports. What an
import costs or loads is tested with `subprocess`. (A fork of the tests' own process would lack the
threads that have begun there.)
"""

import builtins
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from types import ModuleType

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "durable_crashes", "ledgers", "posting",
        "hardware_runs.durable_engine.dispatch", "hardware_runs.standin", "noise_models.words",
        "qpc_cli.app",
        "qpc_qiskit.engines.estimator", "qpc_qiskit.engines.exact", "qpc_qiskit.engines.noisy",
        "qpc_qiskit.training.evaluation", "qpc_qiskit.backends.aer", "qpc_qiskit.backends.runtime",
        "qpc_qiskit.layer",
    ]
)  # fmt: skip
SECONDS = 600
"""More than any of them takes on a busy machine."""
_TESTS = Path(__file__).parent


def start(process):
    """Start a process of `CONTEXT`; the first one starts the process that all are forked from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (_TESTS, _TESTS.parent))))
        process.start()


class _Descriptor:
    """A file's descriptor, as an argument of another process."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return _received, (DupFd(self.number),)


def _received(passed):
    return passed.detach()


class Process:
    """As `subprocess.Popen` with text, of words that begin with this interpreter.

    Args:
        words: `[sys.executable, ("-W", filter)..., ("-c", code) | ("-m", module) | path, ...]`.
        cwd: its folder; None: ours.
        env: its whole environment; None: ours. What libraries ask for when they are loaded is that
            of the test session.
        stdin, stdout, stderr: PIPE, an open file, or None: nothing comes, and what is written goes
            where pytest's own output goes.
    """

    def __init__(self, words, *, cwd=None, env=None, stdin=None, stdout=None, stderr=None):
        program, *rest = map(str, words)
        assert program == sys.executable
        self.args = words
        theirs, ours = zip(*map(_ends, (stdin, stdout, stderr), "rww"), strict=True)
        self.stdin, self.stdout, self.stderr = ours
        self._process = CONTEXT.Process(
            target=_become,
            args=(
                rest,
                str(cwd or Path.cwd()),
                dict(os.environ if env is None else env),
                [end if end is None else _Descriptor(end) for end in theirs],
            ),
        )
        start(self._process)
        self.pid = self._process.pid
        for end, file in zip(theirs, ours, strict=True):
            if file:
                os.close(end)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in (self.stdin, self.stdout, self.stderr):
            if file:
                file.close()
        self.wait()

    @property
    def returncode(self):
        """None: it is running; negative: the number of the signal that ended it."""
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=SECONDS):
        """Its exit code.

        Raises:
            TimeoutError: it is running.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"{self.args} is running after {timeout} s.")
        return self.returncode

    def communicate(self, text="", timeout=SECONDS):
        """Both outputs, None where it was not PIPE, when it has ended."""
        found = {}
        readers = [
            threading.Thread(target=lambda file=file: found.update({file: file.read()}))
            for file in (self.stdout, self.stderr)
            if file
        ]
        for reader in readers:
            reader.start()
        if self.stdin:
            self.stdin.write(text)
            self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return tuple(found.get(file) for file in (self.stdout, self.stderr))

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(words, *, check=False, timeout=SECONDS, **options):
    """As `subprocess.run` with `capture_output` and text."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Process(words, stdout=out, stderr=err, **options)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    done = CompletedProcess(words, process.returncode, *texts)
    if check:
        assert done.returncode == 0, done.stderr
    return done


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
    start(process)
    writing.close()
    return process, reading


def _ends(given, mode):
    """The descriptor of a process's standard stream, and our end where it is a pipe."""
    if given is None:
        return None, None
    if given != PIPE:
        return given.fileno(), None
    read, write = os.pipe()
    return (read, os.fdopen(write, "w")) if mode == "r" else (write, os.fdopen(read))


# In the other process


def _become(words, cwd, env, descriptors):
    """Do what an interpreter does with these words; errors of the code are told as it does."""
    for number, each in enumerate(descriptors):
        if each is not None:
            os.dup2(each, number)
            os.close(each)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it was closed
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [each for each in env.get("PYTHONPATH", "").split(os.pathsep) if each]
    while words[0] == "-W":
        action, _, category = words[1].partition("::")
        warnings.simplefilter(action, getattr(builtins, category or "Warning"))
        words = words[2:]
    kind, *rest = words
    try:
        if kind == "-m":
            sys.path.insert(0, cwd)
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *rest[1:]]
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        else:
            sys.path.insert(0, str(Path(kind).resolve().parent))
            sys.argv = words
            runpy.run_path(kind, run_name="__main__")
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        sys.exit(1)


def _answer(environment, writing, act, arguments):
    os.environ.clear()
    os.environ.update(environment)
    try:
        answer = True, act(*arguments)
    except BaseException:  # noqa: BLE001 - told to the test
        answer = False, traceback.format_exc()
    writing.send(answer)
