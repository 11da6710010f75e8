"""What a run will send and cost, before anything is sent.

The exact forward pass shows each quantum layer's pixels; the estimator engine that will send them
plans their rows and jobs. Nothing is sent, no account is needed for a snapshot, and everything that
a prediction stands on is said in a sentence (`RunPlan.assumptions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from qiskit.providers import BackendV2
from torch import Tensor

from hardware_runs.planning.assumptions import assumptions
from hardware_runs.planning.comparison import (
    Call,
    Choice,
    OpenEngine,
    Sent,
    compared,
    product_of,
    sent,
    total_of,
)
from qpc_qiskit.backends.named import AER, find_backend, is_fake
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.spec import LayerSpec
from qpc_qiskit.circuits.tail import absorb_tail
from qpc_qiskit.connector import use_engine
from qpc_qiskit.devices.forecast import MARGIN, JobCost, cap_seconds
from qpc_qiskit.engines import Engine, EstimatorEngine, ExactEngine, LayerCall
from qpc_qiskit.errors import BudgetError, EngineError
from qpc_qiskit.options.economy import PLAIN, Economy
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.rows.pubs import merge_directions


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
    num_unique_rows: int
    """Left when rows of equal direction are merged."""
    num_executions: int
    """Of circuits, each with all its shots: a row on every patch; reference rows included."""
    num_references: int
    """Reference rows that each job runs on every patch."""
    num_jobs: int
    encoder: str
    num_absorbed: int | None
    """Gates at the end of the ansatz that became parities; None: that was not asked for."""
    num_absorbed_two_qubit: int | None
    """Of these on two qubits."""
    inverts_readout: bool
    """Whether readout errors of parities are taken out by what the calibration tells of them."""
    shots: int | None
    """Asked for, of each execution; None: exact values."""
    shots_per_execution: int
    """Executed, with those that twirling and extrapolation add; 0: exact values."""
    shots_per_job: int
    """Executed besides, to calibrate readout."""
    patch: tuple[int, ...] | None
    """Qubits of the device, of the best patch; None: no device."""
    patches: tuple[tuple[int, ...], ...]
    """Qubits of all patches, the best first; a circuit runs a row on each."""
    fidelities: tuple[float, ...]
    """Predicted for each patch, readout included."""
    num_two_qubit_gates: int | None
    two_qubit_depth: int | None
    predicted_fidelity: float | None
    """Of the circuit on the best patch, readout included."""
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
    economy: Economy
    """How circuits are kept short, and how rows share executions."""
    assumptions: tuple[str, ...]
    choices: tuple[Choice, ...] = ()
    """The same rows, sent in other ways; empty: not compared, or no device."""
    what_if: tuple[WhatIf, ...] = ()

    @property
    def num_rows(self) -> int:
        """Of all layers, before equal directions are merged."""
        return sum(layer.num_rows for layer in self.layers)

    @property
    def num_executions(self) -> int:
        """Executions of circuits in all layers."""
        return sum(layer.num_executions for layer in self.layers)

    @property
    def num_jobs(self) -> int:
        """Jobs of all layers."""
        return sum(layer.num_jobs for layer in self.layers)

    @property
    def shots(self) -> int | None:
        """Asked for, of each execution; None: exact values."""
        return self.layers[0].shots if self.layers else None

    @property
    def qpu_seconds(self) -> float | None:
        """Of all layers; None: not known, or no device."""
        return total_of(layer.qpu_seconds for layer in self.layers)

    @property
    def reserved_seconds(self) -> int:
        """A budget that cannot be too small, if every forecast is right up to the margin."""
        return sum(layer.reserved_seconds for layer in self.layers)

    @property
    def cost(self) -> float | None:
        """In the currency of the rate; None: no rate, or the time is not known."""
        return product_of(self.qpu_seconds, self.rate)

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
        return (
            asdict(self)
            | {name: getattr(self, name) for name in (*totals, *more)}
            | {
                "economy": self.economy.to_dict(),
                "choices": [
                    asdict(choice) | {"economy": choice.economy.to_dict()}
                    for choice in self.choices
                ],
            }
        )


def planning_engine(backend: str | BackendV2 | EngineOptions, **options: Any) -> EstimatorEngine:
    """An engine that plans as for the device itself; it must not send.

    Args:
        backend: see `EstimatorEngine.from_backend`, as for the options. A snapshot is planned for
            as if it were the device: circuits of its full width, jobs as large as the service takes
            them; unless exact values are asked for, which no device gives.
        options: by keyword.

    Raises:
        BackendError: unknown backend, or no access to it.
        ValueError: an argument that is wrong, or has no effect on this backend.
    """
    from qpc_qiskit.backends.destinations import Packing

    asked = EngineOptions.of(backend, **options)
    engine = EstimatorEngine.from_backend(asked)
    if asked.backend == AER or asked.standard_error == 0:
        return engine
    found = find_backend(asked.backend) if isinstance(asked.backend, str) else asked.backend
    if not is_fake(found):
        return engine
    from qpc_qiskit.backends import runtime

    twin = runtime.device(
        found,
        mode=asked.mode,
        resilience=asked.resilience,
        options=asked.options,
        packing=Packing(num_patches=asked.num_patches, gap=asked.gap),
    )
    return EstimatorEngine(_destination=twin, **asked.of_estimator())


def make_plan(
    model: torch.nn.Module,
    batches: Iterable[Tensor],
    estimator: EstimatorEngine,
    *,
    rate: float | None = None,
    margin: float = MARGIN,
    batch_size: int | None = None,
    compare_with: OpenEngine | None = None,
    **asked: Any,
) -> RunPlan:
    """Plan a forward pass of a model.

    Args:
        model: any module with quantum layers, in evaluation mode.
        batches: its arguments, one for each call.
        estimator: from `planning_engine`.
        rate: price of a second of QPU time, if it is to be told.
        margin: a job is ended by the service after this many times its forecast.
        batch_size: images per call of a longer run; None: of the largest batch.
        compare_with: makes estimators with another economy, to compare what they would send; None:
            nothing is compared.
        asked: what the plan tells of the run: `asked`, its `EngineOptions`; or some of `mode`,
            `max_qpu_seconds` (its budget), `noise` (in a word) and `economy`.

    Raises:
        BackendError: a circuit does not fit on the backend.
        EngineError: there are no images, or one row exceeds what a job may hold.
        TypeError: something else is asked.
    """
    options = asked.pop("asked", None) or EngineOptions.of(
        asked.pop("backend", AER),
        noise_model=asked.pop("noise", None),
        **asked.pop("economy", PLAIN).model_dump() | asked,
    )
    economy = options.economy
    planner = _Planner(estimator, economy, margin)
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
        noise=options.noise_model,
        mode=options.mode,
        num_images=num_images,
        batch_size=max(largest, batch_size or 0),
        layers=layers,
        rate=rate,
        max_qpu_seconds=options.max_qpu_seconds,
        economy=economy,
        assumptions=(),
    )
    sent_of = {call.layer.name: call.sent_of for call in calls}
    choices: tuple[Choice, ...] = ()
    if compare_with is not None and layers[0].patch is not None:
        same = [Call(c.layer.name, c.spec, c.layer.num_unique_rows) for c in calls]
        choices = compared(same, economy, estimator, compare_with, rate)
    return replace(
        plan,
        assumptions=tuple(assumptions(plan, estimator, margin)),
        choices=choices,
        what_if=what_if(plan, sent_of),
    )


SentOf = Callable[[int, int], Sent]
"""Rows, shots -> what one call of a layer sends."""


def what_if(plan: RunPlan, sent_of: dict[str, SentOf]) -> tuple[WhatIf, ...]:
    """The run with a quarter and four times the images and shots, and with pooled positions.

    Rows are scaled from the plan, so that they are what this plan's images would give on average.

    Args:
        plan: whose numbers are scaled.
        sent_of: by name of the layer.
    """
    if plan.shots is None or plan.qpu_seconds is None:
        return ()
    images = [n for n in (plan.num_images // 4, plan.num_images, 4 * plan.num_images) if n]
    shots = [s for s in (plan.shots // 4, plan.shots, 4 * plan.shots) if s]
    positions = [layer.num_pixels / plan.num_images for layer in plan.layers]
    poolings = (1, 2) if all(p >= 4 for p in positions) else (1,)
    return tuple(
        _scaled(plan, sent_of, num_images, num_shots, pooling)
        for num_images in images
        for num_shots in shots
        for pooling in poolings
    )


def _scaled(
    plan: RunPlan, sent_of: dict[str, SentOf], num_images: int, shots: int, pooling: int
) -> WhatIf:
    full, rest = divmod(num_images, plan.batch_size)
    executions = jobs = 0
    seconds: list[float | None] = []
    for layer in plan.layers:
        each = layer.num_unique_rows / plan.num_images / pooling**2
        for num_calls, size in ((full, plan.batch_size), (1, rest)):
            if not num_calls or not size:
                continue
            found = sent_of[layer.name](math.ceil(each * size), shots)
            executions += num_calls * found.num_executions
            jobs += num_calls * found.num_jobs
            seconds.append(product_of(found.qpu_seconds, num_calls))
    predicted = total_of(seconds)
    return WhatIf(
        num_images=num_images,
        shots=shots,
        pooling=pooling,
        num_executions=executions,
        num_jobs=jobs,
        qpu_seconds=predicted,
        cost=product_of(predicted, plan.rate),
    )


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a layer."""

    layer: LayerPlan
    spec: LayerSpec
    sent_of: SentOf


class _Planner(Engine):
    """Answers as the exact engine does, and plans what the estimator would send."""

    name = "plan"
    has_gradients = False

    def __init__(self, estimator: EstimatorEngine, economy: Economy, margin: float) -> None:
        super().__init__()
        self.estimator, self.economy, self.margin = estimator, economy, margin
        self.calls: list[_Call] = []
        self._exact = ExactEngine()

    def evs(self, call: LayerCall) -> Tensor:
        if len(call.pixels):
            self.calls.append(_planned(self, call))
        return self._exact.evs(call)


def _planned(planner: _Planner, call: LayerCall) -> _Call:
    """As the durable engine does, up to the angles: how a row is encoded changes no number here."""
    if call.layer is None:
        raise EngineError("A plan tells layers by name.")
    estimator, economy, spec, pixels = planner.estimator, planner.economy, call.spec, call.pixels
    prepared = estimator.prepare(spec)
    shots = estimator.shots
    cost: JobCost = estimator.destination.cost(prepared, shots or 0)
    placement, times = prepared.placement, prepared.times
    num_rows = _num_unique_pixels(pixels, estimator.dedupe_grid) * spec.num_kernels
    send = partial(sent, estimator.destination, prepared, estimator.num_references)
    found = send(num_rows, shots or 0)
    tail = absorb_tail(spec.ansatz.template, spec.observables) if economy.absorb_tail else None
    layer = LayerPlan(
        name=call.layer,
        num_pixels=len(pixels),
        num_kernels=spec.num_kernels,
        num_qubits=spec.num_qubits,
        num_rows=len(pixels) * spec.num_kernels,
        num_unique_rows=num_rows,
        num_executions=found.num_executions,
        num_references=estimator.num_references,
        num_jobs=found.num_jobs,
        encoder=economy.encoder,
        num_absorbed=None if tail is None else tail.num_absorbed,
        num_absorbed_two_qubit=None if tail is None else tail.num_absorbed_two_qubit,
        inverts_readout=bool(prepared.inversions),
        shots=shots,
        shots_per_execution=cost.shots_per_row,
        shots_per_job=cost.shots_per_job,
        patch=None if placement is None else placement.patch.qubits,
        patches=tuple(each.patch.qubits for each in prepared.placements),
        fidelities=tuple(each.patch.fidelity for each in prepared.placements),
        num_two_qubit_gates=None if placement is None else placement.num_two_qubit_gates,
        two_qubit_depth=None if placement is None else placement.two_qubit_depth,
        predicted_fidelity=None if placement is None else placement.patch.fidelity,
        circuit_seconds=None if times is None else times.circuit,
        reset_seconds=None if times is None else times.reset,
        rep_delay_seconds=None if times is None else times.rep_delay,
        seconds_per_shot=cost.seconds_per_shot,
        qpu_seconds=found.qpu_seconds,
        reserved_seconds=sum(cap_seconds(each, planner.margin) for each in found.seconds or ()),
    )
    return _Call(layer, spec, send)


def _num_unique_pixels(pixels: Tensor, grid: float | None) -> int:
    """Pixels left when those of equal direction are merged, in float64 on the host."""
    if grid is None:
        return len(pixels)
    directions = canonical_directions(pixels.detach().cpu().to(torch.float64)).numpy()
    return len(merge_directions(directions, grid)[0])


_ADDED = (
    "num_pixels",
    "num_rows",
    "num_unique_rows",
    "num_executions",
    "num_jobs",
    "reserved_seconds",
)


def _summed(calls: Sequence[LayerPlan]) -> LayerPlan:
    """All calls of one layer."""
    sums = {name: sum(getattr(call, name) for call in calls) for name in _ADDED}
    return replace(calls[0], **sums, qpu_seconds=total_of(call.qpu_seconds for call in calls))
