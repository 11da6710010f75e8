"""`python -m qpc_cli.submit`: a durable run in a batch queue.

Begins a run, or goes on with it, and says what came of it as one JSON object on stdout. Run the
same line again (a queue's retry, a cron job) until it exits with 0: nothing is sent twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardware_runs.checkpoints.runlog import without_secrets
from hardware_runs.checkpoints.usage import UsageError
from qpc_cli import run as cli_run
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.interrupts import StopRequested, deferred_interrupts
from qpc_qiskit.errors import QPCError

if TYPE_CHECKING:
    from hardware_runs.checkpoints.commands import Pace

DONE, FAILED, WRONG_USAGE, PENDING, INTERRUPTED = 0, 1, 2, 75, 130
EXIT_CODES = (
    "Exit codes: 0 done; 75 results are pending, run the same again later; 1 it failed; 2 wrong "
    "usage; 130 interrupted (Ctrl-C or SIGTERM), run the same again."
)

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
    images: cli_run.Images = None,
    shots: cli_run.Shots = None,
    precision: cli_run.Precision = None,
    noise: cli_run.Noise = None,
    mode: cli_run.Mode = None,
    resilience: cli_run.Resilience = None,
    options: cli_run.Options = None,
    no_dedupe: cli_run.NoDedupe = False,
    economy: cli_run.EconomyOption = None,
    encoder: cli_run.Encoder = None,
    absorb_tail: cli_run.AbsorbTail = None,
    patches: cli_run.Patches = None,
    gap: cli_run.Gap = None,
    references: cli_run.References = None,
    no_calibrate: cli_run.NoCalibrate = False,
    seed: cli_run.Seed = None,
    batch_size: cli_run.BatchSize = None,
    data: cli_run.Data = None,
    data_dir: cli_run.DataDir = None,
    max_qpu_seconds: cli_run.Budget = None,
    yes: cli_run.Yes = False,
    ledger: cli_run.Where = cli_run.LEDGER,
    wait: cli_run.Wait = False,
    poll_seconds: cli_run.Poll = 10.0,
) -> None:
    """Begin a durable run of a checkpoint on its test images, or go on with it.

    Prints one JSON object to stdout: `state` is done, pending, failed, wrong usage or interrupted.
    A run that exists needs --run and --ledger only, and takes a new budget with --max-qpu-seconds;
    with --model and --backend, all must be as it was. Events are appended, as JSON lines, to
    RUN.log.jsonl beside the ledger.
    """
    given = locals()
    for name in ("run", "ledger", "wait", "poll_seconds"):
        del given[name]
    answer: dict[str, Any] = {"run": run}
    with deferred_interrupts() as interrupts:
        try:
            require("runs", "A durable run")
            from hardware_runs.checkpoints.commands import Pace

            pace = Pace(wait=wait, poll_seconds=poll_seconds, check=interrupts.check)
            answer = _begin_or_go_on(ledger, run, given, pace)
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


def _begin_or_go_on(ledger: str, run: str, given: dict[str, Any], pace: Pace) -> dict[str, Any]:
    from hardware_runs.checkpoints import commands
    from hardware_runs.checkpoints.checkpoint_runs import check_name

    check_name(run)
    if given["model"] is not None and given["backend"] is not None:
        any_time = given.pop("yes")
        return commands.submit(ledger, run, commands.ask(**given), pace, any_time=any_time)
    budget = given.pop("max_qpu_seconds")
    told = [name for name, value in given.items() if value is not None and value is not False]
    if told:
        raise UsageError(
            f"{', '.join('--' + name.replace('_', '-') for name in told)}: give both --model and "
            "--backend to begin a run, or --run alone to go on with one."
        )
    return commands.collect(ledger, run, pace, max_qpu_seconds=budget)


if __name__ == "__main__":
    app()
