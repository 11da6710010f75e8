"""What an engine tells of its last evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from torch import Tensor

from qpc_qiskit.common.versions import library_versions


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What an engine's last evaluation cost and how sure it is."""

    engine: str
    """Name of the engine."""
    num_pixels: int
    """N."""
    num_kernels: int
    """K."""
    num_executions: int
    """Circuit executions sent: rows of all PUBs, each counted once whatever the shots; 0 for
    `exact`."""
    num_pubs: int = 0
    """PUBs sent."""
    precision: float | None = None
    """Standard error requested of each value; None: the engine's or estimator's own default."""
    max_std: float | None = None
    """Largest standard error reported, 0 for exact values; None: it is not known."""

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """What reference rows with known answers say of the patches, by job, patch and feature."""

    applied: bool
    """Whether values were corrected."""
    scale: tuple[tuple[tuple[float, ...], ...], ...]
    """What is left of a value; NaN where there is no line."""
    offset: tuple[tuple[tuple[float, ...], ...], ...]
    """What is added to it."""
    num_not_calibrated: int
    """Features of patches that were left as measured: their references tell too little."""
    bad_patches: tuple[Mapping[int, str], ...]
    """Of each job: patches that are better left out, and why."""


@dataclass(frozen=True, kw_only=True)
class EstimatorReport(EngineReport):
    """What a call cost on a backend, how sure its values are, and how they came about."""

    what: str
    """`evs`, `vjp` or `jacobian`."""
    backend: str
    """Its name; for an estimator of one's own its class."""
    num_rows: int
    """Rows asked for. `num_executions` counts those that were sent: equal directions once, and none
    that a derivative does not need."""
    shots: int | None = None
    """Per execution; None: exact, or left to an estimator of one's own."""
    num_unknown_stds: int = 0
    """Values for which the estimator gave no finite standard error."""
    stds: tuple[Tensor | None, ...] = field(default=(), repr=False, compare=False)
    """Standard errors: of the values, (N, K, m); of a `vjp`, (N, C) and (K, P), None where not
    asked for. NaN where not known."""
    job_ids: tuple[str, ...] = ()
    """In the order of the rows."""
    predicted_qpu_seconds: float | None = None
    """What the executions take on the device, also if they ran on a copy of it; None: unknown."""
    patch: tuple[int, ...] | None = None
    """The backend's qubits that carry the circuit."""
    layout: tuple[int, ...] | None = None
    """The backend's qubit of each of the layer's, at the end of the circuit."""
    predicted_fidelity: float | None = None
    """Of the circuit on this patch, readout included."""
    num_two_qubit_gates: int | None = None
    """Of the circuit as sent; None where it is not laid on a device."""
    two_qubit_depth: int | None = None
    """Layers of them."""
    patches: tuple[tuple[int, ...], ...] = ()
    """Qubits of every patch: so many rows ran in one execution. Empty where there is no device."""
    dedupe_grid: float | None = None
    """See `EstimatorEngine`."""
    encoder: str = "multiplexor"
    """How directions were encoded: as asked for, or what that fell back to."""
    num_fallbacks: int = 0
    """Directions of this call that the encoder could not prepare: the layer has another one since,
    with which all rows of this call were run."""
    max_encoding_error: float = 0.0
    """By which a feature may differ because an encoder's fit is not exact."""
    num_references: int = 0
    """Rows with known answers in every job, on every patch."""
    calibration: CalibrationReport | None = None
    """What they say; None: there were none."""
    about: Mapping[str, object] = field(default_factory=dict)
    """Mode, resilience level, options, calibration time, noise: what the backend has of these."""
    versions: Mapping[str, str] = field(default_factory=library_versions, repr=False)
    """Of Python and the libraries."""

    def to_dict(self) -> dict[str, object]:
        """Plain values, without the arrays of standard errors."""
        found = asdict(replace(self, stds=()))
        del found["stds"]
        return found


@dataclass(frozen=True, kw_only=True)
class NoisyReport(EngineReport):
    """How the values of a call of the noisy engine came about."""

    noise: str
    """In words."""
    implementation: str
    """What ran the encoder: `torch` or `compiled`."""
    implementation_reason: str | None = None
    """Why it was not the compiled one, where that was to be used if possible."""
    shots: int | None = None
    """Per value; None: exact."""
    encoder: str = "multiplexor"
    """How directions were encoded: as asked for, or what that fell back to."""
    num_fallbacks: int = 0
    """See `EstimatorReport`."""
    max_encoding_error: float = 0.0
    """By which a feature may differ because an encoder's fit is not exact."""
    patch: tuple[int, ...] | None = None
    """The device's qubits that carry the circuit; None: there is no device."""
    num_strings: int = 0
    """Pauli strings that a pixel's state is held on, of 4**n."""
