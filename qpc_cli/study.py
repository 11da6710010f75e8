"""`qpc noise study|plot|report`: noise studies; a thin shell over `noise_models.study.run`.

Everything heavy is imported inside the commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc_cli.support import EXIT_CODES, USAGE_ERROR, fail, reported, say
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.tables import table

if TYPE_CHECKING:
    from noise_models.study.run import StudyRun
    from noise_models.study.spec import StudySpec

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a finished study.")]

STUDIES = "A noise study"
SHOWN_ROWS = 40
"""Of a summary on the terminal."""


def register(noise_app: typer.Typer) -> None:
    """Add the commands to `qpc noise`."""
    for command in (study, plot, report):
        noise_app.command(epilog=EXIT_CODES)(command)


def study(
    spec: Annotated[
        Path, typer.Argument(metavar="STUDY.toml", exists=True, dir_okay=False, help="The study.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the study.", show_default="studies/NAME", file_okay=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes on this machine; 0: in this process.",
            show_default="one for each core",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running Dask cluster instead, tcp://HOST:PORT."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Check the study and say what it has, and run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run networks under noise: train what is missing, evaluate, tables, figures, report.

    What is finished is kept, so the same call goes on after an interruption. For instance:

      qpc noise study examples/noise_study/digits.toml
    """
    with reported(), _usage():
        if workers is not None and scheduler is not None:
            fail("--workers and --scheduler contradict each other; give one.", USAGE_ERROR)
        require("studies", STUDIES)
        if scheduler is not None:
            require("cluster", "--scheduler")
        from noise_models.study.run import run_study
        from noise_models.study.spec import StudySpec
        from qpc_qiskit.common.progress import busy

        read = StudySpec.load(spec)
        folder = out or Path("studies") / read.name
        if plan:
            _show(read, folder, as_json)
            return
        try:
            with busy("planning") as bar:
                run = run_study(
                    read, folder, workers=workers, scheduler=scheduler, on_progress=bar.count
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Stopped. What was finished is in {folder}; the same call goes on from there."
            ) from None
        _finish(run, as_json)


def plot(folder: Folder, as_json: AsJson = False) -> None:
    """Draw the figures of a study anew, each with its data as CSV."""
    with reported():
        require("studies", STUDIES)
        from noise_models.study.figures import draw_figures
        from noise_models.study.run import load_study

        drawn = draw_figures(load_study(folder), folder / "figures")
        names = [str(each.path) for each in drawn]
        say(as_json, {"figures": names}, "\n".join(names))


def report(folder: Folder, as_json: AsJson = False) -> None:
    """Write the report of a study anew, with its figures: one HTML file."""
    with reported():
        require("studies", STUDIES)
        from noise_models.study.run import load_study

        _finish(load_study(folder), as_json)


def _show(spec: StudySpec, folder: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from noise_models.study.plan import Plan

    plan = Plan(spec, folder.resolve())
    rows, jobs, missing = plan.rows_by_grid, plan.jobs, plan.missing
    result = {
        "folder": str(folder),
        "networks": len(jobs),
        "networks_to_train": [job.folder.name for job in missing],
        "rows": rows,
        "skipped": [asdict(each) for each in plan.skipped],
    }
    lines = [
        f"{spec.name}: {len(jobs)} networks of its own, {len(missing)} of them to be trained; "
        f"{plan.num_rows} rows, each a cell unless two grids share it",
        table([("grid", "rows"), *rows.items()]),
    ]
    lines += [f"left out: {s.mitigation} on {s.noise}: {s.reason}" for s in plan.skipped]
    say(as_json, result, "\n".join(lines))


def _finish(run: StudyRun, as_json: bool) -> None:
    from noise_models.study.figures import draw_figures
    from noise_models.study.report import summary_text, write_report
    from qpc_qiskit.common.progress import busy

    with busy("Drawing figures"):
        figures = draw_figures(run, run.folder / "figures")
        path = write_report(run, figures)
    rows = summary_text(run.summary)
    shown = table(rows[: SHOWN_ROWS + 1])
    more = len(rows) - 1 - SHOWN_ROWS
    told = f"\n... and {more} more, in {run.folder / 'summary.csv'}" if more > 0 else ""
    call = run.last_call
    result: dict[str, Any] = {
        "folder": str(run.folder),
        "report": str(path),
        "figures": [str(each.path) for each in figures],
        "cells": run.about["num_cells"],
        "last_call": call,
        "skipped": run.about["skipped"],
    }
    for each in run.about["skipped"]:
        told += f"\nleft out: {each['mitigation']} on {each['noise']}: {each['reason']}"
    say(
        as_json,
        result,
        f"{shown}{told}\n{path}: {run.about['num_cells']} cells, {call['num_evaluated']} of "
        f"them evaluated by the last call, in {call['wall_seconds']:.1f} s",
    )


@contextmanager
def _usage() -> Iterator[None]:
    from qpc_qiskit.errors import NoiseError

    try:
        yield
    except NoiseError as error:
        fail(str(error), USAGE_ERROR)
