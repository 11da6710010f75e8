"""What a run will send and cost, before anything is sent.

The exact forward pass shows each quantum layer's pixels; the estimator engine that will send them
plans their rows and jobs. Nothing is sent, no account is needed for a snapshot, and everything that
a prediction stands on is said in a sentence (`RunPlan.assumptions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from qiskit.providers import BackendV2
from torch import Tensor

from hardware_runs.assumptions import assumptions
from hardware_runs.dispatch import MARGIN, cap_seconds
from qpc_qiskit.connector import use_engine
from qpc_qiskit.engines import Engine, EstimatorEngine, ExactEngine
from qpc_qiskit.errors import BudgetError, EngineError
from qpc_qiskit.execution.forecast import JobCost
from qpc_qiskit.execution.opening import AER
from qpc_qiskit.execution.planning import plan_parts
from qpc_qiskit.execution.pubs import GRID
from qpc_qiskit.spec import LayerSpec

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What a quantum layer will send in a run."""

    name: str
    """In the network."""
    num_pixels: int
    """That it reads."""
    num_kernels: int
    """Circuits that evaluate each pixel."""
    num_qubits: int
    """Of a circuit."""
    num_rows: int
    """Pixels times kernels."""
    num_executions: int
    """Rows left when those of equal direction are merged; each is run with all its shots."""
    num_jobs: int
    shots: int | None
    """Asked for, of each execution; None: exact values."""
    shots_per_execution: int
    """Executed, with those that twirling and extrapolation add; 0: exact values."""
    shots_per_job: int
    """Executed besides, to calibrate readout."""
    patch: tuple[int, ...] | None
    """Qubits of the device; None: no device."""
    num_two_qubit_gates: int | None
    two_qubit_depth: int | None
    predicted_fidelity: float | None
    """Of the circuit, readout included."""
    circuit_seconds: float | None
    """Gates and measurement of one shot."""
    reset_seconds: float | None
    rep_delay_seconds: float | None
    """Between shots."""
    seconds_per_shot: float | None
    """All of it, with what mitigation adds; None: not known, or no device."""
    qpu_seconds: float | None
    """Of all jobs."""
    reserved_seconds: int
    """Caps of all jobs: what the budget holds back until the real usage is known."""


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """The same run with other numbers, scaled from the plan."""

    num_images: int
    shots: int
    pooling: int
    """Each layer reads the means of squares of pooling x pooling positions; 1: as it is."""
    num_executions: int
    num_jobs: int
    qpu_seconds: float | None
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run will send and cost."""

    backend: str
    """That would run it; a snapshot stands for the device that it is of."""
    noise: str | None
    """On aer, in a word; None: none, or the backend's own."""
    mode: str
    num_images: int
    batch_size: int
    """Images per call of the network; a job holds rows of one call."""
    layers: tuple[LayerPlan, ...]
    rate: float | None
    """Price of a second, as given."""
    max_qpu_seconds: float | None
    """Budget of the run."""
    assumptions: tuple[str, ...]
    what_if: tuple[WhatIf, ...] = ()

    @property
    def num_rows(self) -> int:
        """Of all layers, before equal directions are merged."""
        return sum(layer.num_rows for layer in self.layers)

    @property
    def num_executions(self) -> int:
        """Of all layers."""
        return sum(layer.num_executions for layer in self.layers)

    @property
    def num_jobs(self) -> int:
        """Of all layers."""
        return sum(layer.num_jobs for layer in self.layers)

    @property
    def shots(self) -> int | None:
        """Asked for, of each execution; None: exact values."""
        return self.layers[0].shots if self.layers else None

    @property
    def qpu_seconds(self) -> float | None:
        """Of all layers; None: not known, or no device."""
        return _sum(layer.qpu_seconds for layer in self.layers)

    @property
    def reserved_seconds(self) -> int:
        """A budget that cannot be too small, if every forecast is right up to the margin."""
        return sum(layer.reserved_seconds for layer in self.layers)

    @property
    def cost(self) -> float | None:
        """In the currency of the rate; None: no rate, or the time is not known."""
        return _times(self.qpu_seconds, self.rate)

    @property
    def is_within_budget(self) -> bool | None:
        """Whether the predicted time fits; None: no budget, or the time is not known."""
        if self.max_qpu_seconds is None or self.qpu_seconds is None:
            return None
        return self.qpu_seconds <= self.max_qpu_seconds

    def check_budget(self) -> None:
        """Check that the predicted time is allowed.

        Raises:
            BudgetError: it is not, or there is a budget and the time is not known.
        """
        if self.max_qpu_seconds is None or self.is_within_budget:
            return
        if self.qpu_seconds is None:
            raise BudgetError(
                f"Nothing was sent: there is a budget of {self.max_qpu_seconds:g} s, and what the "
                f"run takes on {self.backend} with these options is not known."
            )
        raise BudgetError(
            f"Nothing was sent: about {self.qpu_seconds:,.1f} s of QPU time on {self.backend} are "
            f"predicted, and the budget is {self.max_qpu_seconds:g} s. Take fewer images or shots, "
            "or raise it."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, totals included."""
        totals = ("num_rows", "num_executions", "num_jobs", "shots", "qpu_seconds")
        more = ("reserved_seconds", "cost", "is_within_budget")
        return asdict(self) | {name: getattr(self, name) for name in (*totals, *more)}


def planning_engine(
    backend: str | BackendV2,
    *,
    mode: str = "job",
    shots: int | None = None,
    precision: float | None = None,
    resilience: int = 0,
    noise_model: NoiseModel | str | None = None,
    options: dict[str, Any] | None = None,
    dedupe_grid: float | None = GRID,
) -> EstimatorEngine:
    """An engine that plans as for the device itself; it must not send.

    Args:
        backend: see `EstimatorEngine.from_backend`. A snapshot is planned for as if it were the
            device: circuits of its full width, jobs as large as the service takes them; unless
            exact values are asked for, which no device gives.
        mode: job, batch or session.
        shots: per execution.
        precision: instead of shots.
        resilience: IBM's level.
        noise_model: on aer.
        options: of what runs the circuits.
        dedupe_grid: on which equal directions are merged; None: they are not.

    Raises:
        BackendError: unknown backend, or no access to it.
        ValueError: an argument that is wrong, or has no effect on this backend.
    """
    from qpc_qiskit.execution import runtime

    asked = EstimatorEngine.from_backend(
        backend,
        mode=mode,
        shots=shots,
        precision=precision,
        resilience=resilience,
        noise_model=noise_model,
        options=options,
        dedupe_grid=dedupe_grid,
    )
    if backend == AER or asked.precision == 0:
        return asked
    found = runtime.find_backend(backend) if isinstance(backend, str) else backend
    if not runtime.is_fake(found):
        return asked
    twin = runtime.device(found, mode=mode, resilience=resilience, options=options)
    return EstimatorEngine(precision=asked.precision, dedupe_grid=dedupe_grid, _destination=twin)


def make_plan(
    model: torch.nn.Module,
    batches: Iterable[Tensor],
    estimator: EstimatorEngine,
    *,
    mode: str = "job",
    max_qpu_seconds: float | None = None,
    rate: float | None = None,
    margin: float = MARGIN,
    batch_size: int | None = None,
    noise: str | None = None,
) -> RunPlan:
    """Plan a forward pass of a model.

    Args:
        model: any module with quantum layers, in evaluation mode.
        batches: its arguments, one for each call.
        estimator: from `planning_engine`.
        mode: job, batch or session.
        max_qpu_seconds: budget of the run.
        rate: price of a second of QPU time, if it is to be told.
        margin: a job is ended by the service after this many times its forecast.
        batch_size: images per call of a longer run; None: of the largest batch.
        noise: on aer, in a word.

    Raises:
        BackendError: a circuit does not fit on the backend.
        EngineError: there are no images, or one row exceeds what a job may hold.
    """
    planner = _Planner(estimator, margin)
    num_images, largest = 0, 0
    with torch.no_grad(), use_engine(model, planner):
        for batch in batches:
            model(batch)
            num_images += len(batch)
            largest = max(largest, len(batch))
    if not num_images:
        raise EngineError("There is nothing to plan: expected at least one image.")
    calls = planner.calls
    names = list(dict.fromkeys(call.layer.name for call in calls))
    layers = tuple(_summed([c.layer for c in calls if c.layer.name == name]) for name in names)
    plan = RunPlan(
        backend=estimator.destination.name,
        noise=noise,
        mode=mode,
        num_images=num_images,
        batch_size=max(largest, batch_size or 0),
        layers=layers,
        rate=rate,
        max_qpu_seconds=max_qpu_seconds,
        assumptions=(),
    )
    jobs_of = {call.layer.name: call.jobs_of for call in calls}
    return replace(
        plan,
        assumptions=tuple(assumptions(plan, estimator, margin)),
        what_if=what_if(plan, jobs_of),
    )


JobsOf = Callable[[int, int], tuple[int, float | None]]
"""Executions, shots -> jobs and predicted QPU seconds, of one call of a layer."""


def what_if(plan: RunPlan, jobs_of: dict[str, JobsOf]) -> tuple[WhatIf, ...]:
    """The run with a quarter and four times the images and shots, and with pooled positions.

    Executions are scaled from the plan, so that they are what this plan's images would give on
    average.

    Args:
        plan: whose numbers are scaled.
        jobs_of: by name of the layer.
    """
    if plan.shots is None or plan.qpu_seconds is None:
        return ()
    images = [n for n in (plan.num_images // 4, plan.num_images, 4 * plan.num_images) if n]
    shots = [s for s in (plan.shots // 4, plan.shots, 4 * plan.shots) if s]
    positions = [layer.num_pixels / plan.num_images for layer in plan.layers]
    poolings = (1, 2) if all(p >= 4 for p in positions) else (1,)
    return tuple(
        _scaled(plan, jobs_of, num_images, num_shots, pooling)
        for num_images in images
        for num_shots in shots
        for pooling in poolings
    )


def _scaled(
    plan: RunPlan, jobs_of: dict[str, JobsOf], num_images: int, shots: int, pooling: int
) -> WhatIf:
    full, rest = divmod(num_images, plan.batch_size)
    executions = jobs = 0
    seconds: list[float | None] = []
    for layer in plan.layers:
        each = layer.num_executions / plan.num_images / pooling**2
        for num_calls, size in ((full, plan.batch_size), (1, rest)):
            if not num_calls or not size:
                continue
            per_call = math.ceil(each * size)
            num_jobs, predicted = jobs_of[layer.name](per_call, shots)
            executions += num_calls * per_call
            jobs += num_calls * num_jobs
            seconds.append(_times(predicted, num_calls))
    total = _sum(seconds)
    return WhatIf(
        num_images=num_images,
        shots=shots,
        pooling=pooling,
        num_executions=executions,
        num_jobs=jobs,
        qpu_seconds=total,
        cost=_times(total, plan.rate),
    )


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a layer."""

    layer: LayerPlan
    jobs_of: JobsOf


class _Planner(Engine):
    """Answers as the exact engine does, and plans what the estimator would send."""

    name = "plan"
    has_gradients = False

    def __init__(self, estimator: EstimatorEngine, margin: float) -> None:
        super().__init__()
        self.estimator, self.margin = estimator, margin
        self.calls: list[_Call] = []

    def for_layer(self, name: str) -> Engine:
        return _LayerPlanner(self, name)

    def evs(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        raise EngineError("A plan tells layers by name.")


class _LayerPlanner(Engine):
    name = _Planner.name
    has_gradients = False

    def __init__(self, planner: _Planner, layer: str) -> None:
        super().__init__()
        self._planner, self._layer = planner, layer
        self._exact = ExactEngine()

    def evs(self, spec: LayerSpec, pixels: Tensor, weights: Tensor) -> Tensor:
        if len(pixels):
            call = _planned(self._planner, self._layer, spec, pixels, weights)
            self._planner.calls.append(call)
        return self._exact.evs(spec, pixels, weights)


def _planned(
    planner: _Planner, name: str, spec: LayerSpec, pixels: Tensor, weights: Tensor
) -> _Call:
    """As the durable engine does: in float64 on the host."""
    estimator = planner.estimator
    destination = estimator.destination
    rows, kernels = (a.detach().cpu().to(torch.float64) for a in (pixels, weights))
    plan = estimator.plan(spec, rows, kernels)
    prepared = estimator.prepare(spec)
    shots = estimator.shots
    cost: JobCost = destination.cost(prepared, shots or 0)
    placement, times = prepared.placement, prepared.times
    seconds = plan.seconds
    layer = LayerPlan(
        name=name,
        num_pixels=len(pixels),
        num_kernels=spec.num_kernels,
        num_qubits=spec.num_qubits,
        num_rows=len(plan.which),
        num_executions=len(plan.slots),
        num_jobs=len(plan.parts),
        shots=shots,
        shots_per_execution=cost.shots_per_row,
        shots_per_job=cost.shots_per_job,
        patch=None if placement is None else placement.patch.qubits,
        num_two_qubit_gates=None if placement is None else placement.num_two_qubit_gates,
        two_qubit_depth=None if placement is None else placement.two_qubit_depth,
        predicted_fidelity=None if placement is None else placement.patch.fidelity,
        circuit_seconds=None if times is None else times.circuit,
        reset_seconds=None if times is None else times.reset,
        rep_delay_seconds=None if times is None else times.rep_delay,
        seconds_per_shot=cost.seconds_per_shot,
        qpu_seconds=plan.total_seconds,
        reserved_seconds=sum(cap_seconds(each, planner.margin) for each in seconds or ()),
    )
    columns = plan.rows.num_columns

    def jobs_of(num_rows: int, shots: int) -> tuple[int, float | None]:
        other = destination.cost(prepared, shots)
        parts, told = plan_parts(
            num_rows,
            columns,
            limits=destination.limits,
            cost=other,
            bytes_per_shot=prepared.template.circuit.num_qubits * destination.keeps_shots,
            num_patches=prepared.num_patches,
            num_references=estimator.num_references,
        )
        return len(parts), None if told is None else sum(told)

    return _Call(layer, jobs_of)


_ADDED = ("num_pixels", "num_rows", "num_executions", "num_jobs", "reserved_seconds")


def _summed(calls: Sequence[LayerPlan]) -> LayerPlan:
    """All calls of one layer."""
    sums = {name: sum(getattr(call, name) for call in calls) for name in _ADDED}
    return replace(calls[0], **sums, qpu_seconds=_sum(call.qpu_seconds for call in calls))


def _sum(values: Iterable[float | None]) -> float | None:
    told = list(values)
    known = [value for value in told if value is not None]
    return math.fsum(known) if len(known) == len(told) else None


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor
