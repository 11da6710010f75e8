"""Noise of simulated circuits: the type that engines take, how it measures, whether it acts."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.providers import BackendV2
from qiskit.transpiler import PassManager
from qiskit.transpiler.basepasses import TransformationPass
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.errors import EngineError

ANSATZ_BEGINS = "ansatz"
"""Label of the barrier between encoder and ansatz, where noise needs to tell them apart."""

DIGEST_STEP = 1e-8
"""Noise that agrees to it moves no value by more than that for each gate."""


@dataclass(frozen=True, eq=False)
class CircuitNoise:
    """A noise model, and what is done to a circuit so that the model acts on it as meant.

    Aer finds the errors of a gate by the gate's label, or by its name where it has none. So a pass
    can label gates that are to have errors of their own (those of the encoder, say), and it can
    insert labelled identities whose errors are noise that no gate of the circuit causes (crosstalk,
    say). A pass must not change what the circuit computes without noise.
    """

    model: NoiseModel
    """Its `basis_gates` are what a circuit is translated to."""
    passes: tuple[TransformationPass, ...] = ()
    """Run on the translated circuit, in this order. Their `repr` tells all of their settings."""
    tells_stages: bool = False
    """Whether the circuit gets a barrier with the label `ANSATZ_BEGINS` between encoder and ansatz,
    for passes to see. Nothing is optimized across it, so the circuit may have more gates."""
    name: str = "own noise"
    """For reports."""
    min_qubits: int = 1
    """Circuits with fewer are refused: the noise is told for a qubit that they do not have."""

    @property
    def changes_circuits(self) -> bool:
        """Whether a circuit is another one than the model alone would need."""
        return bool(self.passes) or self.tells_stages

    def prepare(self, circuit: QuantumCircuit) -> QuantumCircuit:
        """A circuit in basis gates, as the model acts on it."""
        return PassManager(list(self.passes)).run(circuit) if self.passes else circuit


Noise: TypeAlias = NoiseModel | CircuitNoise | BackendV2
"""What engines take: a model, a model with passes, or a device whose noise is simulated."""


def as_circuit_noise(noise: NoiseModel | CircuitNoise) -> CircuitNoise:
    """A plain model as one that needs no passes."""
    if isinstance(noise, CircuitNoise):
        return noise
    return CircuitNoise(noise, name="own NoiseModel")


def noise_digest(noise: NoiseModel | CircuitNoise) -> str:
    """The same for equal noise, whose errors have random ids and come in any order.

    Equal up to `DIGEST_STEP`: the numbers of a model hold exponentials and eigenvectors, the last
    bits of which differ between processors.

    Returns:
        `sha256:` and a hexadecimal digest; that of the model where nothing is done to circuits.

    Raises:
        EngineError: a pass does not tell its settings.
    """
    noise = as_circuit_noise(noise)
    told = noise.model.to_dict(serializable=True)["errors"]
    errors = [{name: _stepped(v) for name, v in each.items() if name != "id"} for each in told]
    texts = sorted(json.dumps(each, sort_keys=True) for each in errors)
    content: list[Any] = [sorted(noise.model.basis_gates), texts]
    if noise.changes_circuits:
        passes = [repr(each) for each in noise.passes]
        for text in passes:
            if " at 0x" in text:  # Python's own: another one in every process
                raise EngineError(
                    f"The pass {text} of the noise does not tell its settings, so the noise cannot "
                    "be recognised when a run goes on; give its class a __repr__ that does."
                )
        content.append([passes, noise.tells_stages])
    return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def _stepped(value: Any) -> Any:
    """Plain values with every float as a whole number of `DIGEST_STEP`s.

    Steps begin at a place that no number with a few decimals is near, whose last bits would else
    decide. Kraus operators have signs that eigensolvers choose: their channel stands for them.
    """
    if isinstance(value, dict):
        if value.get("name") == "kraus":
            value = {**value, "params": _channel(value["params"])}
        return {name: _stepped(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_stepped(entry) for entry in value]
    return math.floor(value / DIGEST_STEP + 0.4142) if isinstance(value, float) else value


def _channel(operators: list[Any]) -> Any:
    """Sum of K x conj(K), of operators (k, d, d) and as (d, d, d, d); complex numbers as pairs."""
    pairs = np.array(operators)
    kraus = pairs[..., 0] + 1j * pairs[..., 1]
    found = np.einsum("kab,kcd->abcd", kraus, kraus.conj())
    return np.stack([found.real, found.imag], axis=-1).tolist()


@dataclass(frozen=True, eq=False)
class MeasurementNoise:
    """What a noise model does when a qubit is measured."""

    everywhere: NDArray[np.float64] | None
    """(2, 2) readout confusion [true outcome, reported outcome] of qubits without one of their own;
    None: no error."""
    local: dict[int, NDArray[np.float64]]
    """The same by qubit."""
    has_errors_before: bool
    """Whether quantum errors come before the readout (errors on `measure`)."""

    def confusion(self, qubit: int) -> NDArray[np.float64] | None:
        """(2, 2) of a qubit, None without readout error."""
        return self.local.get(qubit, self.everywhere)


def measurement_noise(noise_model: NoiseModel) -> MeasurementNoise:
    """Readout and measurement errors of a model.

    Raises:
        EngineError: the model has a readout error of several qubits together.
    """
    everywhere: NDArray[np.float64] | None = None
    local: dict[int, NDArray[np.float64]] = {}
    before = False
    for error in _errors(noise_model):
        if error["type"] != "roerror":
            before |= "measure" in error["operations"]
            continue
        matrix = np.asarray(error["probabilities"], np.float64)
        if matrix.shape != (2, 2):
            raise EngineError(
                "The noise model has a readout error of several qubits together; only readout "
                "errors of single qubits are supported."
            )
        if "gate_qubits" in error:
            local |= {int(qubits[0]): matrix for qubits in error["gate_qubits"]}
        else:
            everywhere = matrix
    return MeasurementNoise(everywhere, local, before)


def check_acts(
    noise_model: NoiseModel,
    circuit: QuantumCircuit,
    measured: Iterable[int],
    *,
    warns: bool = True,
) -> None:
    """Refuse a model that does nothing to a circuit.

    Args:
        noise_model: as Aer will see it.
        circuit: in the gates that Aer will run.
        measured: qubits that are read out.
        warns: whether to warn where a gate has errors on other qubits only: then the circuit may be
            less noisy than meant.

    Raises:
        EngineError: no gate and no measurement of the circuit has an error.
    """
    if noise_model.is_ideal():
        return
    anywhere: set[str] = set()
    local: dict[str, set[tuple[int, ...]]] = {}
    for error in _errors(noise_model):
        for name in error["operations"]:
            if "gate_qubits" in error:
                places = {tuple(int(q) for q in qubits) for qubits in error["gate_qubits"]}
                local.setdefault(name, set()).update(places)
            else:
                anywhere.add(name)
    found: dict[str, list[tuple[int, ...]]] = {"measure": [(q,) for q in measured]}
    for instruction in circuit.data:
        operation = instruction.operation
        qubits = tuple(circuit.find_bit(q).index for q in instruction.qubits)
        found.setdefault(operation.label or operation.name, []).append(qubits)
    noisy = {
        name: sum(name in anywhere or qubits in local.get(name, ()) for qubits in places)
        for name, places in found.items()
    }
    if not any(noisy.values()):
        raise EngineError(
            f"The noise model has errors on {', '.join(sorted(anywhere | set(local)))}, of which "
            f"the circuit has none at the places given: it holds {', '.join(sorted(found))} on "
            f"qubits 0 to {circuit.num_qubits - 1}. Put the errors on these gates, or give the "
            "model basis_gates that it has errors on."
        )
    for name, on in found.items():
        if warns and name in local and noisy[name] < len(on):
            warnings.warn(
                f"{len(on) - noisy[name]} of {len(on)} {name!r} of the circuit have no "
                f"error: the noise model has errors on {name!r} for other qubits only. For the "
                "noise of a device give the device itself as noise_model.",
                UserWarning,
                stacklevel=2,
            )


def _errors(noise_model: NoiseModel) -> list[dict[str, Any]]:
    return noise_model.to_dict()["errors"]
