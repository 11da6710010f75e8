"""What the command line says of the noisy engine; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from qpc_qiskit.engines import NoisyEngine, NoisyReport
    from qpc_qiskit.layer import QuantumLayer


def noisy_usage(
    engine: NoisyEngine, layers: Mapping[str, QuantumLayer]
) -> tuple[dict[str, Any], str]:
    """How the values of an evaluation came about: plain values, and the same for people.

    Args:
        engine: has evaluated the layers.
        layers: by name.
    """
    report = cast("NoisyReport", engine.last_report)
    placed = {name: engine.prepare(layer.spec).placement for name, layer in layers.items()}
    patches = {name: p and list(p.patch.qubits) for name, p in placed.items()}
    result: dict[str, Any] = {
        "noise": report.noise,
        "shots": report.shots,
        "implementation": report.implementation,
        "implementation_reason": report.implementation_reason,
        "encoder": report.encoder,
        "layers": {name: {"patch": patch} for name, patch in patches.items()},
    }
    shots = "exact values" if report.shots is None else f"{report.shots:,} shots for each value"
    lines = [f"noise {report.noise}: {shots}, {report.encoder}, {report.implementation}"]
    lines += [
        f"{name}: on qubits {', '.join(map(str, patch))}"
        for name, patch in patches.items()
        if patch
    ]
    if report.max_encoding_error:
        lines.append(
            f"{report.encoder} encoder: no feature is off by more than "
            f"{report.max_encoding_error:.1g} because of its fit"
        )
    return result, "\n".join(lines)
