"""`python -m hardware_runs.submit`: a durable run in a batch queue.

Begins a run, or goes on with it, and says what came of it as one JSON object on stdout. Run the
same line again (a queue's retry, a cron job) until it exits with 0: nothing is sent twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from hardware_runs import checkpoint_runs
from hardware_runs.cancelling import needs_again
from hardware_runs.checkpoint_runs import BATCH_SIZE, Settings, Work
from hardware_runs.driving import POLL_SECONDS, finish
from hardware_runs.engine import DurableEngine
from hardware_runs.ledger import Ledger
from hardware_runs.runlog import log, log_path, run_log, without_secrets
from qpc_qiskit.errors import BackendError, LedgerConflictError, QPCError
from qpc_qiskit.interrupts import Interrupts, StopRequested, deferred_interrupts
from qpc_qiskit.options import DataSource

DONE, FAILED, WRONG_USAGE, PENDING, INTERRUPTED = 0, 1, 2, 75, 130
EXIT_CODES = (
    "Exit codes: 0 done; 75 results are pending, run the same again later; 1 it failed; 2 wrong "
    "usage; 130 interrupted (Ctrl-C or SIGTERM), run the same again."
)


class UsageError(Exception):
    """What was asked for cannot be meant."""


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_CODES)
def submit(
    run: Annotated[str, typer.Option(help="Name of the run.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of a finished training run; to begin a run.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="ibm_... (paid), fake_... or aer; to begin a run.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images, a random subset.")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Per circuit execution.")] = None,
    mode: Annotated[str, typer.Option(metavar="job|batch|session")] = "job",
    resilience: Annotated[int, typer.Option(min=0, max=2, help="IBM's level.")] = 0,
    max_qpu_seconds: Annotated[
        float | None, typer.Option(help="Budget of the run; needed for ibm_...")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of simulated shots.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per call.")] = BATCH_SIZE,
    data: Annotated[str | None, typer.Option(help="Other images than the training's.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of their files.")] = None,
    ledger: Annotated[
        str, typer.Option(envvar="QPC_LEDGER", help="File, or URL of a database.")
    ] = "runs/ledger.sqlite",
    wait: Annotated[bool, typer.Option("--wait", help="Until all results are there.")] = False,
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="Between two looks.")] = POLL_SECONDS,
) -> None:
    """Begin a durable run of a checkpoint on its test images, or go on with it.

    Prints one JSON object to stdout: `state` is done, pending, failed, wrong usage or interrupted.
    A run that exists needs --run and --ledger only; with more, all must be as it was. Events are
    appended, as JSON lines, to RUN.log.jsonl beside the ledger.
    """
    settings = None
    if backend is not None:
        settings = Settings(
            backend=backend,
            mode=mode,
            shots=shots,
            resilience=resilience,
            seed=seed,
            max_qpu_seconds=max_qpu_seconds,
        )
    is_named = model is not None and settings is not None
    answer: dict[str, Any] = {"run": run}
    with deferred_interrupts() as interrupts:
        try:
            with ExitStack() as stack:
                with _usage_errors(settings):
                    checkpoint_runs.check_name(run)
                    if not is_named and any(
                        given is not None for given in (model, settings, images, shots, seed, data)
                    ):
                        raise UsageError(
                            "Give --model and --backend with the other options, or --run alone to "
                            "go on with a run."
                        )
                    book = stack.enter_context(Ledger(ledger, create=is_named))
                    stack.enter_context(run_log(log_path(ledger, run), run))
                    if model is None or settings is None:
                        engine, work = _reopened(book, run, max_qpu_seconds, interrupts)
                    else:
                        source = _source(data, data_dir)
                        work = checkpoint_runs.prepare(
                            model, source=source, num_images=images, batch_size=batch_size
                        )
                        engine = _begun(book, run, work, settings, interrupts)
                answer = finish(
                    engine, work, wait=wait, check=interrupts.check, poll_seconds=poll_seconds
                )
            code = DONE if answer["state"] == "done" else PENDING
        except StopRequested:
            answer |= {"state": "interrupted"}
            code = INTERRUPTED
        except UsageError as error:
            answer |= {"state": "wrong usage", "error": str(error)}
            code = WRONG_USAGE
        except (QPCError, OSError) as error:
            answer |= {"state": "failed", "error": without_secrets(str(error))}
            code = FAILED
    typer.echo(json.dumps(answer))
    raise typer.Exit(code)


@contextmanager
def _usage_errors(settings: Settings | None) -> Iterator[None]:
    """Wrong arguments, before anything is sent, as `UsageError`."""
    try:
        yield
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"]) from error
    except BackendError as error:
        if settings is None or settings.is_device:  # the name may be right, the access missing
            raise
        raise UsageError(str(error)) from error
    except QPCError:  # some are ValueErrors as well
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _reopened(
    book: Ledger, run: str, max_qpu_seconds: float | None, interrupts: Interrupts
) -> tuple[DurableEngine, Work]:
    known = checkpoint_runs.find_run(book, run)
    if known is None:
        raise UsageError(f"There is no run {run!r} yet: give --model and --backend.")
    _check_open(book, run)
    work = checkpoint_runs.prepare_again(known)
    engine = checkpoint_runs.reopen(
        book, known, max_qpu_seconds=max_qpu_seconds, check=interrupts.check
    )
    return engine, work


def _begun(
    book: Ledger, run: str, work: Work, settings: Settings, interrupts: Interrupts
) -> DurableEngine:
    checkpoint_runs.check_settings(settings)
    backend = checkpoint_runs.find_backend(settings)
    if checkpoint_runs.find_run(book, run) is None:
        if settings.is_device and settings.max_qpu_seconds is None:
            raise UsageError("A real device needs --max-qpu-seconds, the budget of the run.")
        plan = checkpoint_runs.make_run_plan(work, settings, backend)
        plan.check_budget()
        log("planned", **checkpoint_runs.brief(plan))
    else:
        _check_open(book, run)
    return checkpoint_runs.begin(book, run, work, settings, backend, check=interrupts.check)


def _check_open(book: Ledger, run: str) -> None:
    problem = needs_again(book, book.get_run(run))
    if problem is not None:
        raise LedgerConflictError(problem)


def _source(data: str | None, data_dir: Path | None) -> DataSource | None:
    if data is None:
        if data_dir is not None:
            raise UsageError("--data-dir needs --data.")
        return None
    folder = None if data_dir is None else str(data_dir.resolve())
    return DataSource.model_validate({"name": data, "data_dir": folder})


if __name__ == "__main__":
    app()
