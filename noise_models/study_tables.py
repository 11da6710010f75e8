"""Tables of a study: one row per cell, and one per combination with its statistics over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noise_models.statistics import (
    Interval,
    crossing,
    holm,
    mean_interval,
    paired_bootstrap,
    paired_test,
)
from noise_models.study_plan import AXES
from qpc_qiskit.files import written_aside

if TYPE_CHECKING:
    import pandas as pd

GROUP = tuple(name for name in AXES if name not in ("seed", "repeat"))
"""Columns that tell the rows of a summary apart."""
PLAIN_MEANS = (
    "loss",
    "macro_f1",
    "flips",
    "feature_mse",
    "feature_cosine",
    "feature_std",
    "gate_fidelity",
    "readout_fidelity",
    "two_qubit_gates",
    "two_qubit_depth",
    "executions_per_image",
)
"""Of which a summary has the mean over seeds."""
THRESHOLD = 0.05
"""Drop of accuracy whose strength is told: five points."""


def results_frame(rows: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> pd.DataFrame:
    """One row per cell: axes, then what was measured.

    Args:
        rows: (axes, values) in the order of the study.
    """
    import pandas as pd

    return pd.DataFrame([{**axes, **values} for axes, values in rows])


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Statistics over seeds of every combination.

    Repeats are averaged first: they are draws of shots, no networks of their own. Columns:

    - `accuracy`, `drop` with `_low` and `_high`: mean over seeds and Student's 95 % interval;
    - `drop_images_low`, `_high`: of the same drop, 95 % over test images (paired bootstrap);
    - `p_value`, `p_holm`, `effect`, `cohen_dz`: of the drop, see `statistics.paired_test`; p_holm
      is corrected for the strengths of one line. NaN with fewer than 8 seeds;
    - `gain`, `gain_low`, `gain_high`, `gain_p`, `gain_holm`: accuracy against mitigation `none` of
      the same seeds; corrected for the mitigations of one noise; NaN where `none` was not run;
    - `scale`, `shift`: mean of the channels' lines, root mean square of their shifts.

    Args:
        results: of `results_frame`.
    """
    import pandas as pd

    by_seed = _by_seed(results)
    plain = by_seed[by_seed["mitigation"] == "none"].set_index(
        [*(name for name in GROUP if name != "mitigation"), "seed"]
    )["accuracy"]
    told = []
    for key, group in results.groupby(list(GROUP), sort=False):
        seeds = by_seed.loc[group.index.intersection(by_seed.index)]
        told.append({**dict(zip(GROUP, key, strict=True)), **_summary(group, seeds, plain)})
    summary = pd.DataFrame(told)
    line = [name for name in GROUP if name != "strength"]
    choice = [name for name in GROUP if name != "mitigation"]
    for keys, p_value, corrected in ((line, "p_value", "p_holm"), (choice, "gain_p", "gain_holm")):
        summary[corrected] = summary.groupby(keys, sort=False)[p_value].transform(
            lambda column: holm(list(column))
        )
    return summary


def _by_seed(results: pd.DataFrame) -> pd.DataFrame:
    """Means over repeats, at the index of the first of them."""
    columns = ["accuracy", "ideal_accuracy", "drop"]
    keys = [*GROUP, "seed"]
    means = results.groupby(keys, sort=False)[columns].transform("mean")
    by_seed = results[keys].join(means)
    return by_seed[~results.duplicated(keys)]


def _summary(group: pd.DataFrame, seeds: pd.DataFrame, plain: pd.Series[float]) -> dict[str, Any]:
    drop = mean_interval(seeds["drop"])
    accuracy = mean_interval(seeds["accuracy"])
    test = paired_test(seeds["ideal_accuracy"], seeds["accuracy"])
    ideal = np.stack([np.equal(p, y) for p, y in _arrays(group, "ideal_predictions")])
    noisy = np.stack([np.equal(p, y) for p, y in _arrays(group, "predictions")])
    images = paired_bootstrap(ideal, noisy)
    scales = [np.nanmean(values) for values in group["channel_scale"]]
    shifts = [np.sqrt(np.nanmean(np.square(values))) for values in group["channel_shift"]]
    return {
        "num_seeds": len(seeds),
        "num_images": int(group["num_images"].iloc[0]),
        "ideal_accuracy": float(seeds["ideal_accuracy"].mean()),
        **_interval("accuracy", accuracy),
        **_interval("drop", drop),
        "drop_images_low": images.low,
        "drop_images_high": images.high,
        "p_value": math.nan if test is None else test.p_value,
        "effect": math.nan if test is None else test.effect,
        "cohen_dz": math.nan if test is None else test.cohen_dz,
        **_gain(seeds, plain),
        **{name: float(group[name].mean()) for name in PLAIN_MEANS},
        "scale": float(np.mean(scales)),
        "shift": float(np.mean(shifts)),
        "shot_noise_floor": float(group["shot_noise_floor"].iloc[0]),
    }


def _arrays(group: pd.DataFrame, name: str) -> list[tuple[Any, Any]]:
    return list(zip(group[name], group["labels"], strict=True))


def _interval(name: str, found: Interval) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _gain(seeds: pd.DataFrame, plain: pd.Series[float]) -> dict[str, float]:
    nothing = {**_interval("gain", Interval(math.nan, math.nan, math.nan)), "gain_p": math.nan}
    if seeds["mitigation"].iloc[0] == "none":
        return nothing
    keys = seeds[[*(name for name in GROUP if name != "mitigation"), "seed"]]
    places = [tuple(values) for values in keys.to_numpy(dtype=object)]
    if any(place not in plain.index for place in places):
        return nothing
    without = np.array([plain.loc[place] for place in places])
    mitigated = seeds["accuracy"].to_numpy()
    test = paired_test(mitigated, without)
    return {
        **_interval("gain", mean_interval(mitigated - without)),
        "gain_p": math.nan if test is None else test.p_value,
    }


def thresholds(results: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Strength at which accuracy has fallen by some points, of every line of the study.

    Each seed crosses at a strength of its own, linear in the logarithm between two strengths. The
    interval is Student's over seeds, of the logarithms.

    Args:
        results: of `results_frame`.
        threshold: of the drop, in 0..1.

    Returns:
        One row per line of at least two strengths: `num_crossed` of `num_seeds`; `strength` with
        `_low` and `_high`, NaN where not all seeds cross; `largest`, that was tried.
    """
    import pandas as pd

    line = [name for name in GROUP if name != "strength"]
    told = []
    for key, group in results.groupby(line, sort=False):
        strengths = sorted(set(group["strength"]))
        if len(strengths) < 2:
            continue
        table = group.pivot_table(index="seed", columns="strength", values="drop")[strengths]
        crossings = np.array(
            [
                crossing(strengths, list(drops), threshold, logarithmic=strengths[0] > 0)
                for drops in table.to_numpy()
            ]
        )
        crossed = crossings[np.isfinite(crossings) & (crossings > 0)]
        found = Interval(math.nan, math.nan, math.nan)
        if len(crossed) == len(crossings):
            logs = mean_interval(np.log(crossed))
            found = Interval(*(math.exp(v) for v in (logs.mean, logs.low, logs.high)))
        told.append(
            {
                **dict(zip(line, key, strict=True)),
                "num_seeds": len(table),
                "num_crossed": len(crossed),
                **_interval("strength", found),
                "largest": strengths[-1],
            }
        )
    return pd.DataFrame(told)


def records(frame: pd.DataFrame) -> list[Any]:
    """Rows, whose columns are attributes."""
    return list(frame.itertuples(index=False))


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet or CSV, by the suffix, in one step; numbers in full precision."""
    with written_aside(path) as aside:
        if path.suffix == ".csv":
            frame.to_csv(aside, index=False, lineterminator="\n")
        else:
            frame.to_parquet(aside, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """A table that `write_table` wrote: the Parquet file, or the CSV file where there is none.

    Args:
        path: without suffix.

    Raises:
        OSError: there is neither.
        ValueError: the file is damaged.
    """
    import pandas as pd

    if path.with_suffix(".parquet").exists():
        return pd.read_parquet(path.with_suffix(".parquet"))
    try:
        # Only an empty field is a number that is missing: a network may be called NA.
        return pd.read_csv(path.with_suffix(".csv"), keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError:  # no rows, hence no columns
        return pd.DataFrame()
