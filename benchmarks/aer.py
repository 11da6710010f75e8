"""The estimator engine on noiseless Aer against a bare `AerSimulator.run` of the same rows.

Bare: one circuit with `save_expectation_value` of every Z, `parameter_binds` prepared beforehand,
the engine's own simulator options; its values are not read out. Aer's `EstimatorV2` with default
options gets the engine's PUB.
"""

from __future__ import annotations

import time

import numpy as np
from qiskit import QuantumCircuit
from qiskit.quantum_info import Pauli
from qiskit_aer import AerSimulator
from qiskit_aer.primitives import EstimatorV2

from benchmarks.common import Figure, Report, Settings, Table, Timing, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.workload import Workload
from qpc_qiskit import EstimatorEngine
from qpc_qiskit.directions import canonical_directions
from qpc_qiskit.encoder import make_encoder
from qpc_qiskit.execution.aer import OPTIONS
from qpc_qiskit.execution.pubs import Template, evs_from_data, make_pub, make_rows, make_template

SHAPES = ({"qubits": 4, "channels": 16, "kernels": 8}, {"qubits": 6, "channels": 64, "kernels": 11})
NUM_ROWS = 2048
TARGET = 0.15


class Stopwatch:
    """Adds up the time spent in methods of one object."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: object, method: str, name: str) -> None:
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - began

        setattr(owner, method, timed)


def run(settings: Settings) -> Report:
    table = Table("Seconds for all rows, best of several")
    shares = Table("Where the engine's time goes, ms (the fastest of five runs)")
    report = Report("Estimator engine against bare Aer", [table, shares])
    with threads(settings.threads):
        for shape in settings.pick(SHAPES, SHAPES[:1]):
            work = Workload(**shape)
            num_pixels = settings.pick(NUM_ROWS, 256) // work.kernels
            row = _measure(work, num_pixels, settings)
            table.rows.append(row)
            shares.rows.append({"n": work.qubits, **_shares(work, num_pixels)})
            overhead = row["overhead %"] / 100
            report.figures.append(
                Figure(f"overhead, n = {work.qubits}, {row['rows']:,} rows", f"<= {TARGET:.0%}",
                       f"{overhead:.0%}", overhead <= TARGET)
            )  # fmt: skip
    report.notes = [
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "Where the time goes: `angles and rows` is the engine's (directions, encoder angles, "
        "rows, PUB, result checks), `estimator` what AerExactEstimator does in Python around the "
        "simulator (binding lists, reading values one by one), `simulator` is `run` and `result`.",
    ]
    return report


def _measure(work: Workload, num_pixels: int, settings: Settings) -> dict:
    spec, pixels, weights = work.spec, work.pixels(num_pixels), work.layer.weight.detach()
    template, rows = _template_and_rows(work, pixels)
    engine, stock = EstimatorEngine(), EstimatorV2()
    bare, binds = _bare_circuit(template), _binds(template, rows)
    simulator = AerSimulator(**OPTIONS)
    same = EstimatorV2(options={"backend_options": OPTIONS})
    pub = make_pub(template, rows)

    ours = engine.evs(spec, pixels, weights).double().numpy()
    shape = (num_pixels, work.kernels, work.qubits)
    theirs = _read(simulator.run(bare, parameter_binds=[binds]).result(), rows, work.qubits)
    theirs = theirs.reshape(work.kernels, num_pixels, work.qubits).transpose(1, 0, 2)
    stocks = evs_from_data(stock.run([pub]).result()[0].data, "evs", *shape)
    for name, values in (("bare Aer", theirs), ("EstimatorV2", stocks)):
        if not np.abs(values - ours).max() < 1e-6:
            raise AssertionError(f"{name} disagrees: {np.abs(values - ours).max():.1e}")

    timings = interleaved(
        {
            "engine": lambda: engine.evs(spec, pixels, weights),
            "bare": lambda: simulator.run(bare, parameter_binds=[binds]).result(),
            "bare + reading": lambda: _read(
                simulator.run(bare, parameter_binds=[binds]).result(), rows, work.qubits
            ),
            "EstimatorV2, same options": lambda: same.run([pub]).result(),
            "EstimatorV2, default options": lambda: stock.run([pub]).result(),
        },
        rounds=settings.pick(7, 2),
        budget_seconds=settings.pick(90, 10),
    )
    return _row(work.qubits, len(rows), timings)


def _row(n: int, rows: int, timings: dict[str, Timing]) -> dict:
    best = {name: t.best for name, t in timings.items()}
    return {
        "n": n,
        "rows": rows,
        **{f"{name} s": seconds for name, seconds in best.items()},
        "rows / s (engine)": rows / best["engine"],
        "overhead %": 100 * (best["engine"] / best["bare"] - 1),
        "overhead % with reading": 100 * (best["engine"] / best["bare + reading"] - 1),
        "default options / engine": best["EstimatorV2, default options"] / best["engine"],
        "median / best": timings["engine"].median / best["engine"],
    }


def _template_and_rows(work: Workload, pixels) -> tuple[Template, np.ndarray]:
    encoder = make_encoder("multiplexor", work.qubits)
    angles = encoder.angles(canonical_directions(pixels)).numpy()
    ansatz_angles = work.spec.ansatz.angles(work.layer.weight.detach().numpy())
    return make_template(encoder, work.spec.ansatz), make_rows(angles, ansatz_angles)


def _bare_circuit(template: Template) -> QuantumCircuit:
    circuit = template.circuit.copy()
    for q in range(circuit.num_qubits):
        circuit.save_expectation_value(Pauli("Z"), [q], label=f"Z{q}")
    return circuit


def _binds(template: Template, rows: np.ndarray) -> dict:
    return {p: column.tolist() for p, column in zip(template.parameters, rows.T, strict=True)}


def _read(result, rows: np.ndarray, n: int) -> np.ndarray:
    """All values, as directly as Aer's result allows: (rows, n)."""
    data = [experiment.data for experiment in result.results[: len(rows)]]
    return np.array([[getattr(d, f"Z{q}") for q in range(n)] for d in data])


def _shares(work: Workload, num_pixels: int) -> dict:
    """Time of one evaluation inside the simulator, the estimator and the engine."""
    engine, watch = EstimatorEngine(), Stopwatch()
    arguments = work.spec, work.pixels(num_pixels), work.layer.weight.detach()
    engine.evs(*arguments)  # warm-up
    estimator = engine.estimator
    run_backend = estimator._simulator.run

    def run_to_result(*args, **kwargs):
        began = time.perf_counter()
        job = run_backend(*args, **kwargs)
        job.result()
        watch.seconds["simulator"] = time.perf_counter() - began
        return job

    estimator._simulator.run = run_to_result
    watch.wrap(estimator, "_run_pub", "estimator")
    runs = []
    for _ in range(5):
        watch.seconds.clear()
        began = time.perf_counter()
        engine.evs(*arguments)
        total = time.perf_counter() - began
        simulator, inner = watch.seconds["simulator"], watch.seconds["estimator"]
        runs.append(
            {
                "total": 1e3 * total,
                "simulator": 1e3 * simulator,
                "estimator": 1e3 * (inner - simulator),
                "angles and rows": 1e3 * (total - inner),
            }
        )
    return min(runs, key=lambda parts: parts["total"])
