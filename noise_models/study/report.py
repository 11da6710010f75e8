"""The report of a study: one HTML file with everything in it, to be read without a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noise_models.spec import read_text
from noise_models.study.figures import Drawn
from noise_models.study.run import SPEC_FILE, StudyRun
from noise_models.study.spec import StudySpec
from noise_models.study.tables import GROUP, MAX_STEP, THRESHOLD, records
from qpc_qiskit.grid.statistics import ALPHA, MIN_PAIRS, smallest_p
from qpc_qiskit.plots.pages import Picture, Table, number, write_page

if TYPE_CHECKING:
    import pandas as pd

REPORT_FILE = "report.html"
MAX_ROWS = 400
"""Of the table of all combinations; all of them are in `summary.csv`."""


def write_report(run: StudyRun, figures: Sequence[Drawn]) -> Path:
    """Write the report into the study's folder.

    Args:
        run: the study.
        figures: of `draw_figures`.
    """
    spec_text = read_text(run.folder / SPEC_FILE)
    path = run.folder / REPORT_FILE
    write_page(
        path,
        "noise_models.study",
        "report.html.j2",
        name=run.about["name"],
        description=StudySpec.from_toml(spec_text).description,
        about=run.about,
        spec=spec_text,
        seconds=_time(run.about["calls"]),
        conclusions=list(conclusions(run)),
        tables=list(_tables(run)),
        figures=[
            Picture(each.path, each.caption, f"figures/{each.path.stem}.svg, .csv")
            for each in figures
        ],
        devices=_devices(run.about["marks"]),
        versions=Table(
            "How it was made", ("library", "version"), list(run.about["versions"].items())
        ),
    )
    return path


def _devices(marks: Sequence[dict[str, Any]]) -> Table:
    """With the noise of which the study was made."""
    return Table(
        "Devices",
        ("device", "calibrated", "median two-qubit error", "median readout error"),
        [
            (
                mark["device"],
                mark["calibrated"] or "not told",
                number(mark["two_qubit_error"]),
                number(mark["readout_error"]),
            )
            for mark in marks
        ],
    )


def conclusions(run: StudyRun) -> Iterator[dict[str, Any]]:
    """What the study says, in sentences with intervals, for each network of each grid."""
    keys = ["grid", "network", "trained", "num_layers"]
    crossed = run.thresholds
    for key, summary in run.summary.groupby(keys, sort=False):
        grid, network, trained, layers = key
        how = "" if trained == "clean" else f", trained for {trained}"
        first = summary.iloc[0]
        sentences = [
            f"Without noise: {100 * first['ideal_accuracy']:.1f} % "
            f"({first['num_seeds']} seeds, {first['num_images']} test images)."
        ]
        if len(crossed):
            lines = crossed[(crossed["mitigation"] == "none") & (crossed["shots"] == 0)]
            for name, value in zip(keys, key, strict=True):
                lines = lines[lines[name] == value]
            sentences += [_crossing(row) for row in records(lines)]
        as_it_is = summary[(summary["quantity"] == "factor") & (summary["strength"] == 1.0)]
        sentences += [_drop(row) for row in records(as_it_is[as_it_is["mitigation"] == "none"])]
        title = f"{grid}: {network}{how}, {layers} block{'s' * (layers != 1)}"
        yield {"title": title, "sentences": sentences}


def _crossing(row: Any) -> str:
    points = f"{100 * THRESHOLD:g} points"
    unit = "times the noise as it is" if row.quantity == "factor" else row.quantity
    what = f"{row.noise}{_how(row)}"
    if row.num_crossed == 0:
        return f"{what}: fewer than {points} are lost up to {row.largest:g} ({unit})."
    by = f" by {row.num_crossed} of {row.num_seeds} seeds"
    if math.isnan(row.between_high):
        return f"{what}: {points} are lost{by} up to {row.largest:g} ({unit})."
    by = "" if row.num_crossed == row.num_seeds else by
    where = f"at {_interval(row.strength, row.strength_low, row.strength_high)}, "
    where = "" if math.isnan(row.strength_low) else where
    return f"{what}: {points} are lost{by} {where}{_bracket(row)} ({unit})."


def _bracket(row: Any) -> str:
    """Between which strengths that were tried a threshold is."""
    if math.isnan(row.between_high):
        return f"above {row.between_low:g}"
    if math.isnan(row.between_low):
        return f"at or below {row.between_high:g}"
    return f"between {row.between_low:g} and {row.between_high:g}"


def _drop(row: Any) -> str:
    p = row.p_sequence
    test = "" if math.isnan(p) else f"; p = {p:.2g}, effect {row.effect:+.2f}"
    return (
        f"{row.noise} as it is{_how(row)}: {_points(row.drop, row.drop_low, row.drop_high)} points "
        f"lost, images [{100 * row.drop_images_low:z.2f}, {100 * row.drop_images_high:z.2f}]{test}."
    )


def _how(row: Any) -> str:
    told = [] if row.encoder == "multiplexor" else [row.encoder]
    told += [] if row.mitigation == "none" else [row.mitigation]
    told += [] if row.shots == 0 else [_of_shots(row.shots)]
    return f" ({', '.join(told)})" if told else ""


def _of_shots(shots: int) -> str:
    return f"{shots:,} shots" if shots else "exact values"


def _points(mean: float, low: float, high: float) -> str:
    interval = "" if math.isnan(low) else f" [{100 * low:z.2f}, {100 * high:z.2f}]"
    return f"{100 * mean:z.2f}{interval}"


def _tables(run: StudyRun) -> Iterator[Table]:
    summary = run.summary
    gains = summary[summary["gain"].notna()]
    if len(gains):
        yield _table(
            "What mitigation gives",
            _GAINS,
            gains,
            "Against no mitigation of the same seeds, with as many shots of each circuit "
            "execution (zne runs three times as many executions). p is corrected for the "
            f"mitigations of one noise (Holm).{_reach(gains)} Feature mse: of the quantum layers' "
            "outputs against those without noise, which tells more than accuracy does where a "
            "network is robust.",
        )
    if len(run.thresholds):
        yield _table(
            f"Where {100 * THRESHOLD:g} points are lost",
            _THRESHOLDS,
            run.thresholds,
            "What was seen is between which of the strengths that were tried the mean over seeds "
            "loses so much. Interpolated: geometric mean of the seeds' strengths, linear in the "
            f"logarithm between neighbours; 95 % over seeds only where these differ by less than "
            f"{100 * MAX_STEP:g} points; "
            '"-": not all seeds cross within the strengths that were tried.',
        )
    seeds = int(summary["num_seeds"].max())
    note = "p is of the fixed sequence from the strongest strength of a line down. "
    if seeds < MIN_PAIRS:
        note = (
            f"No p-values: {_counted(seeds, 'seed')} cannot give one below "
            f"{smallest_p(seeds):.2g} (Wilcoxon), {MIN_PAIRS} are needed. "
        )
    if len(summary) > MAX_ROWS:
        note += f"The first {MAX_ROWS} of {len(summary)} rows; all are in summary.csv."
    yield _table("Every combination", _COLUMNS, summary.head(MAX_ROWS), note)


def _reach(gains: pd.DataFrame) -> str:
    """Tell where so few seeds cannot become significant, however large a gain is."""
    seeds = int(gains["num_seeds"].min())
    choice = [name for name in GROUP if name != "mitigation"]
    most = int(gains.groupby(choice)["mitigation"].nunique().max())
    smallest = smallest_p(seeds)
    if seeds < MIN_PAIRS or smallest * most <= ALPHA:
        return ""
    return (
        f" With {_counted(seeds, 'seed')} no gain can be significant among {most} mitigations: the "
        f"smallest p is {smallest:.2g}, corrected {min(1.0, smallest * most):.2g}."
    )


def _counted(number_of: int, what: str) -> str:
    return f"{number_of} {what}{'s' * (number_of != 1)}"


def _table(title: str, columns: _Columns, frame: pd.DataFrame, note: str) -> Table:
    rows = [[text(row) for _, text in columns] for row in records(frame)]
    return Table(title, [name for name, _ in columns], rows, note)


_Columns = tuple[tuple[str, Callable[[Any], object]], ...]

_AXES: _Columns = (
    ("grid", lambda r: r.grid),
    ("network", lambda r: r.network if r.trained == "clean" else f"{r.network} ({r.trained})"),
    ("blocks", lambda r: r.num_layers),
    ("noise", lambda r: r.noise),
)
_GAINS: _Columns = (
    *_AXES,
    ("strength", lambda r: f"{r.strength:g}"),
    ("shots", lambda r: r.shots or "exact"),
    ("mitigation", lambda r: r.mitigation),
    ("gain / points", lambda r: _points(r.gain, r.gain_low, r.gain_high)),
    ("p (Holm)", lambda r: number(r.gain_holm)),
    ("feature mse", lambda r: number(r.feature_mse)),
    ("executions per image", lambda r: f"{r.executions_per_image:.0f}"),
)
_THRESHOLDS: _Columns = (
    *_AXES,
    ("encoder", lambda r: r.encoder),
    ("shots", lambda r: r.shots or "exact"),
    ("mitigation", lambda r: r.mitigation),
    ("strength", _bracket),
    ("interpolated", lambda r: _interval(r.strength, r.strength_low, r.strength_high)),
    ("seeds that lose them", lambda r: f"{r.num_crossed} of {r.num_seeds}"),
    ("largest tried", lambda r: f"{r.largest:g}"),
)
_COLUMNS: _Columns = (
    *_AXES,
    ("strength", lambda r: f"{r.strength:g}"),
    ("encoder", lambda r: r.encoder),
    ("shots", lambda r: r.shots or "exact"),
    ("mitigation", lambda r: r.mitigation),
    ("accuracy / %", lambda r: _accuracy(r)),
    ("drop / points", lambda r: _points(r.drop, r.drop_low, r.drop_high)),
    ("images", lambda r: f"[{100 * r.drop_images_low:.2f}, {100 * r.drop_images_high:.2f}]"),
    ("p (sequence)", lambda r: number(r.p_sequence)),
    ("effect", lambda r: number(r.effect)),
    ("macro-F1", lambda r: f"{r.macro_f1:.3f}"),
    ("flips / %", lambda r: f"{100 * r.flips:.1f}"),
    ("feature mse", lambda r: number(r.feature_mse)),
    ("cosine", lambda r: f"{r.feature_cosine:.4f}"),
    ("scale", lambda r: f"{r.scale:.3f}"),
    ("gate fidelity", lambda r: f"{r.gate_fidelity:.3f}"),
    ("readout fidelity", lambda r: f"{r.readout_fidelity:.3f}"),
    ("2q gates", lambda r: f"{r.two_qubit_gates:.0f}"),
)


def _time(calls: Sequence[dict[str, Any]]) -> str:
    """What all calls together took."""

    def total(name: str) -> float:
        return float(sum(call[name] for call in calls))

    return (
        f"{total('num_trained'):.0f} networks trained and {total('num_evaluated'):.0f} cells "
        f"evaluated in {total('wall_seconds'):.0f} s, {len(calls)} call{'s' * (len(calls) != 1)}; "
        f"CPU time: training {total('training_cpu_seconds'):.0f} s, cells "
        f"{total('cells_cpu_seconds'):.0f} s, {total('preparing_cpu_seconds'):.0f} s of it to make "
        "circuits."
    )


def _accuracy(row: Any) -> str:
    # Student's interval of a few seeds may leave what an accuracy can be; tables have all of it.
    return _points(row.accuracy, max(row.accuracy_low, 0.0), min(row.accuracy_high, 1.0))


def _interval(mean: float, low: float, high: float) -> str:
    interval = "" if math.isnan(low) else f" [{low:.2g}, {high:.2g}]"
    return f"{number(mean)}{interval}"


def summary_text(summary: pd.DataFrame) -> list[tuple[object, ...]]:
    """Rows of a table for the terminal, the first of them the heading."""
    columns = [_COLUMNS[i] for i in (0, 1, 2, 3, 4, 6, 7, 8, 9)]
    heading = tuple(title for title, _ in columns)
    return [heading, *(tuple(text(row) for _, text in columns) for row in records(summary))]
