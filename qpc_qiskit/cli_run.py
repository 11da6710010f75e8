"""`qpc run`: durable runs of a finished network, planned, sent and collected.

A thin shell over `hardware_runs`; everything heavy is imported inside the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc_qiskit.cli_support import (
    INTERRUPTED,
    PENDING,
    USAGE_ERROR,
    backend_errors,
    fail,
    option_from,
    reported,
    say,
    usage_errors,
)
from qpc_qiskit.options import DataSource

if TYPE_CHECKING:
    from hardware_runs.checkpoint_runs import Settings, Work
    from hardware_runs.engine import DurableEngine
    from hardware_runs.ledger import Ledger
    from qpc_qiskit.interrupts import Interrupts

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

Model = Annotated[
    Path, typer.Argument(help="Folder of a finished training run (model.json, model.safetensors).")
]
Backend = Annotated[
    str,
    typer.Option(metavar="NAME", help="ibm_... (paid), a snapshot such as fake_torino, or aer."),
]
Images = Annotated[
    int | None, typer.Option(min=1, help="Test images, a random subset, the same every time.")
]
Shots = Annotated[
    int | None,
    typer.Option(
        min=1, help="Per circuit execution. (default: exact on aer, else 4096)", show_default=False
    ),
]
Mode = Annotated[str, typer.Option(metavar="job|batch|session", help="Of IBM's devices.")]
Resilience = Annotated[
    int,
    typer.Option(min=0, max=2, help="IBM's level: 0 none, 1 readout, 2 also extrapolation."),
]
Budget = Annotated[
    float | None, typer.Option(help="Budget of the run: no job is sent that could exceed it.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Images per call of the network; a job has rows of one call.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
]
Where = Annotated[
    str,
    typer.Option("--ledger", envvar="QPC_LEDGER", help="SQLite file, or URL of a database."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Until all results are there.")]
Poll = Annotated[float, typer.Option(min=0.1, help="With --wait: seconds between two looks.")]
Name = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.", show_default=False)]
Data = Annotated[str | None, option_from(DataSource, "name", "--data", panel="Data")]
DataDir = Annotated[Path | None, option_from(DataSource, "data_dir", panel="Data")]


@run_app.command(epilog=EXIT_CODES)
def plan(
    model: Model,
    backend: Backend,
    images: Images = None,
    shots: Shots = None,
    mode: Mode = "job",
    max_qpu_seconds: Budget = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Price of a second of QPU time, in dollars.")
    ] = None,
    resilience: Resilience = 0,
    batch_size: BatchSize = 64,
    as_json: AsJson = False,
    data: Data = None,
    data_dir: DataDir = None,
) -> None:
    """Say what a run would send and cost, and send nothing.

    Rows, jobs, shots, QPU time and money, with what the prediction stands on, and what other
    numbers would cost. A snapshot needs no account: the plan is for the device that it is of.

    For instance:

      qpc run plan runs/digits --backend fake_fez --images 32 --shots 1024 --rate 1.6
    """
    with reported():
        from hardware_runs.checkpoint_runs import Settings
        from qpc_qiskit.run_texts import plan_text

        settings = Settings(
            backend=backend,
            mode=mode,
            shots=shots,
            resilience=resilience,
            max_qpu_seconds=max_qpu_seconds,
        )
        if rate is not None and backend == "aer":
            fail("--rate has no effect on aer, which is no device; leave it out.", USAGE_ERROR)
        _check(settings)
        work = _prepared(model, _source(data, data_dir), images, batch_size)
        found = _planned(work, settings, None, rate)
        say(as_json, found.to_dict(), plan_text(found))


@run_app.command(epilog=EXIT_CODES)
def submit(
    model: Model,
    backend: Backend,
    run: Annotated[str, typer.Option(help="Name of the run, by which it is found again.")],
    images: Images = None,
    shots: Shots = None,
    mode: Mode = "job",
    max_qpu_seconds: Budget = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Send to a real device without a budget.")
    ] = False,
    resilience: Resilience = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of simulated shots; not for a real device.")
    ] = None,
    batch_size: BatchSize = 64,
    ledger: Where = LEDGER,
    wait: Wait = False,
    poll_seconds: Poll = 10.0,
    as_json: AsJson = False,
    data: Data = None,
    data_dir: DataDir = None,
) -> None:
    """Begin a run, and send all that can be sent.

    A real device needs a budget, or --yes; the plan is said first. If results are pending the exit
    code is 75: `qpc run collect RUN` goes on, now or next week, in any process. The same line again
    goes on as well; nothing is sent twice.

    For instance:

      qpc run submit runs/digits --backend ibm_fez --images 32 --shots 1024 --run digits-1
        --max-qpu-seconds 300
    """
    with reported(), _stopping(run) as interrupts:
        from hardware_runs import checkpoint_runs
        from hardware_runs.ledger import Ledger
        from hardware_runs.plan import planning_engine

        settings = checkpoint_runs.Settings(
            backend=backend,
            mode=mode,
            shots=shots,
            resilience=resilience,
            seed=seed,
            max_qpu_seconds=max_qpu_seconds,
        )
        _check_name(run)
        _check(settings)
        work = _prepared(model, _source(data, data_dir), images, batch_size)
        with ExitStack() as stack:
            with backend_errors("--backend", backend):
                found = checkpoint_runs.find_backend(settings)
                if not settings.is_device:  # an unknown name is told before a ledger is made
                    planning_engine(backend, mode=mode, shots=shots, resilience=resilience)
            book = stack.enter_context(Ledger(ledger))
            stack.enter_context(_logged(ledger, run))
            if checkpoint_runs.find_run(book, run) is not None:
                _check_open(book, run)
            elif settings.is_device:
                _permit(work, settings, found, yes)
            with backend_errors("--backend", backend):
                engine = checkpoint_runs.begin(
                    book, run, work, settings, found, check=interrupts.check
                )
            _finish(engine, work, interrupts, wait, poll_seconds, as_json)


def _permit(work: Work, settings: Settings, backend: Any, yes: bool) -> None:
    """Say the plan on stderr; leave if it is not allowed."""
    from hardware_runs.checkpoint_runs import brief
    from hardware_runs.runlog import log
    from qpc_qiskit.run_texts import plan_line

    found = _planned(work, settings, backend)
    typer.echo(plan_line(found), err=True)
    if settings.max_qpu_seconds is None and not yes:
        fail(
            "Nothing was sent: a real device needs --max-qpu-seconds, or --yes for any time.",
            USAGE_ERROR,
        )
    found.check_budget()
    log("planned", **brief(found))


@run_app.command(epilog=EXIT_CODES)
def collect(
    run: Name,
    model: Annotated[
        Path | None, typer.Option(help="Where the checkpoint is now, if it was moved.")
    ] = None,
    max_qpu_seconds: Annotated[
        float | None, typer.Option(help="A new budget of the whole run. (default: as before)")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also send what was cancelled, or failed for good."),
    ] = False,
    ledger: Where = LEDGER,
    wait: Wait = False,
    poll_seconds: Poll = 10.0,
    as_json: AsJson = False,
) -> None:
    """Go on with a run: fetch results, send what is left, print the score when all is there.

    Everything else stands in the ledger. Later quantum layers continue by themselves. While results
    are pending the exit code is 75. `qpc run resume` is the same.
    """
    with reported(), _stopping(run) as interrupts:
        from hardware_runs import checkpoint_runs
        from hardware_runs.cancelling import allow_again
        from hardware_runs.ledger import Ledger
        from qpc_qiskit.progress import busy

        if max_qpu_seconds is not None and not 0 < max_qpu_seconds < float("inf"):
            fail(f"--max-qpu-seconds must be a number above 0; got {max_qpu_seconds}.", USAGE_ERROR)
        with Ledger(ledger, create=False) as book:
            known = book.get_run(run)
            checkpoint_runs.task_of(known)
            if again:
                allow_again(book, known)
            _check_open(book, run)
            with _logged(ledger, known.name):
                with busy("Loading the network"):
                    work = checkpoint_runs.prepare_again(known, model)
                engine = checkpoint_runs.reopen(
                    book, known, max_qpu_seconds=max_qpu_seconds, check=interrupts.check
                )
                _finish(engine, work, interrupts, wait, poll_seconds, as_json)


run_app.command("resume", epilog=EXIT_CODES, help="The same as `collect`.")(collect)


@run_app.command(epilog=EXIT_CODES)
def status(run: Name, ledger: Where = LEDGER, as_json: AsJson = False) -> None:
    """Say what the ledger knows of a run: layers, jobs, budget. Nobody else is asked."""
    with reported():
        from hardware_runs.ledger import Ledger
        from hardware_runs.status import run_status
        from qpc_qiskit.run_texts import status_text

        with Ledger(ledger, create=False) as book:
            found = run_status(book, book.get_run(run))
        say(as_json, found.to_dict(), status_text(found))


@run_app.command("list", epilog=EXIT_CODES)
def list_runs(ledger: Where = LEDGER, as_json: AsJson = False) -> None:
    """List the runs of a ledger."""
    with reported():
        from hardware_runs.ledger import Ledger
        from hardware_runs.status import run_status
        from qpc_qiskit.run_texts import list_text

        with Ledger(ledger, create=False) as book:
            found = [run_status(book, known) for known in book.list_runs()]
        fields = ("run", "run_id", "state", "backend", "mode", "created", "used_seconds")
        rows = [
            {name: getattr(each, name) for name in fields}
            | {
                "num_rows": sum(layer.num_rows for layer in each.layers),
                "num_rows_done": sum(layer.num_rows_done for layer in each.layers),
            }
            for each in found
        ]
        say(as_json, {"ledger": _public(ledger), "runs": rows}, list_text(rows))


@run_app.command(epilog=EXIT_CODES)
def cancel(run: Name, ledger: Where = LEDGER, as_json: AsJson = False) -> None:
    """Send nothing more for a run, and cancel its jobs that wait; results are kept.

    Once more tries again what could not be cancelled. `qpc run resume RUN --again` takes it back.
    """
    with reported():
        from hardware_runs import cancelling
        from hardware_runs.ledger import Ledger
        from hardware_runs.runlog import log
        from qpc_qiskit.run_texts import cancel_text

        with Ledger(ledger, create=False) as book:
            known = book.get_run(run)
            with _logged(ledger, known.name):
                found = cancelling.cancel(book, known)
                log("cancelled", **asdict(found))
        result = {"run": known.name, "run_id": known.id, "state": "cancelled", **asdict(found)}
        say(as_json, result, cancel_text(known.name, found))
        if found.problem:
            raise typer.Exit(1)


@contextmanager
def _stopping(run: str) -> Iterator[Interrupts]:
    """Ctrl-C and SIGTERM as a flag, and what to say when it was seen."""
    from qpc_qiskit.interrupts import StopRequested, deferred_interrupts

    try:
        with deferred_interrupts() as interrupts:
            yield interrupts
    except StopRequested:
        fail(f"Stopped; nothing is lost. Go on with: qpc run collect {run}", INTERRUPTED)


@contextmanager
def _logged(ledger: str, run: str) -> Iterator[None]:
    from hardware_runs.runlog import log_path, run_log

    with run_log(log_path(ledger, run), run):
        yield


def _finish(
    engine: DurableEngine,
    work: Work,
    interrupts: Interrupts,
    wait: bool,
    poll_seconds: float,
    as_json: bool,
) -> None:
    from hardware_runs.driving import finish
    from qpc_qiskit.progress import spinner
    from qpc_qiskit.run_texts import result_text

    with spinner(f"Run {engine.run.name}") as show:
        result = finish(
            engine,
            work,
            wait=wait,
            check=interrupts.check,
            poll_seconds=poll_seconds,
            on_poll=lambda text: show(f"Run {engine.run.name}: {text}"),
        )
    say(as_json, result, result_text(result))
    if result["state"] != "done":
        raise typer.Exit(PENDING)


def _prepared(model: Path, source: DataSource | None, images: int | None, batch_size: int) -> Work:
    from hardware_runs.checkpoint_runs import prepare
    from qpc_qiskit.progress import busy

    with busy("Loading the network"):
        return prepare(model, source=source, num_images=images, batch_size=batch_size)


def _planned(work: Work, settings: Settings, backend: Any, rate: float | None = None) -> Any:
    from hardware_runs.checkpoint_runs import make_run_plan
    from qpc_qiskit.progress import busy

    with busy("Planning"), backend_errors("--backend", settings.backend):
        return make_run_plan(work, settings, backend or settings.backend, rate=rate)


def _source(data: str | None, data_dir: Path | None) -> DataSource | None:
    if data is None:
        if data_dir is not None:
            fail("--data-dir needs --data.", USAGE_ERROR)
        return None
    given: dict[str, Any] = {"name": data}
    if data_dir is not None:
        given["data_dir"] = str(data_dir.resolve())
    with usage_errors({("DataSource", "name"): "--data"}):
        return DataSource(**given)


def _check(settings: Settings) -> None:
    from hardware_runs.checkpoint_runs import check_settings

    _usage(lambda: check_settings(settings))


def _check_name(run: str) -> None:
    from hardware_runs.checkpoint_runs import check_name

    _usage(lambda: check_name(run))


def _usage(check: Callable[[], None]) -> None:
    with backend_errors("", ""):
        check()


def _check_open(book: Ledger, run: str) -> None:
    from hardware_runs.cancelling import needs_again
    from qpc_qiskit.cli_support import RUNTIME_ERROR

    problem = needs_again(book, book.get_run(run))
    if problem is not None:
        fail(problem, RUNTIME_ERROR)


def _public(ledger: str) -> str:
    """A ledger's place without a password."""
    from sqlalchemy import make_url

    return make_url(ledger).render_as_string() if "://" in ledger else ledger
