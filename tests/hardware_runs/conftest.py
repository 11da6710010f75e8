"""The real client, the stand-in, and a clock that only tests move."""

import shutil

import pytest
from durable_runs import Clock, Script, images, network, shallow
from posting import pub
from qiskit_ibm_runtime.executor_estimator import Estimator
from urllib3.util.retry import Retry

from hardware_runs.ledger import Ledger
from hardware_runs.standin import Rules, Standin

START = 1_800_000_000.0


@pytest.fixture(scope="session", autouse=True)
def _quick_runs(quick_runs):
    pass


@pytest.fixture
def start():
    """start(rules..., faults=[...]) -> a running stand-in whose clock stands still."""
    running = []

    def start(*, faults=(), path=None, **rules):
        standin = Standin(
            Rules(**{"noisy": False, **rules}), path=path, clock=lambda: START, faults=faults
        )
        running.append(standin.__enter__())
        return standin

    yield start
    for standin in reversed(running):
        standin.__exit__(None, None, None)
        assert standin.errors == []


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "runs.sqlite"
    Ledger(path).close()
    return path


@pytest.fixture
def path(empty_ledger, tmp_path):
    """Of a ledger without runs, which is not made by all its migrations again."""
    return shutil.copy(empty_ledger, tmp_path / "runs.sqlite")


@pytest.fixture
def broken(start, path):
    """broken(faults, rules..., script=...) -> a stand-in and a script that runs on it.

    Its network has one quantum layer.
    """

    def broken(*faults, script=None, **rules):
        standin = start(**rules)
        backend = standin.service().backend("ibm_manila")
        for fault in faults:
            standin.add_fault(fault)
        given = {"model": shallow(), "shots": 64, "max_qpu_seconds": 100, **(script or {})}
        return standin, Script(path, backend, Clock(standin), **given)

    return broken


@pytest.fixture(scope="session")
def logits(whole_run):
    """Of `images(2)` by `shallow()` in a run of 64 shots in which nothing goes wrong.

    What a job gives depends on its content alone.
    """
    return whole_run(shallow())


@pytest.fixture(scope="session")
def deep_logits(whole_run):
    """The same by `network()`."""
    return whole_run(network())


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """whole_run(model) -> what it gives."""

    def whole_run(model):
        path = tmp_path_factory.mktemp("whole") / "runs.sqlite"
        with Standin(Rules(noisy=False)) as standin:
            backend = standin.service().backend("ibm_manila")
            return Script(path, backend, Clock(standin), model, shots=64).finish(images(2))

    return whole_run


@pytest.fixture
def no_backoff(monkeypatch):
    """The client retries at once instead of waiting 15 s in all."""
    monkeypatch.setattr(Retry, "sleep", lambda self, response=None: None)


@pytest.fixture
def send():
    """send(mode, level=0, tags=[...], ...) -> a job of one row, two observables, 128 shots."""

    def send(mode, level=0, *, rows=1, shots=128, tags=("chunk",), **options):
        backend = mode._backend if hasattr(mode, "_session_id") else mode
        given = {
            "resilience_level": level,
            "default_shots": shots,
            "environment": {"job_tags": list(tags)},
            **options,
        }
        return Estimator(mode, given).run([pub(backend, rows)])

    return send
