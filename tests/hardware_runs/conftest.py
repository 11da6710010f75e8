"""The real client, the stand-in, and a clock that only tests move."""

import numpy as np
import pytest
from durable_runs import Clock, Script, images
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime.executor_estimator import Estimator
from urllib3.util.retry import Retry

from hardware_runs.standin import Rules, Standin

START = 1_800_000_000.0


@pytest.fixture(scope="session", autouse=True)
def _no_usage_data():
    """The client looks through its callers at every request, for IBM: half of a test's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USAGE_DATA_OPT_OUT", "True")
        yield


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


@pytest.fixture
def broken(start, tmp_path):
    """broken(faults, rules..., script=...) -> a stand-in and a script that runs on it."""

    def broken(*faults, script=None, **rules):
        standin = start(**rules)
        backend = standin.service().backend("ibm_manila")
        for fault in faults:
            standin.add_fault(fault)
        given = {"shots": 64, "max_qpu_seconds": 100, **(script or {})}
        return standin, Script(tmp_path / "runs.sqlite", backend, Clock(standin), **given)

    return broken


@pytest.fixture(scope="session")
def logits(tmp_path_factory):
    """Of `images(2)` in a run of 64 shots in which nothing goes wrong.

    What a job gives depends on its content alone.
    """
    with Standin(Rules(noisy=False)) as standin:
        backend = standin.service().backend("ibm_manila")
        path = tmp_path_factory.mktemp("whole") / "runs.sqlite"
        return Script(path, backend, Clock(standin), shots=64).finish(images(2))


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


def pub(backend, rows):
    angles = ParameterVector("a", 3)
    circuit = QuantumCircuit(2)
    circuit.ry(angles[0], 0)
    circuit.cx(0, 1)
    circuit.rz(angles[1], 1)
    circuit.ry(angles[2], 1)
    isa = generate_preset_pass_manager(1, backend=backend, seed_transpiler=1).run(circuit)
    observables = [[SparsePauliOp(label).apply_layout(isa.layout)] for label in ("IZ", "ZI")]
    return isa, observables, np.linspace(0.1, 2.0, 3 * rows).reshape(rows, 3)
