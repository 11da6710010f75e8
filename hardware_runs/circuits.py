"""The circuits of a durable run: frozen in its revisions, and placed anew where they must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from qiskit.providers import BackendV2

from hardware_runs.ledger import Ledger, Run
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.errors import NotISAError
from qpc_qiskit.execution.destinations import check_runs_on
from qpc_qiskit.execution.frozen import freeze, thaw
from qpc_qiskit.execution.prepared import Prepared
from qpc_qiskit.spec import LayerSpec


class FrozenCircuits:
    """Circuits of a run's layers, as they are sent.

    Args:
        ledger: of the run.
        run: the run.
        estimator: prepares circuits; asked for when one is needed, and may raise.
        backend: the device; None: circuits are simulated, or only read.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        ledger: Ledger,
        run: Run,
        estimator: Callable[[], EstimatorEngine],
        backend: BackendV2 | None,
        clock: Callable[[], float],
    ) -> None:
        self._ledger, self._run = ledger, run
        self._estimator, self._backend, self._clock = estimator, backend, clock
        self._circuits: dict[tuple[int, str], Prepared] = {}
        self._is_legal: dict[tuple[int, str], bool] = {}
        self._layer_keys: dict[str, str] = {}

    def revision_with(self, spec: LayerSpec) -> int:
        """The newest revision with the layer's circuit, which the estimator has from then on.

        Raises:
            BackendError: it is not there yet, or can run no more, and the device is out of reach.
        """
        key = circuit_key(spec)
        newest = self._ledger.revisions(self._run.id)[-1]
        if key in newest.blobs and self.can_run(newest.number, key, newest.blobs):
            self._estimator().adopt(spec, self.thawed(newest.number, key, newest.blobs))
            return newest.number
        again = key in newest.blobs
        return self._place(spec, f"circuit of {spec.num_qubits} qubits{', placed anew' * again}")

    def _place(self, spec: LayerSpec, reason: str) -> int:
        """A new revision with the layer's circuit on the best qubits of the device as it is now."""
        self._estimator().forget(spec)
        blobs = {circuit_key(spec): freeze(self._estimator().prepare(spec))}
        made = self._ledger.add_circuits(
            self._run.id, reason=reason, blobs=blobs, now=self._clock()
        )
        return made.number

    def can_run(self, revision: int, key: str, blobs: Mapping[str, bytes] | None = None) -> bool:
        """Whether a frozen circuit is one that the device, as it is now, can run.

        Args:
            revision: its number.
            key: of the circuit.
            blobs: of the revision, if they are at hand.
        """
        if self._backend is None:
            return True
        if (revision, key) not in self._is_legal:
            circuit = self.thawed(revision, key, blobs).template.circuit
            try:
                check_runs_on(circuit, self._backend)
                self._is_legal[revision, key] = True
            except NotISAError:
                self._is_legal[revision, key] = False
        return self._is_legal[revision, key]

    def key(self, layer: str) -> str:
        """Of the circuit of a layer that the ledger knows."""
        if layer not in self._layer_keys:
            found = self._ledger.layers(self._run.id)
            self._layer_keys |= {each.name: circuit_key(each.spec) for each in found}
        return self._layer_keys[layer]

    def thawed(self, revision: int, key: str, blobs: Mapping[str, bytes] | None = None) -> Prepared:
        """A frozen circuit; see `can_run`."""
        if (revision, key) not in self._circuits:
            if blobs is None:
                revisions = {r.number: r for r in self._ledger.revisions(self._run.id)}
                blobs = revisions[revision].blobs
            self._circuits[revision, key] = thaw(blobs[key])
        return self._circuits[revision, key]


def circuit_key(spec: LayerSpec | Any) -> str:
    """What tells the circuits of layers apart: their ansatz, not their weights or kernels."""
    told = spec.to_dict() if isinstance(spec, LayerSpec) else dict(spec)
    kept = {k: v for k, v in told.items() if k not in ("in_channels", "num_kernels", "conventions")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
