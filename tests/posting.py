"""A small job for the stand-in, and a process that collects one and posts another."""

import warnings

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import Batch, QiskitRuntimeService
from qiskit_ibm_runtime.executor_estimator import Estimator


def pub(backend, rows):
    """Two qubits, two observables, so many rows of angles."""
    angles = ParameterVector("a", 3)
    circuit = QuantumCircuit(2)
    circuit.ry(angles[0], 0)
    circuit.cx(0, 1)
    circuit.rz(angles[1], 1)
    circuit.ry(angles[2], 1)
    isa = generate_preset_pass_manager(1, backend=backend, seed_transpiler=1).run(circuit)
    observables = [[SparsePauliOp(label).apply_layout(isa.layout)] for label in ("IZ", "ZI")]
    return isa, observables, np.linspace(0.1, 2.0, 3 * rows).reshape(rows, 3)


def collect_and_post(job_id):
    """In a process that knows nothing but the environment: values of a job, and of the same again.

    Another one is posted between them.
    """
    warnings.simplefilter("error", UserWarning)
    service = QiskitRuntimeService()
    old = service.job(job_id)
    backend = service.backend("ibm_manila")
    options = {"resilience_level": 1, "default_shots": 128}
    Estimator(backend, {**options, "default_shots": 256}).run([pub(backend, 3)])
    new = Estimator(Batch.from_id(old.session_id, service), options).run([pub(backend, 1)])
    found = [job.job_id() for job in service.jobs(job_tags=["chunk"], limit=None)]
    evs = [job.result()[0].data.evs.tolist() for job in (old, new)]
    return {"evs": evs, "found": found, "tags": old.tags}
