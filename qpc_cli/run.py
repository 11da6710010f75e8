"""`qpc run`: durable runs of a finished network, planned, sent and collected.

A thin shell over `hardware_runs`; everything heavy is imported inside the commands.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc_cli.flags import (
    Extra,
    Flags,
    Given,
    engine_options,
    names_of,
    option_of,
    usage_errors,
    with_flags,
)
from qpc_cli.support import INTERRUPTED, PENDING, check_extras, fail, refuse, reported, say
from qpc_qiskit.common.extras import require
from qpc_qiskit.options.economy import BEST, PLAIN, Economy
from qpc_qiskit.options.engine import AER, EngineOptions
from qpc_qiskit.options.records import DataSource

if TYPE_CHECKING:
    from hardware_runs.checkpoints.commands import Pace
    from qpc_qiskit.common.interrupts import Interrupts

EXIT_CODES = (
    "Exit codes: 0 done, 75 results are pending, 1 it failed, 2 wrong usage, 130 interrupted."
)
LEDGER = "runs/ledger.sqlite"

run_app = typer.Typer(
    name="run",
    help="Durable runs on IBM's devices, on snapshots of them, and on aer: plan, submit, collect. "
    "Nothing is paid twice, whatever crashes.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)


_SENT = "What is sent"
_SAVING = "Saving QPU time"

SAVING = (
    Extra(
        "economy",
        str | None,
        typer.Option(
            metavar="best|plain",
            help="best: what measurements recommend of the following; plain: one row an execution, "
            "nothing fitted or calibrated. (default: best in `qpc run` on devices and their "
            "copies)",
            show_default=False,
            rich_help_panel=_SAVING,
        ),
    ),
    Flags(EngineOptions, tuple(Economy.model_fields), _SAVING),
)
Model = Annotated[
    Path, typer.Argument(help="Folder of a finished training run (model.json, model.safetensors).")
]
BACKEND = Flags(
    EngineOptions,
    ("backend",),
    texts={"backend": "ibm_... (paid), a snapshot such as fake_torino, or aer."},
    is_required=True,
)
IMAGES = Extra(
    "images",
    int | None,
    typer.Option(min=1, help="Test images, a random subset, the same every time."),
)
SENT = Flags(
    EngineOptions,
    ("shots", "precision", "noise_model", "mode", "resilience", "options", "dedupe_grid"),
    _SENT,
    {"precision": "Standard error of every value, instead of shots; 0: exact, on aer."},
)
SEED = Flags(EngineOptions, ("seed",), _SENT)
BATCH_SIZE = Extra(
    "batch_size",
    int | None,
    typer.Option(
        min=1,
        help="Images per call of the network; a job has rows of one call. (default 64)",
        show_default=False,
        rich_help_panel=_SENT,
    ),
)
BUDGET = Flags(EngineOptions, ("max_qpu_seconds",))
DATA = Flags(DataSource, ("name", "data_dir"), "Data")
YES = typer.Option("--yes", help="Send to a real device without a budget.")
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
]
Where = Annotated[
    str,
    typer.Option("--ledger", envvar="QPC_LEDGER", help="SQLite file, or URL of a database."),
]
PACE = (
    Extra("wait", bool, typer.Option("--wait", help="Until all results are there."), False),
    Extra(
        "poll_seconds",
        float,
        typer.Option(min=0.1, help="With --wait: seconds between two looks."),
        10.0,
    ),
)
Name = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.", show_default=False)]
DataDir = Annotated[Path | None, option_of(DataSource, "data_dir", "Data")]


@run_app.command(epilog=EXIT_CODES)
@with_flags
def plan(
    model: Model,
    *,
    given: Annotated[Given, BACKEND, IMAGES, SENT, *SAVING, BATCH_SIZE, BUDGET, DATA],
    rate: Annotated[
        float | None, typer.Option(min=0, help="Price of a second of QPU time, in dollars.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare/--no-compare",
            help="Also tell what other choices would cost; the first time on a device it takes "
            "some seconds.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Say what a run would send and cost, and send nothing.

    Rows, jobs, shots, QPU time and money, with what the prediction stands on, and what other
    choices and numbers would cost. A snapshot needs no account: the plan is for the device that it
    is of.

    For instance:

      qpc run plan runs/digits --backend fake_fez --images 32 --shots 1024 --rate 1.6

      qpc run plan runs/digits --backend fake_fez --images 32 --shots 1024 --economy plain
    """
    with usage_reported():
        check_extras(given)
        from hardware_runs.checkpoints import commands
        from qpc_cli.run_texts import plan_text
        from qpc_qiskit.common.progress import busy

        if rate is not None and given["backend"] == "aer":
            refuse("--rate has no effect on aer, which is no device; leave it out.")
        asked = commands.ask(model, **asked_of(given))
        with busy("Finding the backend") as bar:
            found = commands.plan(asked, rate=rate, compare=compare, on_step=bar.begin)
        say(as_json, found.to_dict(), plan_text(found))


@run_app.command(epilog=EXIT_CODES)
@with_flags
def submit(
    model: Model,
    *,
    backend: Annotated[Given, BACKEND],
    run: Annotated[str, typer.Option(help="Name of the run, by which it is found again.")],
    given: Annotated[Given, IMAGES, SENT, *SAVING, SEED, BATCH_SIZE, BUDGET, DATA],
    yes: Annotated[bool, YES] = False,
    ledger: Where = LEDGER,
    pace: Annotated[Given, *PACE],
    as_json: AsJson = False,
) -> None:
    """Begin a run, and send all that can be sent.

    A real device needs a budget, or --yes; the plan is said first. If results are pending the exit
    code is 75: `qpc run collect RUN` goes on, now or next week, in any process. The same line again
    goes on as well; nothing is sent twice.

    For instance:

      qpc run submit runs/digits --backend ibm_fez --images 32 --shots 1024 --run digits-1
        --max-qpu-seconds 300
    """
    given |= backend
    with usage_reported(ledger), _stopping(run, ledger) as interrupts:
        check_extras(given)
        from hardware_runs.checkpoints import commands
        from qpc_cli.run_texts import plan_line

        asked = commands.ask(model, **asked_of(given))
        with _pace(run, interrupts, pace) as going:
            result = commands.submit(
                ledger,
                run,
                asked,
                going,
                any_time=yes,
                on_plan=lambda found: typer.echo(plan_line(found), err=True),
            )
        _say_result(as_json, result, ledger)


@run_app.command(epilog=EXIT_CODES)
@with_flags
def collect(
    run: Name,
    *,
    given: Annotated[
        Given,
        Extra(
            "model",
            Path | None,
            typer.Option(help="Where the checkpoint is now, if it was moved."),
        ),
        Extra(
            "data_dir",
            Path | None,
            typer.Option(help="Where the files of the data are now, if they were moved."),
        ),
        Extra(
            "max_qpu_seconds",
            float | None,
            typer.Option(help="A new budget of the whole run. (default: as before)"),
        ),
        Extra(
            "again",
            bool,
            typer.Option("--again", help="Also send what was cancelled, or failed for good."),
            False,
        ),
        Extra(
            "give_up",
            list[str] | None,
            typer.Option(
                metavar="JOB",
                help="Wait no more for a job whose result can never be fetched. It may have been "
                "paid: its cap stays taken from the budget until the service says what it has "
                "used, and only --again sends, and pays, its rows anew. May be repeated.",
            ),
        ),
    ],
    ledger: Where = LEDGER,
    pace: Annotated[Given, *PACE],
    as_json: AsJson = False,
) -> None:
    """Go on with a run: fetch results, send what is left, print the score when all is there.

    Everything else stands in the ledger. Later quantum layers continue by themselves. While results
    are pending the exit code is 75. A run that was cancelled, or of which a job failed for good,
    sends nothing without --again; what is there is fetched. `qpc run resume` is the same.
    """
    with usage_reported(ledger), _stopping(run, ledger) as interrupts:
        check_run(run, ledger)
        from hardware_runs.checkpoints import commands

        with _pace(run, interrupts, pace) as going:
            result = commands.collect(ledger, run, going, **given)
        _say_result(as_json, result, ledger)


run_app.command("resume", epilog=EXIT_CODES, help="The same as `collect`.")(collect)


@run_app.command(epilog=EXIT_CODES)
def status(run: Name, ledger: Where = LEDGER, as_json: AsJson = False) -> None:
    """Say what the ledger knows of a run: layers, jobs, budget. Nobody else is asked."""
    with usage_reported(ledger):
        from hardware_runs.durable_engine.status import run_status
        from hardware_runs.ledger import Ledger
        from qpc_cli.run_texts import status_text

        with Ledger(ledger, create=False) as book:
            found = run_status(book.state(book.get_run(run).id))
        say(as_json, found.to_dict(), status_text(found))


@run_app.command("list", epilog=EXIT_CODES)
def list_runs(ledger: Where = LEDGER, as_json: AsJson = False) -> None:
    """List the runs of a ledger."""
    with usage_reported(ledger):
        from hardware_runs.durable_engine.status import run_status
        from hardware_runs.ledger import Ledger, public
        from qpc_cli.run_texts import list_text

        with Ledger(ledger, create=False) as book:
            found = [run_status(book.state(known.id)) for known in book.list_runs()]
        fields = ("run", "run_id", "state", "created")
        rows = [
            {name: getattr(each, name) for name in fields}
            | {
                "backend": each.asked.backend,
                "mode": each.asked.mode,
                "used_seconds": each.budget.used_seconds,
                "num_rows": sum(layer.num_rows for layer in each.layers),
                "num_rows_done": sum(layer.num_rows_done for layer in each.layers),
            }
            for each in found
        ]
        say(as_json, {"ledger": public(ledger), "runs": rows}, list_text(rows))


@run_app.command(epilog=EXIT_CODES)
def cancel(run: Name, ledger: Where = LEDGER, as_json: AsJson = False) -> None:
    """Send nothing more for a run, and cancel its jobs that wait; results are kept.

    Once more tries again what could not be cancelled. `qpc run resume RUN --again` takes it back.
    """
    with usage_reported(ledger):
        from hardware_runs.checkpoints import cancelling
        from hardware_runs.checkpoints.runlog import log, log_path, run_log
        from hardware_runs.ledger import Ledger
        from qpc_cli.run_texts import cancel_text

        with Ledger(ledger, create=False) as book:
            known = book.get_run(run)
            with run_log(log_path(ledger, known.name), known.name):
                found = cancelling.cancel(book, known)
                log("cancelled", **asdict(found))
        result = {"run": known.name, "run_id": known.id, "state": "cancelled", **asdict(found)}
        say(as_json, result, cancel_text(known.name, found))
        if found.problem:
            raise typer.Exit(1)


def check_run(run: str, ledger: str) -> None:
    """Refuse a ledger or run that is not there, before torch and Qiskit take seconds to load.

    Raises:
        LedgerError: as above.
    """
    from hardware_runs.ledger import Ledger

    with Ledger(ledger, create=False) as book:
        book.get_run(run)


@contextmanager
def usage_reported(ledger: str = LEDGER) -> Iterator[None]:
    """`reported`, and what cannot be meant as wrong usage; nothing slow is loaded by it.

    Args:
        ledger: that will be opened.
    """
    with reported():
        require("runs", "A durable run")
        if ledger.startswith("postgres"):
            require("postgres", "A ledger on PostgreSQL")
        with usage_errors(refuse, DataSource):
            yield


def asked_of(given: Given) -> dict[str, Any]:
    """What `commands.ask` takes of a run, for what was given."""
    usual = PLAIN if given["backend"] == AER else BEST
    others = ("images", "batch_size", "data", "data_dir")
    return {
        "options": engine_options(given, usual),
        "is_usual_economy": not ({"economy"} | names_of(Economy)) & set(given),
        **{name: given[name] for name in others if name in given},
    }


@contextmanager
def _stopping(run: str, ledger: str) -> Iterator[Interrupts]:
    """Ctrl-C and SIGTERM as a flag, and what to say when it was seen."""
    from qpc_qiskit.common.interrupts import StopRequested, deferred_interrupts

    try:
        with deferred_interrupts() as interrupts:
            yield interrupts
    except StopRequested:
        fail(f"Stopped; nothing is lost. Go on with: {_go_on(run, ledger)}", INTERRUPTED)


def _go_on(run: str, ledger: str) -> str:
    """The command that goes on with a run; a URL is left out, as it may hold a password."""
    is_found = ledger == os.environ.get("QPC_LEDGER", LEDGER) or "://" in ledger
    where = "" if is_found else f" --ledger {shlex.quote(ledger)}"
    return f"qpc run collect {shlex.quote(run)}{where}"


@contextmanager
def _pace(run: str, interrupts: Interrupts, given: Given) -> Iterator[Pace]:
    """What is going on, behind a spinner; without a terminal, what is waited for, in lines."""
    from hardware_runs.checkpoints.commands import Pace
    from qpc_qiskit.common.progress import busy

    said = ""
    with busy(f"Run {run}") as bar:

        def on_poll(text: str) -> None:
            nonlocal said
            bar.begin(f"Run {run}: {text}")
            if text != said and not sys.stderr.isatty():
                typer.echo(f"{run}: {text}", err=True)
            said = text

        yield Pace(
            **given,
            check=interrupts.check,
            on_step=lambda text: bar.begin(f"Run {run}: {text}"),
            on_poll=on_poll,
            tell=lambda text: typer.echo(text, err=True),
        )


def _say_result(as_json: bool, result: dict[str, Any], ledger: str) -> None:
    from qpc_cli.run_texts import result_text

    say(as_json, result, result_text(result, _go_on(result["run"], ledger)))
    if result["state"] != "done":
        raise typer.Exit(PENDING)
