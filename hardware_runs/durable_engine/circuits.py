"""The circuits of a durable run: frozen in its revisions, and placed anew where they must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from qiskit.providers import BackendV2

from hardware_runs.durable_engine.known import KnownRun
from qpc_qiskit.backends.destinations import check_runs_on
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.errors import BackendError, NotISAError
from qpc_qiskit.rows.frozen import freeze, thaw
from qpc_qiskit.rows.prepared import Prepared

Qubits = tuple[int, ...]
"""Of a patch: what names it, whatever its number in a revision."""

NONE_BAD: Mapping[Qubits, str] = MappingProxyType({})


class FrozenCircuits:
    """Circuits of a run's layers, as they are sent.

    Args:
        known: the run.
        estimator: prepares circuits; asked for when one is needed, and may raise.
        backend: the device; None: circuits are simulated, or only read.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        known: KnownRun,
        estimator: Callable[[], EstimatorEngine],
        backend: BackendV2 | None,
        clock: Callable[[], float],
    ) -> None:
        self._known = known
        self._estimator, self._backend, self._clock = estimator, backend, clock
        self._circuits: dict[tuple[int, str], Prepared] = {}
        self._is_legal: dict[tuple[int, str], bool] = {}
        self._layer_keys: dict[str, str] = {}

    def revision_with(self, spec: LayerSpec, bad: Mapping[Qubits, str] = NONE_BAD) -> int:
        """The newest revision with the layer's circuit, which the estimator has from then on.

        A circuit that the device can run no more is placed anew; where that fails, it goes on with
        the patches that are left. Bad patches are dropped, unless all are bad.

        Args:
            spec: the layer.
            bad: patches that are not to be used any more, and why.

        Raises:
            BackendError: it is not there yet, or can run no more, and the device is out of reach or
                has no place for it.
        """
        key = circuit_key(spec)
        newest = self._known.state.revisions[-1]
        if key not in newest.blobs:
            return self.place(spec, _what(spec))
        prepared = self.thawed(newest.number, key)
        self._estimator().adopt(spec, prepared)
        if not self.can_run(newest.number, key):
            return self._place_anew(spec, prepared, bad)
        good = _good(prepared, range(prepared.num_patches), bad)
        if len(good) < prepared.num_patches:
            return self._add(spec, prepared.subset(good), _without(spec, prepared, good, bad))
        return newest.number

    def _place_anew(self, spec: LayerSpec, prepared: Prepared, bad: Mapping[Qubits, str]) -> int:
        """Where a circuit can run no more; see `revision_with`."""
        left = self._left(prepared)
        self._estimator().forget(spec)
        try:
            found, reason = self._estimator().prepare(spec), f"{_what(spec)}, placed anew"
        except BackendError as error:
            if not left:
                raise
            why = f"the device can run it no more ({error})"
            reason = f"{_what(spec)} without {_told(prepared, left, why)}"
            found = prepared.subset(left)
        good = _good(found, range(found.num_patches), bad)
        if len(good) < found.num_patches:
            reason = f"{reason}; {_without(spec, found, good, bad)}"
            found = found.subset(good)
        elif _has_bad(found, bad) and (
            spared := [j for j in left if _why(prepared, j, bad) is None]
        ):  # all new places are known to be bad, and some of the old ones are not
            reason = f"{_what(spec)} without {_told(prepared, spared, 'lost, or found bad')}"
            found = prepared.subset(spared)
        return self._add(spec, found, reason)

    def place(self, spec: LayerSpec, reason: str) -> int:
        """A new revision with the layer's circuit on the best qubits of the device as it is now."""
        self._estimator().forget(spec)
        return self._add(spec, self._estimator().prepare(spec), reason)

    def _add(self, spec: LayerSpec, prepared: Prepared, reason: str) -> int:
        self._estimator().adopt(spec, prepared)
        made = self._known.ledger.add_circuits(
            self._known.run.id,
            reason=reason,
            blobs={circuit_key(spec): freeze(prepared)},
            now=self._clock(),
        )
        return made.number

    def _left(self, prepared: Prepared) -> list[int]:
        """Patches that the device can run."""
        assert self._backend is not None
        left = []
        for j in range(prepared.num_patches):
            with suppress(NotISAError):
                check_runs_on(prepared.subset([j]).template.circuit, self._backend)
                left.append(j)
        return left

    def is_fit(self, revision: int, key: str, bad: Mapping[Qubits, str]) -> bool:
        """Whether the device can run a frozen circuit, and none of its patches is bad."""
        if not self.can_run(revision, key):
            return False
        return not _has_bad(self.thawed(revision, key), bad)

    def can_run(self, revision: int, key: str) -> bool:
        """Whether a frozen circuit is one that the device, as it is now, can run.

        Args:
            revision: its number.
            key: of the circuit.
        """
        if self._backend is None:
            return True
        if (revision, key) not in self._is_legal:
            circuit = self.thawed(revision, key).template.circuit
            try:
                check_runs_on(circuit, self._backend)
                self._is_legal[revision, key] = True
            except NotISAError:
                self._is_legal[revision, key] = False
        return self._is_legal[revision, key]

    def key(self, layer: str) -> str:
        """Of the circuit of a layer that the ledger knows."""
        if layer not in self._layer_keys:
            found = self._known.state.layers
            self._layer_keys |= {each.name: circuit_key(each.spec) for each in found}
        return self._layer_keys[layer]

    def thawed(self, revision: int, key: str) -> Prepared:
        """A frozen circuit; see `can_run`."""
        if (revision, key) not in self._circuits:
            self._circuits[revision, key] = thaw(self._known.blob(revision, key))
        return self._circuits[revision, key]


def _what(spec: LayerSpec) -> str:
    return f"circuit of {spec.num_qubits} qubits"


def _why(prepared: Prepared, patch: int, bad: Mapping[Qubits, str]) -> str | None:
    """Why a patch is bad; None: it is not. The same qubits in another order are the same patch."""
    here = frozenset(_qubits(prepared, patch))
    return next((why for qubits, why in bad.items() if frozenset(qubits) == here), None)


def _has_bad(prepared: Prepared, bad: Mapping[Qubits, str]) -> bool:
    return any(_why(prepared, j, bad) is not None for j in range(prepared.num_patches))


def _good(prepared: Prepared, patches: Iterable[int], bad: Mapping[Qubits, str]) -> list[int]:
    """Those of some patches that are not bad; all of them, if all are."""
    each = list(patches)
    return [j for j in each if _why(prepared, j, bad) is None] or each


def _without(
    spec: LayerSpec, prepared: Prepared, good: Sequence[int], bad: Mapping[Qubits, str]
) -> str:
    """The reason for a circuit without its bad patches."""
    dropped = (j for j in range(prepared.num_patches) if j not in good)
    reasons = dict.fromkeys(_why(prepared, j, bad) or "" for j in dropped)
    return f"{_what(spec)} without {_told(prepared, good, ' '.join(reasons))}"


def _told(prepared: Prepared, kept: Sequence[int], why: str) -> str:
    """The patches that are dropped."""
    dropped = [j for j in range(prepared.num_patches) if j not in kept]
    places = ", ".join("-".join(map(str, _qubits(prepared, j))) for j in dropped)
    return f"{len(dropped)} of {prepared.num_patches} patches (qubits {places}): {why}"


def _qubits(prepared: Prepared, patch: int) -> Qubits:
    """Of a patch; none where the circuit is on no device."""
    return prepared.placements[patch].patch.qubits if prepared.placements else ()


def circuit_key(spec: LayerSpec | Any) -> str:
    """What tells the circuits of layers apart: their ansatz, not their weights or kernels."""
    told = spec.to_dict() if isinstance(spec, LayerSpec) else dict(spec)
    kept = {k: v for k, v in told.items() if k not in ("in_channels", "num_kernels", "conventions")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
