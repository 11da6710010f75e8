"""What a run did, from its ledger and, where they are at hand, its network and images.

Whatever part of a run is there is reported, and what is missing is said first. Nothing is sent or
written to the ledger, and no figure stands on a value that was not measured.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hardware_runs.checkpoints.checkpoint_runs import Task, Work, prepare_again, task_of
from hardware_runs.checkpoints.runlog import without_secrets
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.status import RunStatus, iso_time, pixels_reached, run_status
from hardware_runs.ledger import JOB_TIMES, AttemptState, ChunkState, Ledger, Run, public
from hardware_runs.reports.features import agreement, patch_reports
from hardware_runs.reports.records import (
    JobReport,
    LayerReport,
    PatchReport,
    RunReport,
    UsageReport,
)
from hardware_runs.reports.replay import MeasuredRows, Replayed, RunReader, replay
from hardware_runs.reports.scores import Scores, scores
from qpc_qiskit.backends.jobs import JobTimes
from qpc_qiskit.common.versions import library_versions
from qpc_qiskit.errors import CheckpointError, DataError, LedgerError
from qpc_qiskit.nets import quantum_layers

_ENDED = (AttemptState.DONE, AttemptState.FAILED, AttemptState.CANCELLED)


@dataclass(frozen=True, eq=False)
class Examined:
    """A report, and the arrays that its figures are drawn from."""

    report: RunReport
    rows: tuple[MeasuredRows, ...] = field(repr=False)
    """Of each layer of which something was measured."""
    pictures: NDArray[Any] = field(repr=False)
    """(S, C, H, W) of the report's images: bytes, or floats in [0, 1]."""


def find_work(
    run: Run, model: Path | None = None, data_dir: Path | None = None
) -> tuple[Work | None, str]:
    """The network and the images of a run; None where they are not at hand, and why.

    Args:
        run: of the ledger.
        model: where the checkpoint is now.
        data_dir: where the images are now.

    Raises:
        QPCError: a folder that was given does not have them.
    """
    try:
        task_of(run)
    except LedgerError:
        if model is not None or data_dir is not None:
            raise
        return None, (
            "The run was begun by a script of its own, so its network and its images are not known "
            "here: there is no accuracy, no confusion matrix and no image."
        )
    try:
        return prepare_again(run, model, data_dir=data_dir), ""
    except (CheckpointError, DataError, ValidationError) as error:
        if model is not None or data_dir is not None:
            raise
        return None, (
            f"The network or the images are not at hand, so there is no accuracy, no confusion "
            f"matrix and no image. {error} --model and --data-dir tell where they are now."
        )


def examine(
    ledger: Ledger,
    run: Run,
    *,
    where: str,
    now: float,
    work: Work | None = None,
    why_no_work: str = "",
    num_simulated: int | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> Examined:
    """Report what a run did.

    Args:
        ledger: open.
        run: of it.
        where: the ledger is, for people; a password in it is left out.
        now: seconds since the epoch.
        work: network and images of the run; None: they are not at hand.
        why_no_work: why not.
        num_simulated: see `scores`.
        on_step: told what is going on.
    """
    on_step("Reading the ledger")
    reader = RunReader(KnownRun(ledger, run))
    state = reader.known.state
    status = _clean(run_status(state))
    jobs = tuple(_jobs(reader))
    networks = {} if work is None else quantum_layers(work.network)
    specs = {name: layer.spec for name, layer in networks.items()}
    found = [reader.rows(each.name, specs.get(each.name.split("#")[0])) for each in reader.layers]
    rows = tuple(each for each in found if each is not None)
    records = reader.patch_records()
    patches = tuple(p for each in rows for p in patch_reports(each, reader, records))
    replayed = scored = None
    if work is not None:
        on_step("Replaying what was measured")
        replayed = replay(work, reader)
        scored = scores(work, run, replayed, num_simulated=num_simulated, on_step=on_step)
    task = None if "about" not in run.settings else _task(run)
    begun = state.revisions[:1]
    num_replaced = sum(chunk.replaced_at is not None for chunk in state.all_chunks)
    report = RunReport(
        status=status,
        ledger=public(where),
        made=iso_time(now),
        warnings=(
            *_state_warnings(status, jobs, task, num_replaced, where),
            *map(
                without_secrets,
                _warnings(status, jobs, patches, replayed, scored, why_no_work),
            ),
        ),
        notes=tuple(_notes(status, jobs, rows, patches, task, scored)),
        num_images=None if task is None else task.num_images,
        num_complete=None if replayed is None else len(replayed.complete),
        data=None if task is None else str(task.data.get("name")),
        engines=() if scored is None else scored.engines,
        class_names=() if scored is None else scored.class_names,
        confusion={} if scored is None else {k: v.tolist() for k, v in scored.confusion.items()},
        images=() if scored is None else scored.shown,
        layers=tuple(_layers(status, reader, rows)),
        patches=patches,
        jobs=jobs,
        usage=_usage(status, jobs),
        versions_begun=dict(begun[0].content.get("versions") or {}) or None if begun else None,
        versions=library_versions(),
    )
    return Examined(report, rows, np.zeros((0, 1, 1, 1)) if scored is None else scored.pictures)


def _clean(status: RunStatus) -> RunStatus:
    """Without what looks like a token, in texts that others wrote."""
    reason = status.cancel_reason
    return replace(
        status,
        asked=status.asked.changed(
            options=json.loads(without_secrets(json.dumps(status.asked.options)))
        ),
        cancel_reason=None if reason is None else without_secrets(reason),
        revisions=tuple(replace(r, reason=without_secrets(r.reason)) for r in status.revisions),
        jobs=(),  # the report has more of them
    )


def _task(run: Run) -> Task | None:
    try:
        return task_of(run)
    except LedgerError:
        return None


def _jobs(reader: RunReader) -> Iterator[JobReport]:
    state = reader.known.state
    results = {k: v for layer in state.layers for k, v in reader.results(layer.name).items()}
    sessions = {session.id: session.session_id for session in state.sessions}
    for attempt in state.all_attempts:
        chunk = state.chunk(attempt.chunk_id)
        result = results.get(chunk.id)
        is_its_own = result is not None and result.attempt_number == attempt.number
        times = result.extras.get(JOB_TIMES) if result is not None and is_its_own else None
        told = [None] * 3 if times is None else [None if math.isnan(t) else float(t) for t in times]
        error = None if attempt.error is None else _one_line(attempt.error)
        yield JobReport(
            chunk,
            replace(attempt, error=error),
            None if attempt.session is None else sessions.get(attempt.session),
            JobTimes(*told),
        )


def _layers(
    status: RunStatus, reader: RunReader, rows: Sequence[MeasuredRows]
) -> Iterator[LayerReport]:
    measured = {each.layer: each for each in rows}
    qubits = {each.name: int(each.spec["num_qubits"]) for each in reader.layers}
    for each in status.layers:
        found = measured.get(each.layer)
        frozen = map(reader.known.rows, reader.blocks(each.layer))
        has_references = any(len(rows.exact) for rows in frozen)
        calibrates = reader.calibrates and has_references
        yield LayerReport(
            progress=each,
            num_pixels_expected=status.pixels_expected.get(each.layer),
            num_rows=0 if found is None else len(found.measured),
            num_qubits=0 if found is None else qubits[each.layer],
            as_used=None if found is None else agreement(found.exact, found.measured, found.stds),
            as_measured=(
                agreement(found.exact, found.raw) if found is not None and calibrates else None
            ),
        )


def _usage(status: RunStatus, jobs: Sequence[JobReport]) -> UsageReport:
    done = [j.chunk.predicted_seconds for j in jobs if j.attempt.state == AttemptState.DONE]
    left = [each.predicted_seconds_left for each in status.layers]
    return UsageReport(
        predicted_seconds_done=_total(done),
        predicted_seconds_left=_total(left),
        num_jobs=sum(job.attempt.job_id is not None for job in jobs),
        num_unknown=len(_of_unknown_usage(jobs)),
    )


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _of_unknown_usage(jobs: Sequence[JobReport]) -> list[JobReport]:
    return [job for job in _ended(jobs) if job.attempt.usage_seconds is None]


def _ended(jobs: Sequence[JobReport]) -> list[JobReport]:
    return [job for job in jobs if job.attempt.state in _ENDED and job.attempt.job_id]


def _warnings(
    status: RunStatus,
    jobs: Sequence[JobReport],
    patches: Sequence[PatchReport],
    replayed: Replayed | None,
    scored: Scores | None,
    why_no_work: str,
) -> Iterator[str]:
    """What else is missing, or not as it should be."""
    if why_no_work:
        yield why_no_work
    if replayed is not None and not replayed.is_complete.all():
        number, total = len(replayed.complete), len(replayed.is_complete)
        yield (
            f"Everything was measured for {number} of {total} images. "
            + ("Accuracy, confusion and predictions are of these alone." if number else "")
            + ("There is no accuracy, confusion matrix or image yet." if not number else "")
        )
    for patch in patches:
        found = patch.references
        if found.problems:
            yield (
                f"{_place(patch)} was found bad in {len(found.problems)} of {patch.num_jobs} jobs "
                f"of {found.layer}, and is {patch.state}: {found.problems[0]} What it measured is "
                "in all figures."
            )
    if status.duplicates:
        yield f"Duplicate jobs, whose results do not count: {', '.join(status.duplicates)}."
    if unknown := _of_unknown_usage(jobs):
        yield (
            f"It is not known yet what {_count(len(unknown), 'job')} used; their caps are held "
            "back from the budget."
        )
    if scored is not None:
        for each in scored.engines:
            if each.engine == "aer" and each.max_logit_difference > 1e-3:
                yield (
                    "Noiseless Aer's logits differ from the exact engine's by up to "
                    f"{each.max_logit_difference:.2g}, which must not be: do not trust this report."
                )


def _state_warnings(
    status: RunStatus,
    jobs: Sequence[JobReport],
    task: Task | None,
    num_replaced: int,
    where: str,
) -> Iterator[str]:
    """What jobs are missing, and what to do."""
    arguments = shlex.quote(status.run)
    if "://" not in where:  # a URL may hold a password
        arguments += f" --ledger {shlex.quote(where)}"
    command = f"`qpc run collect {arguments}`" if task else "Running its script again"
    states = Counter(
        {state: sum(e.num_chunks[state] for e in status.layers) for state in map(str, ChunkState)}
    )
    total = sum(states.values())
    if status.state == "cancelled":
        reason = f" ({status.cancel_reason})" if status.cancel_reason else ""
        yield (
            f"The run was cancelled{reason} with {states['done']} of {_count(total, 'job')} done. "
            f"`qpc run resume {arguments} --again` takes that back."
        )
    if not total:
        yield "Nothing was frozen or sent yet: there is nothing to report."
    if states["failed"]:
        errors = "; ".join(
            f"job {a.job_id or f'with tag {a.tag}'}: {a.error}"
            for a in (job.attempt for job in jobs)
            if a.state == AttemptState.FAILED
        )
        yield (
            f"{states['failed']} of {_count(total, 'job')} failed for good; what they were to "
            f"measure is missing. `qpc run resume {arguments} --again` pays for another attempt. "
            f"{errors}"
        )
    if states["open"] or states["unsent"]:
        yield (
            f"The run is not finished: of {_count(total, 'job')} known so far "
            f"{states['done']} are done, {states['open']} under way and {states['unsent']} not "
            f"sent. {command} goes on; then make the report again."
        )
    reached = pixels_reached(status.layers)
    for layer, expected in (task.pixels if task else {}).items():
        if (number := reached[layer]) < expected:
            yield f"{layer} was reached by {number:,} of {expected:,} pixels, not by the others."
    if num_replaced:
        reasons = "; ".join(f"revision {r.number}: {r.reason}" for r in status.revisions[1:])
        yield (
            f"{_count(num_replaced, 'job')} {'was' if num_replaced == 1 else 'were'} never sent: "
            f"the rows were dealt to other jobs ({reasons})."
        )


def _notes(
    status: RunStatus,
    jobs: Sequence[JobReport],
    rows: Sequence[MeasuredRows],
    patches: Sequence[PatchReport],
    task: Task | None,
    scored: Scores | None,
) -> Iterator[str]:
    """What is not known, was not computed, or should be kept in mind."""
    if task is None and status.state == "collected":
        yield "Whether more was to come is not known: the run was begun by a script of its own."
    if scored is not None:
        yield from scored.problems
    if task is not None and not task.is_training_data:
        yield "The images are not of the data that the network was trained and tested on."
    for each in rows:
        if np.isnan(each.exact).all():
            yield f"{each.layer}: its exact values are not known here."
    left = sum(patch.references.num_not_calibrated for patch in patches)
    if left:
        yield (
            f"{left} of {sum(p.references.num_features for p in patches)} features of patches and "
            "jobs were left as measured, since their reference rows tell too little."
        )
    if jobs and all(job.is_local for job in jobs if job.attempt.job_id):
        yield (
            "Everything was computed on machines of this side, so no QPU time was used; forecasts "
            "are those of the device that was simulated, if one was."
        )
    ended = [job for job in _ended(jobs) if not job.is_local]
    if silent := [job for job in ended if job.run_seconds is None]:
        what = "When it ran" if len(silent) == 1 else "When they ran"
        yield (
            f"{what} is not known of {_count(len(silent), 'job')}: the ledger has the times of the "
            "service for results that were collected from it, and of no other job."
        )


def _one_line(text: str) -> str:
    """What a service wrote, without tokens."""
    return " ".join(without_secrets(text).split())


def _place(patch: PatchReport) -> str:
    qubits = "-".join(map(str, patch.references.qubits))
    return f"Patch {qubits}" if qubits else "The only patch"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
