"""What the prediction of a plan stands on, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hardware_runs.durable_engine.dispatch import POSTS_PER_MINUTE
from qpc_qiskit.backends.named import AER
from qpc_qiskit.devices.forecast import SECONDS_PER_JOB
from qpc_qiskit.options.economy import PLAIN

if TYPE_CHECKING:
    from hardware_runs.planning.plan import LayerPlan, RunPlan
    from qpc_qiskit.engines import EstimatorEngine


def assumptions(plan: RunPlan, estimator: EstimatorEngine, margin: float) -> Iterator[str]:
    """Everything that a plan's prediction stands on, a sentence each.

    Args:
        plan: without them.
        estimator: that planned it.
        margin: a job is ended by the service after this many times its forecast.
    """
    about = estimator.destination.about
    grid = estimator.dedupe_grid
    if grid is None:
        yield "Every pixel is run on its own, as asked for (--no-dedupe)."
    else:
        yield (
            "Pixels of one call whose directions agree on a grid of 2^"
            f"{math.log2(grid):.0f} are run once; a call has {plan.batch_size} images at most."
        )
    if len(plan.layers) > 1:
        yield (
            f"Rows of {', '.join(layer.name for layer in plan.layers[1:])} follow from exact "
            "values of the layers before; values of a device differ, so fewer of them merge."
        )
    yield from _economy(plan)
    if plan.backend == AER:
        if plan.qpu_seconds is not None:
            yield f"The QPU time told is what {plan.noise} itself would take."
        yield "aer is a simulator: it has no QPU time and no price."
        return
    first = plan.layers[0]
    if first.rep_delay_seconds is None:
        yield f"{plan.backend} does not tell durations or a repetition delay: no time is predicted."
        return
    yield (
        f"QPU time of a job is {SECONDS_PER_JOB:g} s and, for every shot, repetition delay, reset "
        "and circuit: IBM's documentation, page 'Workload usage'."
    )
    yield (
        f"The repetition delay is the backend's default, {1e6 * first.rep_delay_seconds:g} us, "
        f"unless the Estimator's options say otherwise; reset takes "
        f"{1e6 * (first.reset_seconds or 0):.2g} us."
    )
    yield (
        "Gate times and errors, and so the choice of qubits, are those of the calibration of "
        f"{about.get('calibration_time') or 'an unknown time'}."
    )
    yield from _mitigation(plan, first, about.get("resilience"))
    yield (
        f"Each job is ended by the service after {margin:g} times its forecast, rounded up to "
        f"whole seconds; {plan.reserved_seconds:,} s in all if every job did that. A budget holds "
        "that back for a job until its real usage is known."
    )
    yield f"At most {POSTS_PER_MINUTE} jobs are sent in a minute; time in the queue is not known."
    if plan.mode == "session":
        yield (
            "A session is billed by the clock from its first job to its end, not by this sum: "
            "waiting for classical layers and for the next job costs as well."
        )
    if plan.rate is not None:
        yield f"A second of QPU time is priced at {plan.rate:g}, as given; it is not IBM's list."
    if plan.backend.startswith("fake_"):
        yield (
            f"{plan.backend} stands for the device that it is a snapshot of; `qpc run submit` "
            "simulates it here, in smaller jobs, at no price."
        )
    yield "None of this was verified on a device."


def _economy(plan: RunPlan) -> Iterator[str]:
    """Of short circuits, packing and calibration."""
    economy, first = plan.economy, plan.layers[0]
    if economy.encoder != PLAIN.encoder:
        yield (
            f"Angles of the {economy.encoder} encoder are fitted on this machine when rows are "
            "frozen, not for this plan; a pixel that cannot be fitted well enough (none of 50,000 "
            "was seen) moves the rows of its call and later ones to a deeper one, at last to the "
            "multiplexor."
        )
    if first.inverts_readout:
        yield (
            "Parities are freed of readout errors by the assignment errors that the calibration "
            "tells of each qubit; what they are when a job runs may differ."
        )
    most = max(len(layer.patches) for layer in plan.layers)
    if most > 1:
        apart = f"{economy.gap} or more unused qubits apart" if economy.gap else "with no gap"
        yield (
            f"Rows run on up to {most} patches at a time, {apart}. Each patch is predicted as if "
            "it were alone: crosstalk between them is neither in the prediction nor in a "
            "simulation."
        )
    if not economy.num_references:
        return
    share = sum(layer.num_references * layer.num_jobs for layer in plan.layers)
    yield (
        f"Every job runs {economy.num_references} reference rows with known answers on every "
        f"patch: {share:,} of the {plan.num_executions:,} executions."
    )
    if not economy.calibrate:
        yield "Values stay as measured all the same, as asked for (--no-calibrate)."
        return
    yield (
        "Values are corrected by a line, scale and offset, for each job, patch and qubit. Such a "
        "linear error model is exact for readout errors of single qubits and for depolarizing "
        "noise of one strength in all rows, and an approximation for all other noise; a qubit "
        "whose line is not certain enough stays as measured."
    )


def _mitigation(plan: RunPlan, layer: LayerPlan, resilience: object) -> Iterator[str]:
    if layer.shots is None:
        return
    if layer.shots_per_execution == layer.shots and not layer.shots_per_job:
        yield f"Resilience level {resilience}: nothing is executed besides the shots asked for."
        return
    calibration = (
        f", and every job {layer.shots_per_job:,} shots to calibrate readout"
        if layer.shots_per_job
        else ""
    )
    yield (
        f"Resilience level {resilience}: every row takes {layer.shots_per_execution:,} shots for "
        f"the {layer.shots:,} asked for (twirls, and noise factors of extrapolation)"
        f"{calibration}."
    )
