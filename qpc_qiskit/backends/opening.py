"""From what a user calls a backend to a destination; refuses options that would have no effect."""

from __future__ import annotations

from typing import Any, TypeGuard

from qiskit.providers import BackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.backends import destinations
from qpc_qiskit.backends.destinations import Destination, Packing
from qpc_qiskit.backends.named import AER, find_backend, is_fake, is_ibm
from qpc_qiskit.common.extras import require
from qpc_qiskit.devices.noise import CircuitNoise
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.fields import OptionError


def open_destination(asked: EngineOptions) -> Destination:
    """The destination of a backend.

    Args:
        asked: the backend, by name or itself, and the options.

    Raises:
        BackendError: unknown backend, or no access to it.
        ValueError: an option that has no effect on this backend, or is wrong.
        TypeError: the backend is no name and no backend, or the noise is none.
    """
    backend, noise = asked.backend, asked.noise_model
    if not isinstance(backend, str | BackendV2):
        raise TypeError(
            f"Expected a backend's name or a qiskit BackendV2, got {type(backend).__name__}."
        )
    if not isinstance(noise, NoiseModel | CircuitNoise | BackendV2 | str | None):
        raise TypeError(
            "Expected an Aer NoiseModel, a CircuitNoise, a device or its name as noise_model, got "
            f"{type(noise).__name__}."
        )
    if _is_simulator(backend):
        asked.refuse(["noise"], "an AerSimulator")
        _refuse_settings(backend)
        return _on_aer(asked, backend.options.noise_model)
    if backend == AER:
        if _is_simulator(noise):
            _refuse_settings(noise)
            noise = noise.options.noise_model
            if noise is None:
                raise ValueError(
                    "The AerSimulator given as noise_model has no noise; leave it out."
                )
        return _on_aer(asked, noise)
    if isinstance(backend, str):
        others = [] if asked.is_paid else ["no name of IBM's"]
        asked.refuse(["noise", "no simulator", *others], backend)
        backend = find_backend(
            backend, service=asked.service, use_fractional_gates=asked.use_fractional_gates
        )
    else:
        asked.refuse(["noise", "no simulator", "no name of IBM's"], backend.name)
    return _on_backend(asked, backend)


def _on_aer(asked: EngineOptions, noise: Any) -> Destination:
    is_device = isinstance(noise, str | BackendV2)
    asked.refuse(["aer", *([] if is_device else ["aer without a device"])], "Aer")
    noise = find_backend(noise) if isinstance(noise, str) else noise
    simulated: dict[str, Any] = _placing(asked) | {"seed": asked.seed}
    if not asked.resilience:
        return destinations.aer(noise, device=asked.device, **simulated)
    require("ibm", "Resilience, of IBM's Estimator,")
    from qpc_qiskit.backends import runtime

    asked.refuse(["aer with resilience"], "Aer with resilience")
    if isinstance(noise, CircuitNoise) and noise.changes_circuits:
        # Measured: IBM's Estimator builds one-qubit gates anew, folds two-qubit gates, and
        # knows no label of either; the noise would silently not act.
        raise OptionError(
            "{resilience} rewrites the gates that the noise {noise!r} is put on by label (encoder, "
            "ansatz, crosstalk); give 0, or noise of other places.",
            noise=noise.name,
        )
    return runtime.local(noise, name=AER, resilience=asked.resilience, **simulated)


def _on_backend(asked: EngineOptions, backend: BackendV2) -> Destination:
    placing = _placing(asked)
    if is_fake(backend):
        if asked.standard_error == 0:
            asked.refuse(["exact values"], "exact values")
            return destinations.aer(backend, seed=asked.seed, **placing)
        from qpc_qiskit.backends import runtime

        simulated = placing | {"seed": asked.seed, "resilience": asked.resilience}
        return runtime.local(backend, name=backend.name, **simulated)
    if is_ibm(backend):
        asked.refuse(["device"], "a real device")
        from qpc_qiskit.backends import runtime

        return runtime.device(
            backend,
            mode=asked.mode,
            resilience=asked.resilience,
            max_qpu_seconds=asked.max_qpu_seconds,
            **placing,
        )
    asked.refuse(["vendor"], f"{backend.name}, which is run through BackendEstimatorV2")
    return destinations.any_backend(backend, seed=asked.seed, **placing)


def _placing(asked: EngineOptions) -> dict[str, Any]:
    packing = Packing(num_patches=asked.num_patches, gap=asked.gap)
    return {"options": asked.options, "qubits": asked.qubits, "packing": packing}


def _is_simulator(found: object) -> TypeGuard[AerSimulator]:
    """Whether it is Aer's simulator of no device, of which the noise is taken."""
    return isinstance(found, AerSimulator) and found.coupling_map is None


def _refuse_settings(simulator: AerSimulator) -> None:
    """Of an AerSimulator the noise model is taken, and nothing else."""
    defaults = AerSimulator().options
    changed = [
        name
        for name, value in simulator.options.items()
        if name != "noise_model" and value != getattr(defaults, name, None)
    ]
    if changed:
        raise ValueError(
            f"{', '.join(changed)} of the AerSimulator would have no effect: give 'aer' and "
            "options=..., seed=... or device=... instead."
        )
