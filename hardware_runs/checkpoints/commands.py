"""What `qpc run` and the batch script do: plan a run, begin it, go on with it.

Arguments are checked before anything is loaded, from the cheapest on; what cannot be meant is an
`OptionError`, which a command line words with its flags. Nothing is printed here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qiskit.providers import BackendV2

from hardware_runs.checkpoints import checkpoint_runs, driving
from hardware_runs.checkpoints.cancelling import allow_again, give_up, needs_again
from hardware_runs.checkpoints.checkpoint_runs import BATCH_SIZE, Work
from hardware_runs.checkpoints.runlog import log, log_path, run_log
from hardware_runs.durable_engine.beginning import set_budget
from hardware_runs.durable_engine.engine import POLL_SECONDS, DurableEngine
from hardware_runs.ledger import AttemptState, ChunkState, Ledger, Run
from hardware_runs.planning.plan import RunPlan, planning_engine
from noise_models.words import has_device, parse_noise, resolved
from qpc_qiskit.common.progress import fit_text
from qpc_qiskit.errors import (
    BackendError,
    CheckpointError,
    LedgerConflictError,
    LedgerError,
    PatchesError,
    QPCError,
)
from qpc_qiskit.options.engine import EngineOptions, budget_error
from qpc_qiskit.options.fields import OptionError


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command line asks for."""

    model: Path
    options: EngineOptions
    data: str | None = None
    data_dir: Path | None = None
    images: int | None = None
    batch_size: int = BATCH_SIZE
    is_usual_economy: bool = True
    """Whether no option that saves QPU time was given."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a command waits, and whom it tells."""

    wait: bool = False
    """Until all results are there."""
    poll_seconds: float = POLL_SECONDS
    check: Callable[[], None] = lambda: None
    """May raise to stop cleanly."""
    on_step: Callable[[str], None] = lambda text: None
    """Told what is going on."""
    on_poll: Callable[[str], None] = lambda text: None
    """Told what is waited for, and what stands in the way, at every look."""
    tell: Callable[[str], None] = lambda text: None
    """Told, once, what somebody should know."""

    def on_fit(self, done: int, total: int) -> None:
        """See `EstimatorEngine.on_fit`."""
        self.on_step(fit_text(done, total).capitalize() if done < total else "Sending jobs")


def ask(model: Path, options: EngineOptions, **others: Any) -> Asked:
    """What a command line asks for, checked as far as nothing is loaded.

    Args:
        model: folder of a finished training run.
        options: of the engine; noise as a word.
        others: fields of `Asked`.

    Raises:
        OptionError: options that contradict each other or have no effect.
        ValidationError: no such data set, or a folder that has no effect.
    """
    word = options.noise_model
    if word is not None:  # a run may go on in another folder
        options = options.changed(noise_model=resolved(word))
        try:
            parse_noise(options.noise_model)
        except ValueError as error:
            raise OptionError("{noise_model}: {error}", error=error) from error
    options.check_asked(
        has_device_noise=word is not None and has_device(options.noise_model), is_durable=True
    )
    asked = Asked(model=model, options=options, **others)
    if asked.data is not None:
        checkpoint_runs.find_source({"name": asked.data}, asked.data_dir)
    return asked


def plan(
    asked: Asked,
    *,
    rate: float | None = None,
    compare: bool = True,
    on_step: Callable[[str], None] = lambda text: None,
) -> RunPlan:
    """What a run would send and cost; nothing is sent.

    Args:
        asked: of the run.
        rate: price of a second of QPU time.
        compare: whether other choices (patches, encoder, references) are planned beside it.
        on_step: told what is going on.

    Raises:
        OptionError: unknown backend, or an option that has no effect on it.
    """
    backend = _found(asked.options)
    on_step("Loading the network")
    work = _prepared(asked)
    on_step("Planning, and comparing choices" if compare else "Planning")
    with usage(asked.options):
        return checkpoint_runs.make_run_plan(
            work, asked.options, backend, rate=rate, compare=compare
        )


def submit(
    ledger: str,
    name: str,
    asked: Asked,
    pace: Pace,
    *,
    any_time: bool = False,
    on_plan: Callable[[RunPlan], None] = lambda plan: None,
) -> dict[str, Any]:
    """Begin a run, or go on with one that was begun with the same.

    Args:
        ledger: file, or URL of a database.
        name: of the run.
        asked: what it is.
        pace: whether to wait.
        any_time: whether a real device may be used without a budget.
        on_plan: told the plan before anything is sent to a real device.

    Returns:
        See `driving.finish`.

    Raises:
        OptionError: options that are wrong, or no budget for a real device.
        LedgerConflictError: there is another run with this name, or it needs `--again`.
    """
    checkpoint_runs.check_name(name)
    options = asked.options
    backend = None
    if not _is_known(ledger, name):  # one that is needs its backend only for what is not done
        backend = _found(options)
    pace.on_step("Loading the network")
    work = _prepared(asked)
    with Ledger(ledger) as book, run_log(log_path(ledger, name), name):
        known = book.find_run(name)
        if known is not None:
            if asked.is_usual_economy:  # what is usual may have been another thing then
                begun = EngineOptions.of_run(known.settings).economy
                options = options.changed(**begun.model_dump())
            checkpoint_runs.check_same(known, work, options)
            _check_open(book, known, pace)
        elif options.is_paid:
            assert backend is not None
            pace.on_step("Planning")
            with usage(options):
                found = checkpoint_runs.make_run_plan(work, options, backend)
            on_plan(found)
            options = _permitted(found, options, any_time)
        with usage(options):
            engine = checkpoint_runs.begin(
                book,
                name,
                work,
                options,
                backend or options.backend,
                check=pace.check,
                on_fit=pace.on_fit,
            )
        return _finish(engine, work, pace)


def _permitted(plan: RunPlan, options: EngineOptions, any_time: bool) -> EngineOptions:
    """The options with the budget that is allowed."""
    if options.max_qpu_seconds is None and not any_time:
        raise OptionError(
            "Nothing was sent: a real device needs {max_qpu_seconds}, or {yes} for any time."
        )
    plan.check_budget()
    log("planned", **checkpoint_runs.brief(plan))
    return options if options.max_qpu_seconds else options.changed(max_qpu_seconds=math.inf)


def collect(
    ledger: str,
    name: str,
    pace: Pace,
    *,
    model: Path | None = None,
    data_dir: Path | None = None,
    max_qpu_seconds: float | None = None,
    again: bool = False,
    give_up: Sequence[str] = (),
) -> dict[str, Any]:
    """Go on with a run.

    Args:
        ledger: file, or URL of a database.
        name: of the run.
        pace: whether to wait.
        model: where the checkpoint is now.
        data_dir: where the images are now.
        max_qpu_seconds: a new budget of the whole run.
        again: also send what was cancelled, or failed for good.
        give_up: jobs that can never be fetched.

    Returns:
        See `driving.finish`.

    Raises:
        OptionError: a budget that is none.
        ValidationError: a folder of the data that has no effect.
        LedgerConflictError: it needs `--again`; what was there was fetched.
        LedgerError: there is no such run or job, or it was begun by a script of its own.
    """
    if max_qpu_seconds is not None and not 0 < max_qpu_seconds < math.inf:
        raise budget_error(max_qpu_seconds)
    with Ledger(ledger, create=False) as book:
        known = book.get_run(name)
        with run_log(log_path(ledger, known.name), known.name):
            for job_id in give_up:
                pace.tell(_given_up(book, known, job_id))
            if again:
                allow_again(book, known)
                known = book.get_run(known.id)
            checkpoint_runs.task_of(known)
            _check_open(book, known, pace)
            pace.on_step("Loading the network")
            work = _network_again(known, model, data_dir)
            budget = book.state(known.id).budget.max_qpu_seconds
            if max_qpu_seconds is not None and max_qpu_seconds != budget:
                set_budget(book, known, max_qpu_seconds, now=time.time())
            engine = checkpoint_runs.reopen(book, known, check=pace.check, on_fit=pace.on_fit)
            return _finish(engine, work, pace)


def _network_again(run: Run, model: Path | None, data_dir: Path | None) -> Work:
    """What a run was begun with; a checkpoint that is gone from its place may have been moved."""
    try:
        return checkpoint_runs.prepare_again(run, model, data_dir=data_dir)
    except CheckpointError as error:
        if model is not None or Path(checkpoint_runs.task_of(run).checkpoint).is_dir():
            raise
        raise CheckpointError(f"{error} If it was moved, --model tells where it is now.") from error


def _given_up(book: Ledger, run: Run, job_id: str) -> str:
    """Give up a job; what that means."""
    attempts = book.state(run.id).all_attempts
    cap = sum(a.reserved_seconds for a in attempts if a.job_id == job_id)
    give_up(book, run, job_id)
    log("given_up", job_id=job_id, reserved_seconds=cap)
    return (
        f"{run.name}: job {job_id} is given up: its result is not waited for. It may have been "
        f"paid, so its cap of {cap} s stays taken from the budget until the service says what it "
        f"has used. `qpc run resume {run.name} --again` pays for another attempt at its rows."
    )


def _check_open(book: Ledger, run: Run, pace: Pace) -> None:
    """Refuse a run that needs `--again`, when what is there was fetched."""
    if needs_again(book.state(run.id)) is None:
        return
    told = _fetched(book, run, pace)
    problem = needs_again(book.state(run.id))
    if problem is not None:
        raise LedgerConflictError(f"{problem} {told}".rstrip())


def _fetched(book: Ledger, run: Run, pace: Pace) -> str:
    """Fetch what is there, and send nothing; what came of it."""
    state = book.state(run.id)
    if not state.attempts(states=[AttemptState.POSTED]):
        return ""
    pace.on_step("Fetching results")
    before = len(state.chunks(states=[ChunkState.DONE]))
    try:
        engine = checkpoint_runs.reopen(book, run, check=pace.check)
        engine.dispatcher.collect()
    except BackendError as error:
        return f"Results of its other jobs could not be fetched now: {error}"
    state = engine.known.state
    number = len(state.chunks(states=[ChunkState.DONE])) - before
    left = len(state.attempts(states=[AttemptState.POSTED]))
    log("fetched", results=number, jobs_open=left)
    problems = engine.dispatcher.problems
    return f"Results of its other jobs: {number} fetched now, {left} still to come. {problems}"


def _finish(engine: DurableEngine, work: Work, pace: Pace) -> dict[str, Any]:
    return driving.finish(
        engine,
        work,
        wait=pace.wait,
        check=pace.check,
        poll_seconds=pace.poll_seconds,
        on_poll=pace.on_poll,
    )


def _is_known(ledger: str, name: str) -> bool:
    """Whether a ledger, if there is one, has a run; it is not made."""
    try:
        with Ledger(ledger, create=False) as book:
            return book.find_run(name) is not None
    except LedgerError:  # of one that is damaged, that is told when it is opened to be written
        return False


def _found(options: EngineOptions) -> str | BackendV2:
    """The backend, itself if it is a device; one that does not take the options is told."""
    with usage(options):
        found = checkpoint_runs.find_backend(options)
        planning_engine(found, **checkpoint_runs.keywords(options))
        return found


def _prepared(asked: Asked) -> Work:
    return checkpoint_runs.prepare(
        asked.model,
        data=asked.data,
        data_dir=asked.data_dir,
        num_images=asked.images,
        batch_size=asked.batch_size,
    )


@contextmanager
def usage(options: EngineOptions) -> Iterator[None]:
    """Turn what a backend refuses of the options into `OptionError`."""
    try:
        yield
    except BackendError as error:
        noise = options.noise_model
        where, name = ("noise_model", noise) if noise else ("backend", str(options.backend))
        if name.startswith("ibm_"):  # right, and the access missing
            raise
        where = "num_patches" if isinstance(error, PatchesError) else where
        raise OptionError(f"{{{where}}}: {{error}}", error=error) from error
    except (QPCError, OptionError):  # some are ValueErrors as well
        raise
    except ValueError as error:
        raise OptionError("{error}", error=error) from error
