"""The estimator engine on noiseless Aer against a bare `AerSimulator.run` of the same rows.

Bare: one circuit with the engine's own save, the probabilities of all outcomes, `parameter_binds`
prepared beforehand, the engine's own simulator options; its values are not read out. The engine
runs every row (`dedupe_grid=None`). For comparison the same with `save_expectation_value` of every
Z, and Aer's `EstimatorV2` with the engine's PUB.
"""

from __future__ import annotations

import time
from unittest import mock

import numpy as np
from qiskit import QuantumCircuit
from qiskit.quantum_info import Pauli
from qiskit_aer import AerSimulator
from qiskit_aer.primitives import EstimatorV2

from benchmarks.common import Figure, Report, Settings, Table, Timing, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.workload import Workload
from qpc_qiskit import EstimatorEngine
from qpc_qiskit.backends.aer import OPTIONS, AerEstimator
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.engines import LayerCall
from qpc_qiskit.rows.pubs import (
    Rows,
    Template,
    by_pixel_and_kernel,
    evs_from_data,
    make_pub,
    make_template,
    product_pairs,
)

SHAPES = ({"qubits": 4, "channels": 16, "kernels": 8}, {"qubits": 6, "channels": 64, "kernels": 11})
NUM_ROWS = 2048
TARGET = 0.15


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
        "rows, PUB, result checks), `estimator` what AerEstimator does in Python around the "
        "simulator (binding lists, reading rows one by one, sums over outcomes), `simulator` is "
        "`run` and `result`.",
    ]
    return report


def _measure(work: Workload, num_pixels: int, settings: Settings) -> dict:
    spec, pixels, weights = work.spec, work.pixels(num_pixels), work.layer.weight.detach()
    template, rows = _template_and_rows(work, pixels)
    engine, stock = EstimatorEngine(dedupe_grid=None), EstimatorV2()
    simulator, binds = AerSimulator(**OPTIONS), _binds(template, rows)
    probabilities, expectations = _with_probabilities(template), _with_expectations(template)
    same = EstimatorV2(options={"backend_options": OPTIONS})
    pub = make_pub(template, rows)

    def bare(circuit: QuantumCircuit):
        return simulator.run(circuit, parameter_binds=[binds]).result()

    ours = engine.evs(LayerCall(spec, pixels, weights)).double().numpy()
    if engine.last_report.num_executions != len(rows):
        raise AssertionError(f"{engine.last_report.num_executions} of {len(rows)} rows were run.")
    others = {
        "bare Aer": _read_probabilities(bare(probabilities), len(rows), work.qubits),
        "bare Aer, expectation values": _read_expectations(
            bare(expectations), len(rows), work.qubits
        ),
        "EstimatorV2": evs_from_data(stock.run([pub]).result()[0].data, len(rows), work.qubits),
    }
    for name, values in others.items():
        values = by_pixel_and_kernel(values, num_pixels, work.kernels)
        if not np.abs(values - ours).max() < 1e-6:
            raise AssertionError(f"{name} disagrees: {np.abs(values - ours).max():.1e}")

    timings = interleaved(
        {
            "engine": lambda: engine.evs(LayerCall(spec, pixels, weights)),
            "bare": lambda: bare(probabilities),
            "bare + reading": lambda: _read_probabilities(
                bare(probabilities), len(rows), work.qubits
            ),
            "bare, expectation values": lambda: bare(expectations),
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
    rows = Rows(
        encoder.angles(canonical_directions(pixels)).numpy(),
        work.spec.ansatz.angles(work.layer.weight.detach().numpy()),
        product_pairs(len(pixels), work.kernels),
    )
    return make_template(encoder, work.spec.ansatz), rows.values()


def _with_probabilities(template: Template) -> QuantumCircuit:
    circuit = template.circuit.copy()
    circuit.save_probabilities(list(range(circuit.num_qubits)), label="outcomes")
    return circuit


def _with_expectations(template: Template) -> QuantumCircuit:
    circuit = template.circuit.copy()
    for q in range(circuit.num_qubits):
        circuit.save_expectation_value(Pauli("Z"), [q], label=f"Z{q}")
    return circuit


def _binds(template: Template, rows: np.ndarray) -> dict:
    return {p: column.tolist() for p, column in zip(template.parameters, rows.T, strict=True)}


def _read_probabilities(result, num_rows: int, n: int) -> np.ndarray:
    """All values, as directly as Aer's result allows: (rows, n)."""
    found = np.empty((num_rows, 2**n))
    for i, experiment in enumerate(result.results):
        found[i] = experiment.data.outcomes
    return found @ (1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1))


def _read_expectations(result, num_rows: int, n: int) -> np.ndarray:
    data = [experiment.data for experiment in result.results[:num_rows]]
    return np.array([[getattr(d, f"Z{q}") for q in range(n)] for d in data])


def _shares(work: Workload, num_pixels: int) -> dict:
    """Time of one evaluation inside the simulator, the estimator and the engine."""
    engine = EstimatorEngine(dedupe_grid=None)
    call = LayerCall(work.spec, work.pixels(num_pixels), work.layer.weight.detach())
    engine.evs(call)  # warm-up
    runs = []
    for _ in range(5):
        seconds: dict[str, float] = {}
        with (
            mock.patch.object(AerSimulator, "run", _timed_job(AerSimulator.run, seconds)),
            mock.patch.object(AerEstimator, "_run", _timed(AerEstimator._run, seconds)),
        ):
            began = time.perf_counter()
            engine.evs(call)
            total = time.perf_counter() - began
        simulator, inner = seconds["simulator"], seconds["estimator"]
        runs.append(
            {
                "total": 1e3 * total,
                "simulator": 1e3 * simulator,
                "estimator": 1e3 * (inner - simulator),
                "angles and rows": 1e3 * (total - inner),
            }
        )
    return min(runs, key=lambda parts: parts["total"])


def _timed(original, seconds: dict[str, float]):
    def timed(*args, **kwargs):
        began = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds["estimator"] = seconds.get("estimator", 0) + time.perf_counter() - began

    return timed


def _timed_job(original, seconds: dict[str, float]):
    """`AerSimulator.run` that waits for the result, so that its time can be told."""

    def timed(*args, **kwargs):
        began = time.perf_counter()
        job = original(*args, **kwargs)
        job.result()
        seconds["simulator"] = seconds.get("simulator", 0) + time.perf_counter() - began
        return job

    return timed
