"""The noisy engine against Aer's density matrix, and against PennyLane's `default.mixed`.

Aer: the estimator engine on it, one circuit for all rows, fusion tuned (`fusion_threshold=1,
fusion_max_qubit=2`; by default it is off for so few qubits). PennyLane: the same circuit, pixels
broadcast. All values are compared before anything is timed. A rate is pixels times kernels per
second; neither peer has gradients here. Strongly entangling ansatz, multiplexor, float32.
"""

from __future__ import annotations

import numpy as np
import pennylane as qml
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    depolarizing_error,
    thermal_relaxation_error,
)

from benchmarks.common import Figure, Report, Settings, Table, interleaved, torch_threads
from benchmarks.workload import Workload
from qpc_qiskit import EstimatorEngine
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.engines import LayerCall, NoisyEngine
from qpc_qiskit.pauli.compiled import find_compiler

GATES = ["ry", "rx", "rz", "cx", "cz"]
AER_ROWS = 208
TARGETS = {"torch": 100, "compiled": 500}
DEVICE, DEVICE_TARGET = "fake_torino", 50


def depolarizing() -> NoiseModel:
    model = NoiseModel(GATES)
    model.add_all_qubit_quantum_error(depolarizing_error(1e-3, 1), ["ry", "rx"])
    model.add_all_qubit_quantum_error(depolarizing_error(1e-2, 2), ["cx", "cz"])
    return model


def thermal_and_readout() -> NoiseModel:
    """Times of a superconducting device, in ns."""
    model = NoiseModel(GATES)
    one, two = (thermal_relaxation_error(150e3, 110e3, t) for t in (35.0, 300.0))
    model.add_all_qubit_quantum_error(depolarizing_error(1e-3, 1).compose(one), ["ry", "rx"])
    both = depolarizing_error(1e-2, 2).compose(two.tensor(two))
    model.add_all_qubit_quantum_error(both, ["cx", "cz"])
    model.add_all_qubit_readout_error(ReadoutError([[0.98, 0.02], [0.05, 0.95]]))
    return model


def run(settings: Settings) -> Report:
    against_aer = Table("Pixels times kernels per second, and times as fast as Aer")
    against_mixed = Table("Against PennyLane's default.mixed, depolarizing, one kernel")
    scaling = Table("Scaling: depolarizing, one kernel, forward, compiled (torch without compiler)")
    report = Report("Noisy engine", [against_aer, against_mixed, scaling])
    qubits = settings.pick(6, 3)
    noises = {
        "depolarizing": depolarizing(),
        "thermal + readout": thermal_and_readout(),
        DEVICE: DEVICE,
    }
    implementations = ["torch", *(["compiled"] if find_compiler() else [])]
    with torch_threads(settings.threads):
        for noise_name, noise in noises.items():
            for kernels in settings.pick((1, 11), (1, 2)):
                work = Workload(2**qubits, kernels, qubits)
                for row in _against_aer(work, noise, implementations, settings):
                    against_aer.rows.append({"noise": noise_name, "n": qubits, **row})
                    if not settings.quick:
                        report.figures.append(_figure(noise_name, kernels, row))
        against_mixed.rows += _against_pennylane(qubits, implementations, settings)
        sizes = settings.pick((2, 3, 4, 5, 6, 7), (2, 3))
        scaling.rows += [_scaling(n, settings, implementations[-1]) for n in sizes]
    report.notes = [
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "Between two passes nothing of a pixel is kept but its angles, in float64. The states of a "
        "chunk of pixels are in memory while a worker is at it.",
        "fake_torino with a multiplexor on six qubits is routed: the transpiler lets the ansatz "
        "begin before the encoder has ended, so a part of the circuit runs once for each kernel.",
    ]
    return report


def _against_aer(work: Workload, noise, implementations, settings: Settings):
    spec, weights = work.spec, work.layer.weight.detach()
    aer = EstimatorEngine.from_backend("aer", noise_model=noise, dedupe_grid=None)
    engines = {name: NoisyEngine(noise, implementation=name) for name in implementations}
    num_aer = max(settings.pick(AER_ROWS, 8) // work.kernels, 1)
    few = work.pixels(num_aer)
    expected = aer.evs(LayerCall(spec, few, weights))
    for name, engine in engines.items():
        error = float((engine.evs(LayerCall(spec, few, weights)) - expected).abs().max())
        if not error < 1e-5:
            raise AssertionError(f"{name} differs from Aer by {error:.1e}.")
    slow = isinstance(noise, str)
    counts = {"torch": 2048 if slow else 8192, "compiled": 4096 if slow else 16384}
    counts = {name: settings.pick(count, 64) for name, count in counts.items()}
    candidates = {"aer": lambda: aer.evs(LayerCall(spec, few, weights))}
    for name, engine in engines.items():
        pixels, grad = work.pixels(counts[name]), work.cotangent(counts[name])

        def forward(engine=engine, pixels=pixels):
            return engine.evs(LayerCall(spec, pixels, weights))

        def step(engine=engine, pixels=pixels, grad=grad):
            _, residuals = engine.evs_with_residuals(LayerCall(spec, pixels, weights))
            return engine.vjp(LayerCall(spec, pixels, weights), grad, residuals=residuals)

        candidates |= {f"{name} forward": forward, f"{name} step": step}
    timings = interleaved(
        candidates,
        rounds=settings.pick(3, 2),
        budget_seconds=settings.pick(25, 5),
        warm_up=False,
    )
    base = num_aer * work.kernels / timings["aer"].best
    for name in engines:
        rates = [
            counts[name] * work.kernels / timings[f"{name} {what}"].best
            for what in ("forward", "step")
        ]
        yield {
            "K": work.kernels,
            "implementation": name,
            "aer": base,
            "forward": rates[0],
            "forward + both gradients": rates[1],
            "forward / aer": rates[0] / base,
            "with gradients / aer": rates[1] / base,
            "median / best": 1 + timings[f"{name} forward"].spread,
        }


def _figure(noise: str, kernels: int, row: dict) -> Figure:
    name, ratio = row["implementation"], row["forward / aer"]
    target = DEVICE_TARGET if noise == DEVICE else TARGETS[name]
    what = f"forward against tuned Aer, {noise}, K = {kernels}, {name}"
    return Figure(what, f">= {target}x", f"{ratio:,.0f}x", ratio >= target)


def _against_pennylane(qubits: int, implementations, settings: Settings):
    work = Workload(2**qubits, 1, qubits)
    spec, weights = work.spec, work.layer.weight.detach()
    count = settings.pick(16, 2)
    pixels = work.pixels(count)
    node = _pennylane(NoisyEngine(depolarizing()).prepare(spec).template, qubits)
    angles = make_encoder("multiplexor", qubits).angles(canonical_directions(pixels)).numpy()
    theta = spec.ansatz.angles(weights.numpy())[0]
    engines = {n: NoisyEngine(depolarizing(), implementation=n) for n in implementations}
    many = work.pixels(settings.pick(4096, 64))
    for engine in engines.values():  # PennyLane is not warmed up, for lack of time; it has no need
        engine.evs(LayerCall(spec, many, weights))
    found = np.array(node(angles, theta)).T
    error = np.abs(
        found - next(iter(engines.values())).evs(LayerCall(spec, pixels, weights))[:, 0].numpy()
    )
    if not error.max() < 1e-5:
        raise AssertionError(f"PennyLane differs by {error.max():.1e}.")
    timings = interleaved(
        {
            "pennylane": lambda: node(angles, theta),
            **{
                name: (lambda engine=engine: engine.evs(LayerCall(spec, many, weights)))
                for name, engine in engines.items()
            },
        },
        rounds=3,
        min_rounds=1,
        budget_seconds=settings.pick(30, 5),
        warm_up=False,
    )
    base = count / timings["pennylane"].best
    for name in engines:
        rate = len(many) / timings[name].best
        yield {
            "n": qubits,
            "implementation": name,
            "default.mixed": base,
            "forward": rate,
            "forward / default.mixed": rate / base,
        }


def _pennylane(template, qubits: int):
    """The template as a QNode of encoder angles (N, E) and ansatz angles (R,)."""
    gates = {"ry": qml.RY, "rx": qml.RX, "rz": qml.RZ, "cz": qml.CZ, "cx": qml.CNOT}
    index = {p: i for i, p in enumerate(template.parameters)}
    num_encoder = len(template.parameters) - len(template.columns)
    paulis = [
        np.eye(2),
        np.array([[0, 1], [1, 0]]),
        np.array([[0, -1j], [1j, 0]]),
        np.diag([1, -1]),
    ]
    share = 1e-2 / 16
    pairs = [
        np.sqrt(1 - 15 * share if a == b == 0 else share) * np.kron(paulis[a], paulis[b])
        for a in range(4)
        for b in range(4)
    ]

    @qml.qnode(qml.device("default.mixed", wires=qubits), diff_method=None)
    def node(encoder, theta):
        for instruction in template.circuit.data:
            name = instruction.operation.name
            wires = [template.circuit.find_bit(q).index for q in instruction.qubits]
            values = []
            for expression in instruction.operation.params:
                (parameter,) = expression.parameters
                i = index[parameter]
                values.append(encoder[:, i] if i < num_encoder else theta[i - num_encoder])
            gates[name](*values, wires=wires)
            if name in ("ry", "rx"):
                qml.DepolarizingChannel(0.75e-3, wires=wires)
            elif name != "rz":
                qml.QubitChannel(pairs, wires=wires)
        return [qml.expval(qml.PauliZ(q)) for q in range(qubits)]

    return node


def _scaling(qubits: int, settings: Settings, implementation: str) -> dict:
    work = Workload(2**qubits, 1, qubits)
    spec, weights = work.spec, work.layer.weight.detach()
    count = settings.pick(max(4096, min(4 ** (9 - qubits) * 256, 2**18)), 64)
    pixels, engine = work.pixels(count), NoisyEngine(depolarizing(), implementation=implementation)
    rates = {}
    for threads in range(1, settings.threads + 1):
        with torch_threads(threads):
            timing = interleaved(
                {"forward": lambda: engine.evs(LayerCall(spec, pixels, weights))},
                rounds=3,
                budget_seconds=5,
            )
        rates[threads] = count / timing["forward"].best
    layer = engine._layer(engine._circuit(spec), pixels)
    rows = engine.last_report.num_strings
    return {
        "n": qubits,
        "strings": rows,
        "bytes kept per pixel": 8 * (2**qubits - 1),
        "bytes of a state": 4 * rows,
        "pixels of a chunk": layer.chunk,
        **{f"pixels / s, {t} threads": rate for t, rate in rates.items()},
    }
