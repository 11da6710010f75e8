"""The report of a run as one HTML file that needs nothing else, with JSON and figures beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_runs.durable_engine.status import iso_time
from hardware_runs.reports.figures import SECTIONS, Drawn, draw_figures
from hardware_runs.reports.records import Agreement, JobReport, RunReport
from hardware_runs.reports.report import Examined
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.files import write_text
from qpc_qiskit.plots.pages import Picture, Table, number, write_page

REPORT_FILE = "report.html"
DATA_FILE = "report.json"
FIGURES = "figures"
_ENGINES = {
    "exact": "exact engine",
    "aer": "noiseless Aer",
    "noisy": "noisy copy",
    "measured": "measured",
}
MAX_ROWS = 400
"""Of a table; the JSON has all."""


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    page: Path
    data: Path
    figures: tuple[Path, ...]
    """PNG; SVG and CSV have the same names."""


def write_report(examined: Examined, folder: Path) -> Written:
    """Write a report into a folder; one that is there is replaced.

    Args:
        examined: the run.
        folder: made if it is missing.
    """
    require("runs", "The report of a run")
    figures = draw_figures(examined, folder / FIGURES)
    report = examined.report
    told = json.dumps(report.to_dict(), indent=2, allow_nan=False)
    write_text(folder / DATA_FILE, f"{told}\n")
    write_page(
        folder / REPORT_FILE,
        "hardware_runs.reports",
        "run_report.html.j2",
        report=report,
        summary=list(_summary(report)),
        tables={
            "accuracy": _accuracy(report),
            "features": _layers(report),
            "patches": _patches(report),
            "jobs": _jobs(report.jobs),
            "usage": _usage(report),
            "settings": _settings(report),
            "revisions": _revisions(report),
            "versions": _versions(report),
        },
        errors=[(a.job_id or a.tag, a.error) for a in (j.attempt for j in report.jobs) if a.error],
        figures=_by_section(figures),
    )
    paths = tuple(each.path for each in figures)
    return Written(folder / REPORT_FILE, folder / DATA_FILE, paths)


def _by_section(figures: Sequence[Drawn]) -> dict[str, list[Picture]]:
    found: dict[str, list[Picture]] = {name: [] for name in SECTIONS}
    for each in figures:
        beside = f"{FIGURES}/{each.path.stem}.svg, .csv"
        found[each.section].append(Picture(each.path, each.caption, beside))
    return found


def _summary(report: RunReport) -> Sequence[str]:
    status = report.status
    told = [f"State: {status.state}."]
    measured = next((each for each in report.engines if each.engine == "measured"), None)
    if measured is not None:
        exact = next(each for each in report.engines if each.engine == "exact")
        told.append(
            "Accuracy from measured values: "
            f"{_share(measured.accuracy, measured.accuracy_interval)} on {measured.num_images:,} "
            f"images; from exact values {_share(exact.accuracy, exact.accuracy_interval)}. Their "
            f"predictions agree on {round(measured.agreement * measured.num_images):,} of "
            f"{measured.num_images:,} images."
        )
    usage, budget = report.usage, status.budget
    told.append(
        f"QPU time: {budget.used_seconds:,.1f} s used in {usage.num_jobs:,} "
        f"job{'' if usage.num_jobs == 1 else 's'}"
        + (f", {budget.reserved_seconds:,.0f} s held back" if budget.reserved_seconds else "")
        + "."
    )
    return told


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _accuracy(report: RunReport) -> Table:
    return Table(
        "Predictions",
        (
            "engine",
            "images",
            "correct",
            "accuracy / %",
            "as exact / %",
            "loss",
            "largest logit difference",
            "measured on these / %",
        ),
        [
            (
                _ENGINES[each.engine],
                f"{each.num_images:,}",
                f"{each.num_correct:,}",
                _share(each.accuracy, each.accuracy_interval).replace(" %", ""),
                _share(each.agreement, each.agreement_interval).replace(" %", ""),
                f"{each.loss:.4f}",
                number(each.max_logit_difference),
                f"{100 * each.measured_accuracy:.1f}",
            )
            for each in report.engines
        ],
        "Every row says on how many images it stands: the first so many of those of which every "
        "value was measured. Brackets: Wilson's 95 % interval. As exact: the same prediction as "
        "the exact engine's. Differences are from the exact engine's logits.",
    )


def _layers(report: RunReport) -> Table:
    def cells(each: Agreement | None) -> tuple[object, ...]:
        if each is None:
            return ("-",) * 5
        scale = "-" if each.scale is None else f"{each.scale:.3f} ± {number(each.scale_std)}"
        return (
            f"{each.num_values:,}",
            number(each.rms_error),
            number(each.expected_rms),
            scale,
            f"{number(each.bias)} ± {number(each.bias_std)}",
        )

    rows = []
    for layer in report.layers:
        progress = layer.progress
        done = f"{progress.num_rows_done:,}/{progress.num_rows:,}"
        kinds = [("as used", layer.as_used)]
        if layer.as_measured is not None:
            kinds.append(("as measured, not calibrated", layer.as_measured))
        rows += [(f"{progress.layer}, {kind}", done, *cells(each)) for kind, each in kinds]
    return Table(
        "Features",
        (
            "layer",
            "executions",
            "values",
            "rms error",
            "from shots alone",
            "scale",
            "bias",
        ),
        rows,
        "Measured values against exact values of the same frozen inputs. Scale: slope of the line "
        "through them, 1 without noise. From shots alone: what the standard errors let expect.",
    )


def _patches(report: RunReport) -> Table:
    rows = [
        (
            "-".join(map(str, each.references.qubits)) or "no device",
            each.references.layer,
            each.state,
            "-" if each.predicted_fidelity is None else f"{each.predicted_fidelity:.3f}",
            each.num_jobs,
            f"{each.num_rows:,}",
            f"{number(each.rms_error)} ± {number(each.rms_error_std)}",
            number(each.expected_rms),
            number(each.bias),
            number(each.references.scale),
            _calibrated(each.references.num_features, each.references.num_not_calibrated),
            len(each.references.problems) or "",
        )
        for each in report.patches
    ]
    return Table(
        "Patches",
        (
            "qubits",
            "layer",
            "state",
            "predicted fidelity",
            "jobs",
            "rows",
            "rms error",
            "from shots alone",
            "bias",
            "scale of references",
            "calibrated",
            "found bad",
        ),
        rows[:MAX_ROWS],
        "Errors are of values as used. Scale of references: what the patch leaves of a value, by "
        "the rows with known answers; calibration divides by it." + _cut(len(rows)),
    )


def _calibrated(num_features: int, num_not: int) -> str:
    return f"{num_features - num_not:,}/{num_features:,}" if num_features else "no"


def _jobs(jobs: Sequence[JobReport]) -> Table:
    rows = [
        (
            job.attempt.job_id or f"(no job; tag {job.attempt.tag})",
            f"{job.chunk.layer}#{job.chunk.id}",
            job.attempt.number,
            f"{job.chunk.num_rows:,}",
            f"{job.attempt.state}{', replaced' if job.chunk.replaced_at is not None else ''}",
            _seconds(job.chunk.predicted_seconds),
            _seconds(job.attempt.usage_seconds),
            f"{job.attempt.reserved_seconds} s",
            _clock(job.attempt.posted_at),
            _seconds(job.queue_seconds),
            _seconds(job.run_seconds),
            _clock(job.attempt.finished_at),
            job.session_id or "",
        )
        for job in jobs
    ]
    return Table(
        "Jobs",
        (
            "job",
            "layer#chunk",
            "attempt",
            "executions",
            "state",
            "forecast",
            "used",
            "cap",
            "sent",
            "queued",
            "ran",
            "collected",
            "session",
        ),
        rows[:MAX_ROWS],
        "Queued and ran: by the service's clock; -: not known. Sent and collected: by this side's "
        "clock, UTC." + _cut(len(rows)),
    )


def _usage(report: RunReport) -> Table:
    usage, budget, ratio = report.usage, report.status.budget, report.status.usage_over_forecast
    limit = budget.max_qpu_seconds
    return Table(
        "QPU time",
        ("", "seconds"),
        [
            ("used, by all jobs", _seconds(budget.used_seconds)),
            ("forecast of the jobs that are done", _seconds(usage.predicted_seconds_done)),
            ("used / forecast, of those", "-" if ratio is None else f"{ratio:.2f}"),
            ("held back", _seconds(budget.reserved_seconds)),
            ("forecast of what is not done", _seconds(usage.predicted_seconds_left)),
            ("budget", "no limit" if limit is None else _seconds(limit)),
            ("left of it", _seconds(budget.left_seconds)),
            ("jobs whose usage is not known", usage.num_unknown),
        ],
    )


def _settings(report: RunReport) -> Table:
    status, asked = report.status, report.status.asked
    shots = f"{status.shots:,}" if status.shots else "the backend's default, or exact values"
    told: dict[str, Any] = {
        "run": f"{status.run} ({status.run_id})",
        "begun": status.created,
        "backend": asked.backend,
        "mode": asked.mode,
        "shots of an execution": "none: exact values" if asked.precision == 0 else shots,
        "resilience level": asked.resilience,
        "noise": status.noise or "",
        "seed": "" if asked.seed is None else asked.seed,
        "options": json.dumps(asked.options) if asked.options else "",
        "circuits": asked.text() or "one row an execution, exact encoder",
        "equal directions": "run once" if asked.dedupe_grid else "each run on its own",
        "data": report.data or "not known",
        "images": "not known" if report.num_images is None else f"{report.num_images:,}",
        "ledger": report.ledger,
    }
    return Table("Settings", ("", "value"), [(k, v) for k, v in told.items() if v != ""])


def _revisions(report: RunReport) -> Table:
    return Table(
        "Revisions of circuits, patches and budget",
        ("reason", "number", "made"),
        [(each.reason, each.number, iso_time(each.created_at)) for each in report.status.revisions],
    )


def _versions(report: RunReport) -> Table:
    begun = report.versions_begun or {}
    return Table(
        "Versions",
        ("library", "when the run began", "of this report"),
        [(name, begun.get(name, "not known"), told) for name, told in report.versions.items()],
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} s"


def _clock(value: float | None) -> str:
    return "-" if value is None else iso_time(value)[:19].replace("T", " ")


def _cut(number_of_rows: int) -> str:
    if number_of_rows <= MAX_ROWS:
        return ""
    return f" The first {MAX_ROWS} of {number_of_rows:,}; all are in {DATA_FILE}."
