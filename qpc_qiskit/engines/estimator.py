"""The estimator engine: layers evaluated by any Qiskit Estimator primitive (V2)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from qiskit.primitives import BaseEstimatorV2
from qiskit.quantum_info import SparsePauliOp
from torch import Tensor

from qpc_qiskit.circuits.brickwall import Progress, error_bound
from qpc_qiskit.circuits.directions import canonical_directions, largest_magnitudes
from qpc_qiskit.circuits.encoder import Encoder
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.circuits.unitary import unitaries
from qpc_qiskit.common.arrays import Array, Indices
from qpc_qiskit.common.checks import positive_integer
from qpc_qiskit.engines.base import Engine
from qpc_qiskit.engines.calls import LayerCall
from qpc_qiskit.engines.encoding import LayerEncoders
from qpc_qiskit.engines.exact import ExactEngine
from qpc_qiskit.engines.reports import CalibrationReport, EstimatorReport
from qpc_qiskit.errors import BudgetError, EngineError, FitFailed
from qpc_qiskit.options.engine import OF_ESTIMATOR, EngineOptions, shots_of
from qpc_qiskit.options.fields import OptionError
from qpc_qiskit.rows.gradients import (
    Gradient,
    Values,
    jacobian,
    make_gradients,
    plan_gradient,
    vector_jacobian,
)
from qpc_qiskit.rows.planning import Deal, JobPlan, ReferenceRows, deal_rows, plan_jobs, plan_parts
from qpc_qiskit.rows.pubs import (
    Rows,
    Template,
    by_pixel_and_kernel,
    make_template,
    product_pairs,
    unique_rows,
)
from qpc_qiskit.rows.references import Calibration, bad_patches, reference_directions
from qpc_qiskit.rows.unpacking import features, unpack

if TYPE_CHECKING:
    from qiskit.providers import BackendV2

    from qpc_qiskit.backends.destinations import Destination
    from qpc_qiskit.backends.jobs import RowValues
    from qpc_qiskit.rows.prepared import Prepared

EQUIVALENCE_ROWS = 3
EQUIVALENCE_ATOL = 1e-8


@dataclass(frozen=True)
class Forecast:
    """What a forward pass would send, if no two pixels had the same direction."""

    num_executions: int
    """Rows of all PUBs."""
    num_jobs: int
    """Jobs of one PUB each."""
    shots: int | None
    """Per execution; None: exact, or left to the given estimator."""
    qpu_seconds: float | None
    """Predicted on the device, or the device that is simulated; None: not known."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """A layer's circuit, ready to be run."""

    encoder: Encoder
    prepared: Prepared
    estimator: BaseEstimatorV2 | None
    """None: not asked for yet."""


class EstimatorEngine(Engine):
    """Expectation values from a primitive: one circuit for all pixels of all kernels.

    All pixels and kernels are rows of one PUB, or of one for each job where they are too many for a
    job. Derivatives are rows as well: at most N*K*(2R + 2C), with R rotations in a kernel.

    Args:
        estimator: any `BaseEstimatorV2`; None: Aer, noiseless, and exact unless a precision is
            given. The circuit is sent as it is, in {ry, rz, rx, sx, x, cx, cz}: the estimator must
            accept these gates. For a backend use `from_backend`.
        options: by keyword, fields of `qpc_qiskit.options.EngineOptions`:

            - `precision`: standard error asked of every value; None: the estimator's own default.
              For values that are the same every time give a seeded estimator.
            - `shots`: per execution, instead of a precision.
            - `dedupe_grid` (2**-20): pixels whose canonical directions agree on this grid are run
              once, the first of them unchanged; a feature moves by at most 2 * grid * sqrt(C).
              None: every pixel is run, as studies of shot statistics need it.
            - `gradients`: `shift` (every derivative), `spsa` (slopes along random signs: few rows,
              for hardware; standard errors leave out this chance), or a `Spsa(step, num_samples)`.
            - `encoder`: how a direction becomes angles: `multiplexor` is exact, `brickwall` (or
              `brickwall:DEPTH`) has far fewer gates and fits its angles. A layer with a direction
              that cannot be fitted well enough moves to a deeper one, at last to the multiplexor;
              the report tells it.
            - `absorb_tail` (False): whether the end of the ansatz, where it only permutes what is
              measured, becomes parities instead of gates.
            - `num_references` (0): rows with known answers that every job runs on every patch, by
              which the values are calibrated; at least 2m.
            - `calibrate` (True): whether values are corrected by what the reference rows say.
            - `limits`: of a job, instead of the backend's own.
            - `max_qpu_seconds`: predicted QPU time that this engine may spend in its life; a call
              that would exceed it is refused before anything is sent.
            - `seed`: of `Spsa`, and of the shots of the default estimator.

    Raises:
        TypeError: `estimator` is no `BaseEstimatorV2`, or there is no such option.
        ValueError: an option is out of range, or shots and precision are both given.
    """

    name = "estimator"

    def __init__(
        self,
        estimator: BaseEstimatorV2 | None = None,
        *,
        _destination: Destination | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if estimator is not None and not isinstance(estimator, BaseEstimatorV2):
            raise TypeError(
                "Expected a qiskit BaseEstimatorV2 (Aer's EstimatorV2, StatevectorEstimator, "
                f"...), got {type(estimator).__name__}. For a backend or its name use "
                "EstimatorEngine.from_backend."
            )
        for name in options:
            if name not in OF_ESTIMATOR:
                raise TypeError(f"EstimatorEngine() got an unexpected keyword argument {name!r}")
        asked = EngineOptions.read(**options)
        self._precision = asked.standard_error
        self._dedupe_grid = asked.dedupe_grid
        self._gradients = make_gradients(asked.gradients)
        self._encoders = LayerEncoders(asked.encoder)
        if asked.absorb_tail is None:  # which a command decides by the layers
            raise TypeError("absorb_tail must be True or False, got None.")
        self._absorbs_tail = asked.absorb_tail
        number: Any = asked.num_references
        self._num_references = 0 if number == 0 else positive_integer("num_references", number)
        self._calibrates = asked.calibrate
        self._limits = asked.limits
        self._max_qpu_seconds = _checked_budget(asked.max_qpu_seconds)
        self._seed = asked.seed
        self._rng = np.random.default_rng(asked.seed)
        self._estimator = estimator
        self._destination = _destination
        self._is_from_backend = _destination is not None
        self._ready: dict[Hashable, _Ready] = {}
        self._num_jobs = 0
        self.total_predicted_qpu_seconds = 0.0
        """Of all jobs that were sent, those included whose call failed."""

    @classmethod
    def from_backend(cls, backend: str | BackendV2 | EngineOptions = "aer", **options: Any) -> Self:
        """An engine for a backend; circuits are transpiled once, onto the backend's best qubits.

        Args:
            backend: a qiskit `BackendV2` of any vendor, or a name: `aer`, a snapshot of a device
                such as `fake_torino` (simulated here, on the patch alone, with the device's noise),
                or `ibm_...` (paid). `qpc backends` lists them. Or an `EngineOptions`, which has the
                backend and all options.
            options: by keyword, those of the class and other fields of
                `qpc_qiskit.options.EngineOptions`:

                - `mode`: `job`, `batch` or `session`, for IBM's devices; snapshots take every mode.
                  A batch or session is opened with the first job and ended by `close`: use the
                  engine as a context manager.
                - `shots`: per execution.
                - `precision`: standard error asked of every value, instead of shots; 0: exact
                  values, on Aer and snapshots. By default Aer is exact, and the others take 4096
                  shots.
                - `resilience`: IBM's level: 0 none, 1 readout mitigation (TREX), 2 also zero-noise
                  extrapolation; for IBM's devices, their snapshots and Aer. Slow on a laptop.
                - `noise_model`: for `aer`: an Aer `NoiseModel`, a `CircuitNoise` (what
                  `noise_models.NoiseSpec.build` makes), or a device (or its name) whose noise on
                  its best patch is simulated by Aer alone, without IBM's Estimator.
                - `options`: of what runs the circuits: those of `AerSimulator`, of IBM's Estimator
                  as nested dictionaries, or of `BackendEstimatorV2`.
                - `seed`: of shots, twirls and `Spsa`; not for a real device.
                - `device`: `CPU` or `GPU`, for `aer`.
                - `service`: a `QiskitRuntimeService`, for `ibm_...`; None: that of the saved
                  account.
                - `use_fractional_gates`: for `ibm_...`.
                - `qubits`: of a device, one for each of the layer's, instead of its best patch.
                - `num_patches` (1): of a device, on which the circuit stands side by side: so many
                  rows run in one execution. None: as many as are worth it, see `tile`.
                - `gap` (0): unused qubits between two patches, at least.
                - `max_qpu_seconds`: see the class; a session is also ended by the service after
                  that time, since it is billed by the clock.

        Raises:
            BackendError: unknown backend, or no access to it.
            ValueError: an option that is wrong, or has no effect on this backend.
            TypeError: there is no such option.
            EngineError: Aer has no such device.

        Example:
            >>> engine = EstimatorEngine.from_backend("fake_torino", shots=1024, seed=1)
        """
        from qpc_qiskit.backends.opening import open_destination

        asked = EngineOptions.of(backend, **options)
        _checked_budget(asked.max_qpu_seconds)
        destination = open_destination(asked)
        if asked.standard_error == 0 and destination.default_shots is not None:
            raise OptionError(
                "{precision}=0 asks for exact values, and {name} gives shots; leave it out, or use "
                "'aer' or a fake device.",
                name=destination.name,
            )
        return cls(_destination=destination, **asked.of_estimator())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the batch or session, if one is open; the next call opens a new one."""
        if self._destination is not None:
            self._ready = {a: replace(r, estimator=None) for a, r in self._ready.items()}
            self._destination.close()

    @property
    def destination(self) -> Destination:
        """Where rows are run. Aer, heavy to import and not everybody's backend, on first use."""
        if self._destination is None:
            from qpc_qiskit.backends import destinations

            if self._estimator is None:
                self._destination = destinations.aer(seed=self._seed)
            else:
                self._destination = destinations.given_estimator(self._estimator)
        return self._destination

    @property
    def on_fit(self) -> Progress | None:
        """Told of the directions whose angles are fitted, while that is done: how many, of all."""
        return self._encoders.on_fit

    @on_fit.setter
    def on_fit(self, told: Progress | None) -> None:
        self._encoders.on_fit = told

    @property
    def estimator(self) -> BaseEstimatorV2 | None:
        """The primitive that was given, if one was."""
        return self._estimator

    @property
    def precision(self) -> float | None:
        """Asked of every value; 0: exact, None: the estimator's own default."""
        return self._precision

    @property
    def num_references(self) -> int:
        """Reference rows in every job."""
        return self._num_references

    @property
    def dedupe_grid(self) -> float | None:
        """On which directions are merged; None: they are not."""
        return self._dedupe_grid

    @property
    def shots(self) -> int | None:
        """Per execution; None: exact, or left to the given estimator."""
        if self._precision is None:
            return self.destination.default_shots
        return shots_of(self._precision) if self._precision else None

    def prepare(self, spec: LayerSpec) -> Prepared:
        """The circuit of a layer as it is sent, checked against the exact engine; made once.

        Raises:
            BackendError: the circuit does not fit on the backend.
            EngineError: the transpiled circuit does not compute the same.
        """
        return self._make_ready(spec).prepared

    def adopt(self, spec: LayerSpec, prepared: Prepared) -> None:
        """Use a circuit that `prepare` made before, perhaps in another process.

        Its encoder is the engine's own, or one that this falls back to.

        Raises:
            EngineError: it was made for another encoder.
        """
        count = len(prepared.parts[0].parameters) - len(prepared.parts[0].columns)
        encoder = self._encoders.adopt(spec, count, prepared.parts[0].encoder)
        if encoder is None:
            raise EngineError(
                f"Expected a circuit whose encoder is {self._encoders.name} on "
                f"{spec.num_qubits} qubits, or follows on it; got one that takes {count} angles. "
                "Give the encoder that it was made with."
            )
        self._ready[spec.measured_circuit] = _Ready(encoder, prepared, None)

    def forget(self, spec: LayerSpec) -> None:
        """Prepare the circuit of a layer anew when it is needed next."""
        self._ready.pop(spec.measured_circuit, None)

    def encoder(self, spec: LayerSpec) -> str:
        """Name of the encoder that a layer has now."""
        return self._encoders.of(spec).name

    def fall_back(self, spec: LayerSpec) -> bool:
        """Encode a layer from now on as its encoder's `fallback` does; its circuit is another one.

        Returns:
            Whether there is one: False changes nothing.
        """
        if not self._encoders.fall_back(spec):
            return False
        self.forget(spec)
        return True

    def forecast(self, spec: LayerSpec, num_pixels: int) -> Forecast:
        """What a forward pass of so many pixels would send.

        Raises:
            BackendError: the circuit does not fit on the backend.
        """
        prepared = self.prepare(spec)
        num_rows, shots = num_pixels * spec.num_kernels, self.shots
        num_columns = len(prepared.parts[0].parameters)
        references = self._num_references
        parts, seconds = plan_parts(
            num_rows, num_columns, num_references=references, **self._bounds(prepared)
        )
        predicted = None if seconds is None else sum(seconds)
        executions = sum(part.stop - part.start for part in parts)
        return Forecast(executions, len(parts), shots, predicted)

    def evs(self, call: LayerCall) -> Tensor:
        """See `Engine.evs`. Computed in float64 on the host.

        Raises:
            EngineError: the estimator failed (the original error is chained), or returned values of
                another shape or values that are not finite.
            BudgetError: more QPU time than allowed; nothing was sent.
        """
        num_pixels, num_kernels, _ = call.shape
        found = self._evaluate(call, *_asked_for(call))
        evs, stds = (
            by_pixel_and_kernel(a, num_pixels, num_kernels) for a in (found.evs, found.stds)
        )
        self._report(call, found, "evs", stds)
        return torch.from_numpy(evs).to(call.pixels)

    def plan(self, call: LayerCall) -> JobPlan:
        """The jobs of a forward pass; nothing is sent.

        Args:
            call: what `evs` would be asked, of a pixel or more.

        Raises:
            FitFailed: the layer's encoder cannot prepare a direction; `fall_back` helps.
        """
        return self._plan(call, *_asked_for(call))

    def seconds(self, spec: LayerSpec, num_executions: int) -> float | None:
        """Predicted QPU seconds of one job of a layer; None: not known, or no device."""
        prepared = self.prepare(spec)
        return self.destination.cost(prepared, self.shots or 0).seconds(num_executions)

    def deal(self, spec: LayerSpec, num_rows: int) -> Deal:
        """Executions of so many rows of a layer, and the jobs that they make; nothing is sent."""
        prepared = self.prepare(spec)
        return deal_rows(
            num_rows,
            len(prepared.parts[0].parameters),
            num_references=self._num_references,
            **self._bounds(prepared),
        )

    def vjp(
        self,
        call: LayerCall,
        grad: Tensor,
        wrt: tuple[bool, bool] = (True, True),
        *,
        residuals: object = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Engine.vjp`; `last_report.stds` are the gradients' standard errors."""
        outer = grad.detach().cpu().to(torch.float64).numpy()
        plan, found = self._gradient(call, (outer != 0).any(2), wrt)
        values = Values(found.evs, found.stds, found.which)
        gradients = vector_jacobian(plan, values, outer)
        stds = (None if g is None else g[1] for g in gradients)
        self._report(call, found, "vjp", *stds)
        by_pixels, by_weights = (
            None if g is None else torch.from_numpy(g[0]).to(call.pixels) for g in gradients
        )
        return by_pixels, by_weights

    def jacobian(
        self, call: LayerCall, wrt: tuple[bool, bool] = (True, True)
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Engine.jacobian`; costs as much as one `vjp`."""
        plan, found = self._gradient(call, np.ones(call.shape[:2], bool), wrt)
        derivatives = jacobian(plan, Values(found.evs, found.stds, found.which))
        self._report(call, found, "jacobian")
        by_pixels, by_weights = (
            None if d is None else torch.from_numpy(d).to(call.pixels) for d in derivatives
        )
        return by_pixels, by_weights

    def _gradient(
        self, call: LayerCall, active: np.ndarray, wrt: tuple[bool, bool]
    ) -> tuple[Gradient, _Found]:
        pixels = call.pixels.detach().cpu()
        plan = plan_gradient(
            call.spec,
            pixels.to(torch.float64).numpy(),
            largest_magnitudes(pixels)[1].numpy(),
            call.weights.detach().cpu().to(torch.float64).numpy(),
            active,
            wrt,
            method=self._gradients,
            rng=self._rng,
        )
        return plan, self._evaluate(call, plan.directions, plan.angles, plan.pairs)

    def _evaluate(
        self, call: LayerCall, directions: Array, angles: Array, pairs: Indices
    ) -> _Found:
        """Values of rows, given as pairs of directions (D, C) and angles (B, R)."""
        spec = call.spec
        if len(pairs) == 0:
            nothing = np.zeros((0, spec.num_maps))
            return _Found(nothing, nothing, np.zeros(0, np.intp))
        num_fallbacks = 0
        while True:
            try:
                plan = self._plan(call, directions, angles, pairs)
                break
            except FitFailed as error:
                num_fallbacks = num_fallbacks or error.num_failed
                if not self.fall_back(spec):
                    raise
        self._check_budget(plan)
        ready = self._make_ready(spec)
        values = self._run(spec, ready, plan)
        measured = features(ready.prepared, values.evs, values.stds, self.shots)
        found = unpack(plan, *measured, applies=self._calibrates)
        which = plan.which
        return _Found(
            found.evs[which],
            found.stds[which],
            which,
            plan,
            ready,
            values.job_ids,
            found.calibrations,
            num_fallbacks,
        )

    def _plan(self, call: LayerCall, directions: Array, angles: Array, pairs: Indices) -> JobPlan:
        ready = self._make_ready(call.spec)
        references = self._references(call, ready)
        angles = angles[:, list(ready.prepared.parts[0].columns)]
        if self._dedupe_grid is not None:  # shifts of angles that left the circuit change nothing
            angles, which = unique_rows(angles)
            pairs = np.stack([pairs[:, 0], which[pairs[:, 1]]], axis=1)
        return plan_jobs(
            ready.encoder,
            directions,
            angles,
            pairs,
            grid=self._dedupe_grid,
            references=references,
            **self._bounds(ready.prepared),
        )

    def _references(self, call: LayerCall, ready: _Ready) -> ReferenceRows | None:
        """Rows with known answers, of the kernels as they are now."""
        if not self._num_references:
            return None
        ansatz, kernels = call.spec.ansatz, call.weights.detach().cpu().to(torch.float64)
        found = reference_directions(
            unitaries(ansatz, kernels).numpy(), self._num_references, call.spec.z_strings
        )
        angles = ansatz.angles(kernels.numpy())[found.kernels]
        columns = list(ready.prepared.parts[0].columns)
        return ReferenceRows(found.directions, angles[:, columns], found.exact)

    def _run(self, spec: LayerSpec, ready: _Ready, plan: JobPlan) -> RowValues:
        from qpc_qiskit.backends.jobs import run_plan

        if ready.estimator is None:
            ready = replace(ready, estimator=self.destination.connect(ready.prepared))
            self._ready[spec.measured_circuit] = ready
        assert ready.estimator is not None

        def count(job: int) -> None:  # what was sent is paid for, whatever becomes of it
            self.total_pubs += 1
            self.total_executions += plan.parts[job].stop - plan.parts[job].start
            self.total_predicted_qpu_seconds += 0.0 if plan.seconds is None else plan.seconds[job]

        return run_plan(
            self.destination,
            ready.prepared,
            ready.estimator,
            plan,
            self._precision,
            next_seed=self._next_job_seed,
            on_sent=count,
        )

    def _make_ready(self, spec: LayerSpec) -> _Ready:
        key = spec.measured_circuit
        if key not in self._ready:
            if 0 < self._num_references < 2 * spec.num_maps:
                raise ValueError(
                    f"num_references must be at least {2 * spec.num_maps} for "
                    f"{spec.num_qubits} qubits (a largest and a smallest value of each), or 0, got "
                    f"{self._num_references}."
                )
            encoder = self._encoders.of(spec)
            template = make_template(
                encoder, spec.ansatz, spec.observables, absorbs_tail=self._absorbs_tail
            )
            prepared = self.destination.prepare(template)
            if self.destination.is_transpiled:
                _check_against_exact(spec, encoder, template, prepared)
            self._ready[key] = _Ready(encoder, prepared, None)
        return self._ready[key]

    def _bounds(self, prepared: Prepared) -> dict[str, Any]:
        """Arguments of `plan_parts`."""
        destination, shots = self.destination, self.shots
        return {
            "limits": self._limits or destination.limits,
            "cost": destination.cost(prepared, shots or 0),
            "bytes_per_shot": prepared.template.circuit.num_qubits * destination.keeps_shots,
            "num_patches": prepared.num_patches,
        }

    def _check_budget(self, plan: JobPlan) -> None:
        if self._max_qpu_seconds is None:
            return
        predicted = plan.total_seconds
        if predicted is None:
            raise BudgetError(
                f"max_qpu_seconds is set, but what rows take on {self.destination.name} with these "
                "options is not known; nothing was sent. Leave it out for a backend without a "
                "price."
            )
        total = self.total_predicted_qpu_seconds + predicted
        if total > self._max_qpu_seconds:
            raise BudgetError(
                f"{len(plan.slots)} executions of {self.shots} shots would take about "
                f"{predicted:.0f} s on {self.destination.name}, {total:.0f} s with what this "
                f"engine sent before, and max_qpu_seconds is {self._max_qpu_seconds:g}; nothing "
                "was sent. Take fewer images or shots, or raise it."
            )

    def _report(self, call: LayerCall, found: _Found, what: str, *stds: Array | None) -> None:
        known = [a[np.isfinite(a)] for a in stds if a is not None]
        report = EstimatorReport(
            engine=self.name,
            what=what,
            backend=self.destination.name,
            num_pixels=len(call.pixels),
            num_kernels=call.spec.num_kernels,
            num_rows=len(found.which),
            num_executions=0 if found.plan is None else len(found.plan.slots),
            num_pubs=0 if found.plan is None else len(found.plan.parts),
            precision=self._precision,
            shots=self.shots,
            max_std=max((float(a.max()) for a in known if a.size), default=None),
            num_unknown_stds=sum(int((~np.isfinite(a)).sum()) for a in stds if a is not None),
            stds=tuple(None if a is None else torch.from_numpy(a) for a in stds),
            job_ids=found.job_ids,
            predicted_qpu_seconds=None if found.plan is None else found.plan.total_seconds,
            dedupe_grid=self._dedupe_grid,
            encoder=self._encoders.name if found.plan is None else self.encoder(call.spec),
            num_fallbacks=found.num_fallbacks,
            max_encoding_error=_encoding_error(found.plan),
            num_references=self._num_references,
            calibration=_calibration_of(found.calibrations, applied=self._calibrates),
            about=self.destination.about,
        )
        placements = () if found.ready is None else found.ready.prepared.placements
        if placements:
            placement = placements[0]
            report = replace(
                report,
                patch=placement.patch.qubits,
                layout=placement.layout,
                predicted_fidelity=placement.patch.fidelity,
                num_two_qubit_gates=placement.num_two_qubit_gates,
                two_qubit_depth=placement.two_qubit_depth,
                patches=tuple(each.patch.qubits for each in placements),
            )
        self.last_report = report  # its cost was counted as it was sent

    def _next_job_seed(self) -> int:
        """A seed for each job, so that jobs of one engine do not share their shot noise."""
        self._num_jobs += 1
        return int(np.random.SeedSequence([self._seed or 0, self._num_jobs]).generate_state(1)[0])

    def __getstate__(self) -> dict[str, object]:
        """Refuse to write a live primitive, and the credentials it may hold, into a pickle."""
        if self._estimator is not None or self._is_from_backend:
            raise EngineError(
                f"An engine for {self.destination.name} is a live connection and cannot be "
                "pickled. Save the layer's state_dict instead, or set its engine to 'exact' first."
            )
        return {**self.__dict__, "_destination": None, "_ready": {}}


def _asked_for(call: LayerCall) -> tuple[Array, Array, Indices]:
    """Directions, angles and pairs of a forward pass; see `plan_jobs`."""
    directions = canonical_directions(call.pixels.detach().cpu()).numpy()
    angles = call.spec.ansatz.angles(call.weights.detach().cpu().numpy())
    return directions, angles, product_pairs(len(call.pixels), call.spec.num_kernels)


def _encoding_error(plan: JobPlan | None) -> float:
    """How far a feature may be from that of the direction which was to be encoded."""
    if plan is None or not len(plan.infidelity):
        return 0.0
    return float(error_bound(torch.from_numpy(plan.infidelity)).max())


def _calibration_of(
    calibrations: Sequence[Calibration], *, applied: bool
) -> CalibrationReport | None:
    """What the reference rows of all jobs say, as plain values."""
    if not calibrations:
        return None
    known = [each.is_calibrated for each in calibrations]
    return CalibrationReport(
        applied=applied,
        scale=tuple(tuple(map(tuple, each.scale.tolist())) for each in calibrations),
        offset=tuple(tuple(map(tuple, each.offset.tolist())) for each in calibrations),
        num_not_calibrated=sum(int((~each).sum()) for each in known),
        bad_patches=tuple(bad_patches(each) for each in calibrations),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """Values of rows as they were asked for, and how they came about."""

    evs: Array
    """(M, m)."""
    stds: Array
    """(M, m)."""
    which: Indices
    """(M,) the execution that each comes from."""
    plan: JobPlan | None = None
    """None: nothing was asked for."""
    ready: _Ready | None = None
    job_ids: tuple[str, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    num_fallbacks: int = 0
    """Directions that the encoder could not prepare; another one did."""


def _checked_budget(max_qpu_seconds: float | None) -> float | None:
    if max_qpu_seconds is None:
        return None
    if isinstance(max_qpu_seconds, int | float) and 0 <= max_qpu_seconds < math.inf:
        return max_qpu_seconds
    raise ValueError(
        "max_qpu_seconds must be a finite number of seconds >= 0, or None, got "
        f"{max_qpu_seconds!r}."
    )


def _check_against_exact(
    spec: LayerSpec, encoder: Encoder, template: Template, prepared: Prepared
) -> None:
    """Compare the transpiled circuit, without noise, with the exact engine on a few random rows."""
    from qpc_qiskit.devices.isa import check_equivalence
    from qpc_qiskit.devices.patches import embed_observables

    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(size=(EQUIVALENCE_ROWS, spec.in_channels)))
    weights = rng.uniform(0, 2 * np.pi, size=(1, spec.num_weights))
    one = replace(spec, num_kernels=1)
    exact = ExactEngine().evs(LayerCall(one, pixels, torch.from_numpy(weights)))
    encoded = encoder.encode(canonical_directions(pixels))
    finals = [each.final for each in prepared.placements]
    distinct = {id(part.circuit): j for j, part in enumerate(prepared.parts)}
    for j in distinct.values():
        part = prepared.parts[j]
        observables: Sequence[SparsePauliOp] = part.observables
        if prepared.inversions:  # others are measured, to be combined
            observables = template.observables
            if finals:
                observables = embed_observables(observables, finals[j], part.circuit.num_qubits)
        rows = Rows(
            encoded.angles.numpy(),
            spec.ansatz.angles(weights)[:, list(part.columns)],
            product_pairs(EQUIVALENCE_ROWS, 1),
        )
        check_equivalence(
            part.circuit,
            part.parameters,
            observables,
            rows.values(),
            exact[:, 0].numpy(),
            EQUIVALENCE_ATOL + float(error_bound(encoded.infidelity).max()),
        )
