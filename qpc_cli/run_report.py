"""`qpc run report`: what a durable run did, as a page, as JSON and as figures with their data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpc_cli.run import EXIT_CODES, LEDGER, AsJson, DataDir, Name, Where, check_run, usage_reported
from qpc_cli.support import USAGE_ERROR, fail, say

Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the report.", show_default="reports/RUN", file_okay=False),
]
Model = Annotated[Path | None, typer.Option(help="Where the checkpoint is now, if it was moved.")]
Simulate = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Complete images that noiseless Aer and a noisy copy evaluate as well; 0: none. "
        "(default: as many as take some minutes at most)",
    ),
]


def register(run_app: typer.Typer) -> None:
    """Add the command to `qpc run`."""
    run_app.command(epilog=EXIT_CODES)(report)


def report(
    run: Name,
    out: Out = None,
    model: Model = None,
    data_dir: DataDir = None,
    simulate: Simulate = None,
    ledger: Where = LEDGER,
    as_json: AsJson = False,
) -> None:
    """Write what a run did: one HTML file, JSON, and figures with their data.

    Accuracy from exact, simulated and measured values, features against exact ones, patches, jobs,
    QPU time. Nothing is sent, and the ledger is only read; a run that is not finished, failed or
    was cancelled is reported as far as it came, and the report begins with what is missing.

    For instance:

      qpc run report first
    """
    with usage_reported(ledger):
        check_run(run, ledger)
        import time

        from hardware_runs.checkpoints.checkpoint_runs import NAME
        from hardware_runs.ledger import Ledger
        from hardware_runs.reports.page import write_report
        from hardware_runs.reports.report import examine, find_work
        from qpc_qiskit.common.progress import busy

        with Ledger(ledger, create=False) as book, busy(f"Run {run}") as bar:
            known = book.get_run(run)
            if out is None and not NAME.fullmatch(known.name):
                fail(
                    f"The name of run {known.name!r} cannot be that of a folder; give --out.",
                    USAGE_ERROR,
                )
            folder = out or Path("reports") / known.name
            bar.begin(f"Run {run}: loading the network")
            work, why = find_work(known, model, data_dir)
            examined = examine(
                book,
                known,
                where=ledger,
                now=time.time(),
                work=work,
                why_no_work=why,
                num_simulated=simulate,
                on_step=lambda text: bar.begin(f"Run {run}: {text}"),
            )
            bar.begin(f"Run {run}: drawing figures")
            written = write_report(examined, folder)
        found = examined.report
        files = {
            "page": str(written.page),
            "data": str(written.data),
            "figures": [str(path) for path in written.figures],
        }
        lines = [f"warning: {each}" for each in found.warnings]
        lines.append(f"{written.page}: run {found.status.run}, {found.status.state}")
        say(as_json, found.to_dict() | {"files": files}, "\n".join(lines))
