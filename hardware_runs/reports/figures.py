"""Which figures the report of a run has; how they look stands in `qpc_qiskit`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware_runs.reports.records import JobReport, RunReport
from hardware_runs.reports.replay import MeasuredRows
from hardware_runs.reports.report import Examined
from qpc_qiskit.plots.figures import plot_confusion, plot_predictions
from qpc_qiskit.plots.run_panels import (
    MOST_LABELS,
    Cloud,
    Series,
    Span,
    plot_clouds,
    plot_labelled,
    plot_spans,
)

SECTIONS = ("accuracy", "confusion", "images", "features", "patches", "jobs")
MOST_POINTS = 4000
"""Of a layer, drawn; the numbers in the report are of all."""
MOST_LAYERS = 6
_SENDING, _UNKNOWN, _HERE = "sending", "at the service (details not known)", "computed here"
_QUEUED, _RUNNING, _LOOKED = "queued", "running", "ended, not collected yet"


@dataclass(frozen=True)
class Drawn:
    """A figure on disk."""

    section: str
    """Of the report: a name of `SECTIONS`."""
    path: Path
    """PNG; SVG and CSV have the same name."""
    caption: str


def draw_figures(examined: Examined, folder: Path) -> list[Drawn]:
    """Draw every figure that a run has data for.

    Args:
        examined: the run.
        folder: where figures go; made if it is missing. Figures of an earlier report that are there
            are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = examined.report
    return [
        *_accuracy(report, folder),
        *_confusion(report, folder),
        *_images(examined, folder),
        *_features(examined, folder),
        *_patches(report, folder),
        *_usage(report, folder),
        *_timeline(report, folder),
    ]


def _accuracy(report: RunReport, folder: Path) -> Iterator[Drawn]:
    if not report.engines:
        return
    kinds = ("accuracy", "same prediction as exact")
    pairs = [
        [(each.accuracy, each.accuracy_interval) for each in report.engines],
        [(each.agreement, each.agreement_interval) for each in report.engines],
    ]
    series = [
        Series(
            name,
            [100 * value for value, _ in values],
            [100 * low for _, (low, _) in values],
            [100 * high for _, (_, high) in values],
        )
        for name, values in zip(kinds, pairs, strict=True)
    ]
    paths = plot_labelled(
        folder / "accuracy",
        [f"{each.engine}, {each.num_images:,} images" for each in report.engines],
        series,
        xlabel="share of the images / %",
        what="engine",
        limits=(0, 101),
    )
    yield Drawn(
        "accuracy",
        paths[0],
        "Accuracy and agreement with the exact engine; bars: Wilson's 95 % intervals, for the "
        "choice of images and the shots together.",
    )


def _confusion(report: RunReport, folder: Path) -> Iterator[Drawn]:
    for engine, table in report.confusion.items():
        paths = plot_confusion(
            folder / f"confusion-{engine}",
            np.array(table),
            report.class_names,
            f"{engine}, {report.num_complete} images",
        )
        words = "the measured values" if engine == "measured" else "the exact engine"
        yield Drawn("confusion", paths[0], f"Confusion matrix of {words}: numbers of images.")


def _images(examined: Examined, folder: Path) -> Iterator[Drawn]:
    shown = examined.report.images
    if not shown:
        return
    paths = plot_predictions(
        folder / "images",
        examined.pictures,
        [f"{s.label}\nexact {s.exact}\nmeasured {s.measured}" for s in shown],
        [s.label != s.measured for s in shown],
    )
    yield Drawn(
        "images",
        paths[0],
        "Images with their class, and the predictions from exact and from measured values; first "
        "those on which the two differ. Framed: measured values give a wrong class.",
    )


def _features(examined: Examined, folder: Path) -> Iterator[Drawn]:
    lines = {each.progress.layer: each.as_used for each in examined.report.layers}
    clouds = []
    for rows in examined.rows[:MOST_LAYERS]:
        x, y = _points(rows)
        line = lines.get(rows.layer)
        if len(x):
            fitted = None
            if line is not None and line.scale is not None and line.offset is not None:
                fitted = (line.scale, line.offset)
            clouds.append(Cloud(rows.layer, x, y, fitted))
    if clouds:
        paths = plot_clouds(
            folder / "features", clouds, xlabel="exact value", ylabel="measured value"
        )
        yield Drawn(
            "features",
            paths[0],
            "Measured values, as the network got them, against exact values of the same frozen "
            f"inputs; of each layer at most {MOST_POINTS:,} values, drawn at random.",
        )


def _points(rows: MeasuredRows) -> tuple[list[float], list[float]]:
    """Known values, exact and measured; the same choice every time."""
    known = np.isfinite(rows.exact) & np.isfinite(rows.measured)
    x, y = rows.exact[known], rows.measured[known]
    if len(x) > MOST_POINTS:
        kept = np.sort(np.random.default_rng(0).choice(len(x), MOST_POINTS, replace=False))
        x, y = x[kept], y[kept]
    return x.tolist(), y.tolist()


def _patches(report: RunReport, folder: Path) -> Iterator[Drawn]:
    for layer in dict.fromkeys(patch.references.layer for patch in report.patches):
        of_layer = [p for p in report.patches if p.references.layer == layer]
        found = [p for p in of_layer if p.rms_error is not None]
        if not found or (len(found) == 1 and not found[0].references.qubits):
            continue

        errors = _numbers([p.rms_error for p in found])
        stds = _numbers([p.rms_error_std for p in found])
        series = [
            Series(
                "rms error",
                errors,
                [e - 1.96 * s for e, s in zip(errors, stds, strict=True)],
                [e + 1.96 * s for e, s in zip(errors, stds, strict=True)],
            )
        ]
        if any(p.expected_rms is not None for p in found):
            series.append(
                Series("expected from shots alone", _numbers([p.expected_rms for p in found]))
            )
        paths = plot_labelled(
            folder / f"patches-{re.sub(r'[^A-Za-z0-9_-]+', '-', layer)}",
            [_patch_label(p.references.qubits, p.predicted_fidelity, p.state) for p in found],
            series,
            xlabel="error of a value",
            what="patch",
            title=layer,
        )
        more = f"; the first {MOST_LABELS} of {len(found)}" if len(found) > MOST_LABELS else ""
        yield Drawn(
            "patches",
            paths[0],
            f"Error of the values of {layer} as used, by patch, the best predicted fidelity (in "
            f"brackets) on top{more}. Bars: 95 %, as if values were independent.",
        )


def _numbers(values: Sequence[float | None]) -> list[float]:
    """What is not known is drawn nowhere."""
    return [math.nan if value is None else float(value) for value in values]


def _patch_label(qubits: Sequence[int], fidelity: float | None, state: str) -> str:
    where = "-".join(map(str, qubits)) or "no device"
    told = "" if fidelity is None else f" ({fidelity:.2f})"
    return f"{where}{told}{'' if state == 'in use' else ', ' + state}"


def _job_label(job: JobReport) -> str:
    name = job.attempt.job_id or job.attempt.tag
    short = name if len(name) <= 14 else f"{name[:6]}...{name[-5:]}"
    again = f"{short}, again"
    return again if job.attempt.number > 1 else f"{short}, {job.chunk.layer}#{job.chunk.id}"


def _unique(jobs: Sequence[JobReport]) -> list[str]:
    """A label for each; numbered where labels are alike."""
    labels = [_job_label(job) for job in jobs]
    return [
        label if labels.count(label) == 1 else f"{label} ({labels[:i].count(label) + 1})"
        for i, label in enumerate(labels)
    ]


def _usage(report: RunReport, folder: Path) -> Iterator[Drawn]:
    jobs = [job for job in report.jobs if job.attempt.job_id and not job.is_local]
    if not jobs:
        return

    paths = plot_labelled(
        folder / "usage",
        _unique(jobs),
        [
            Series("forecast", _numbers([job.chunk.predicted_seconds for job in jobs])),
            Series("used", _numbers([job.attempt.usage_seconds for job in jobs])),
            Series("cap", _numbers([job.attempt.reserved_seconds for job in jobs])),
        ],
        xlabel="QPU time / s",
        what="job",
    )
    more = f" The first {MOST_LABELS} of {len(jobs)}." if len(jobs) > MOST_LABELS else ""
    yield Drawn(
        "jobs", paths[0], f"QPU time of each job: forecast, used (where known) and its cap.{more}"
    )


def _timeline(report: RunReport, folder: Path) -> Iterator[Drawn]:
    jobs = [job for job in report.jobs if job.attempt.post_begun_at is not None]
    spans = [
        span for job, label in zip(jobs, _unique(jobs), strict=True) for span in _spans(job, label)
    ]
    if not spans:
        return
    paths = plot_spans(folder / "timeline", spans, what="job")
    count = len(dict.fromkeys(span.row for span in spans))
    more = f" The first {MOST_LABELS} of {count} jobs." if count > MOST_LABELS else ""
    yield Drawn(
        "jobs",
        paths[0],
        "When jobs were sent, queued, run and collected. Queued and running are times of the "
        f"service's clock, the others of this side's.{more}",
    )


def _spans(job: JobReport, label: str) -> Iterator[Span]:
    """What is known of a job's way; nothing is made up between two times that are known."""
    attempt, times = job.attempt, job.times
    begun, posted, stored = attempt.post_begun_at, attempt.posted_at, attempt.finished_at
    if begun is not None and posted is not None and posted > begun:
        yield Span(label, _HERE if job.is_local else _SENDING, begun, posted)
    if job.is_local:
        return
    if times.created is not None and times.running is not None:
        yield Span(label, _QUEUED, times.created, times.running)
        if times.finished is not None:
            yield Span(label, _RUNNING, times.running, times.finished)
            if stored is not None and stored > times.finished:
                yield Span(label, _LOOKED, times.finished, stored)
    elif posted is not None and stored is not None and stored > posted:
        yield Span(label, _UNKNOWN, posted, stored)
