"""`python -m qpc_cli.submit`: a durable run in a batch queue.

Begins a run, or goes on with it, and says what came of it as one JSON object on stdout. Run the
same line again (a queue's retry, a cron job) until it exits with 0: nothing is sent twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from hardware_runs.checkpoints.runlog import without_secrets
from qpc_cli import run as cli_run
from qpc_cli.flags import Extra, Given, spelled, with_flags, worded
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.interrupts import StopRequested, deferred_interrupts
from qpc_qiskit.errors import QPCError
from qpc_qiskit.options.fields import OptionError
from qpc_qiskit.options.records import DataSource

if TYPE_CHECKING:
    from hardware_runs.checkpoints.commands import Pace

DONE, FAILED, WRONG_USAGE, PENDING, INTERRUPTED = 0, 1, 2, 75, 130
EXIT_CODES = (
    "Exit codes: 0 done; 75 results are pending, run the same again later; 1 it failed; 2 wrong "
    "usage; 130 interrupted (Ctrl-C or SIGTERM), run the same again."
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_CODES)
@with_flags
def submit(
    *,
    run: Annotated[str, typer.Option(help="Name of the run.")],
    given: Annotated[
        Given,
        Extra(
            "model",
            Path | None,
            typer.Option(help="Folder of a finished training run; to begin a run."),
        ),
        Extra(
            "backend",
            str | None,
            typer.Option(help="ibm_... (paid), fake_... or aer; to begin a run."),
        ),
        *(cli_run.IMAGES, cli_run.SENT, *cli_run.SAVING, cli_run.SEED, cli_run.BATCH_SIZE),
        *(cli_run.DATA, cli_run.BUDGET),
        Extra("yes", bool, cli_run.YES, False),
    ],
    ledger: cli_run.Where = cli_run.LEDGER,
    pace: Annotated[Given, *cli_run.PACE],
) -> None:
    """Begin a durable run of a checkpoint on its test images, or go on with it.

    Prints one JSON object to stdout: `state` is done, pending, failed, wrong usage or interrupted.
    A run that exists needs --run and --ledger only, and takes a new budget with --max-qpu-seconds;
    with --model and --backend, all must be as it was. Events are appended, as JSON lines, to
    RUN.log.jsonl beside the ledger.
    """
    answer: dict[str, Any] = {"run": run}
    with deferred_interrupts() as interrupts:
        try:
            require("runs", "A durable run")
            from hardware_runs.checkpoints.commands import Pace

            going = Pace(**pace, check=interrupts.check)
            answer = _begin_or_go_on(ledger, run, given, going)
            code = DONE if answer["state"] == "done" else PENDING
        except StopRequested:
            answer |= {"state": "interrupted"}
            code = INTERRUPTED
        except (OptionError, ValidationError) as error:
            answer |= {"state": "wrong usage", "error": worded(error, DataSource)}
            code = WRONG_USAGE
        except (QPCError, OSError) as error:
            answer |= {"state": "failed", "error": without_secrets(str(error))}
            code = FAILED
    typer.echo(json.dumps(answer))
    raise typer.Exit(code)


def _begin_or_go_on(ledger: str, run: str, given: Given, pace: Pace) -> dict[str, Any]:
    from hardware_runs.checkpoints import commands
    from hardware_runs.checkpoints.checkpoint_runs import check_name

    check_name(run)
    if "model" in given and "backend" in given:
        asked = commands.ask(given["model"], **cli_run.asked_of(given))
        return commands.submit(ledger, run, asked, pace, any_time=given.get("yes", False))
    told = [spelled(name, DataSource) for name in given if name != "max_qpu_seconds"]
    if told:
        raise OptionError(
            "{told}: give both {model} and {backend} to begin a run, or {run} alone to go on with "
            "one.",
            told=", ".join(told),
        )
    return commands.collect(ledger, run, pace, **given)


if __name__ == "__main__":
    app()
