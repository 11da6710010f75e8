"""From what a user calls a backend to a destination; refuses options that would have no effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qiskit.providers import BackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from qpc_qiskit.backends import destinations
from qpc_qiskit.backends.destinations import ONE_PATCH, Destination, Packing
from qpc_qiskit.backends.named import AER, find_backend, is_fake, is_ibm
from qpc_qiskit.common.checks import positive_integer
from qpc_qiskit.common.extras import require
from qpc_qiskit.devices.noise import CircuitNoise, Noise
from qpc_qiskit.devices.tiling import check_gap

MODES = ("job", "batch", "session")


def open_destination(
    backend: str | BackendV2,
    *,
    mode: str = "job",
    resilience: int = 0,
    exact: bool = False,
    noise_model: Noise | str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "CPU",
    service: object | None = None,
    use_fractional_gates: bool = False,
    qubits: Sequence[int] | None = None,
    packing: Packing = ONE_PATCH,
    max_qpu_seconds: float | None = None,
) -> Destination:
    """The destination of a backend.

    Args:
        backend: see `EstimatorEngine.from_backend`, as for all others but one.
        mode: job, batch or session.
        resilience: 0, 1 or 2.
        exact: whether values without shots are asked for.
        noise_model: for Aer.
        options: of what runs the circuits.
        seed: of the shots.
        device: for Aer.
        service: for IBM's devices.
        use_fractional_gates: for IBM's devices.
        qubits: of a device, instead of its best patch.
        packing: on how many patches of a device.
        max_qpu_seconds: of a session, by the clock.

    Raises:
        BackendError: unknown backend, or no access to it.
        ValueError: an argument that has no effect on this backend, or is wrong.
        TypeError: `backend` is no name and no backend.
    """
    if not isinstance(backend, str | BackendV2):
        raise TypeError(
            f"Expected a backend's name or a qiskit BackendV2, got {type(backend).__name__}."
        )
    if mode not in MODES:
        raise ValueError(f"Unknown mode {mode!r}; expected one of {', '.join(MODES)}.")
    if resilience not in (0, 1, 2):
        raise ValueError(f"Unknown resilience level {resilience!r}; expected 0, 1 or 2.")
    if exact and resilience:
        raise ValueError(
            "precision=0 asks for exact values, which resilience cannot improve; give shots."
        )
    if not isinstance(noise_model, NoiseModel | CircuitNoise | BackendV2 | str | None):
        raise TypeError(
            "Expected an Aer NoiseModel, a CircuitNoise, a device or its name as noise_model, got "
            f"{type(noise_model).__name__}."
        )
    if qubits is not None and packing != ONE_PATCH:
        raise ValueError("qubits are those of one patch: leave out num_patches and gap.")
    _check_packing(packing)
    without_effect: dict[str, bool] = {}

    def refuse(where: str) -> None:
        for name, given in without_effect.items():
            if given:
                raise ValueError(f"{name} has no effect on {where}; leave it out.")

    if isinstance(backend, AerSimulator) and backend.coupling_map is None:
        without_effect["noise_model"] = noise_model is not None
        refuse("an AerSimulator, which has its own noise")
        _refuse_settings(backend)
        noise_model, backend = backend.options.noise_model, AER
    if backend == AER:
        if isinstance(noise_model, AerSimulator) and noise_model.coupling_map is None:
            _refuse_settings(noise_model)
            noise_model = noise_model.options.noise_model
            if noise_model is None:
                raise ValueError(
                    "The AerSimulator given as noise_model has no noise; leave it out."
                )
        is_device = isinstance(noise_model, str | BackendV2)
        without_effect |= {"mode": mode != "job", "service": service is not None}
        without_effect["qubits"] = qubits is not None and not is_device
        without_effect["num_patches"] = packing != ONE_PATCH and not is_device
        without_effect["use_fractional_gates"] = use_fractional_gates
        refuse("Aer")
        noise = find_backend(noise_model) if isinstance(noise_model, str) else noise_model
        if not resilience:
            return destinations.aer(
                noise, device=device, seed=seed, options=options, qubits=qubits, packing=packing
            )
        require("ibm", "Resilience, of IBM's Estimator,")
        from qpc_qiskit.backends import runtime

        without_effect["device"] = device != "CPU"
        refuse("Aer with resilience")
        if isinstance(noise, CircuitNoise) and noise.changes_circuits:
            # Measured: IBM's Estimator builds one-qubit gates anew, folds two-qubit gates, and
            # knows no label of either; the noise would silently not act.
            raise ValueError(
                f"resilience rewrites the gates that the noise {noise.name!r} is put on by label "
                "(encoder, ansatz, crosstalk); give 0, or noise of other places."
            )
        return runtime.local(
            noise,
            name=AER,
            resilience=resilience,
            seed=seed,
            options=options,
            qubits=qubits,
            packing=packing,
        )

    without_effect |= {"noise_model": noise_model is not None, "device": device != "CPU"}
    if isinstance(backend, str):
        is_device = backend.startswith("ibm_")
        without_effect["service"] = service is not None and not is_device
        without_effect["use_fractional_gates"] = use_fractional_gates and not is_device
        refuse(backend)
        backend = find_backend(backend, service=service, use_fractional_gates=use_fractional_gates)
    else:
        without_effect["service"] = service is not None
        without_effect["use_fractional_gates"] = use_fractional_gates
    if is_fake(backend):
        refuse(f"{backend.name}, which has its own noise")
        if exact:
            without_effect["options"] = bool(options)
            refuse("exact values")
            return destinations.aer(backend, seed=seed, qubits=qubits, packing=packing)
        from qpc_qiskit.backends import runtime

        return runtime.local(
            backend,
            name=backend.name,
            resilience=resilience,
            seed=seed,
            options=options,
            qubits=qubits,
            packing=packing,
        )
    if is_ibm(backend):
        without_effect["seed"] = seed is not None
        refuse("a real device")
        from qpc_qiskit.backends import runtime

        return runtime.device(
            backend,
            mode=mode,
            resilience=resilience,
            options=options,
            qubits=qubits,
            packing=packing,
            max_qpu_seconds=max_qpu_seconds,
        )
    without_effect |= {"mode": mode != "job", "resilience": resilience != 0}
    refuse(f"{backend.name}, which is run through BackendEstimatorV2")
    return destinations.any_backend(
        backend, seed=seed, options=options, qubits=qubits, packing=packing
    )


def _check_packing(packing: Packing) -> None:
    if packing.num_patches is not None:
        positive_integer("num_patches", packing.num_patches)
    check_gap(packing.gap)
    if packing.num_patches == 1 and packing.gap:
        raise ValueError("gap has no effect on one patch; leave it out, or give num_patches.")


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
