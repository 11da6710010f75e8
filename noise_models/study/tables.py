"""Tables of a study: one row per cell, and one per combination with its statistics over seeds."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from noise_models.study.cell_files import check_parquet
from noise_models.study.plan import AXES
from qpc_qiskit.common.files import read_file, written_aside
from qpc_qiskit.grid.statistics import (
    Interval,
    crossing,
    fixed_sequence,
    holm,
    mean_interval,
    paired_bootstrap,
    paired_test,
)

if TYPE_CHECKING:
    import pandas as pd

GROUP = tuple(name for name in AXES if name not in ("seed", "repeat"))
"""Columns that tell the rows of a summary apart."""
_NUMBERS = {"num_layers", "strength", "shots"}
"""Of these the numbers; the others are text."""
_MAX_VALUES = 2**28
"""Of a table; a study of a thousand cells on 10,000 images has 3e7."""
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
MAX_STEP = 0.15
"""Between two strengths that are further apart than this in their drops a threshold is a bracket:
where in between it lies is then what the interpolation says, not what was measured."""


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Statistics over seeds of every combination.

    Repeats are averaged first: they are draws of shots, no networks of their own. Columns:

    - `accuracy`, `drop` with `_low` and `_high`: mean over seeds and Student's 95 % interval;
    - `drop_images_low`, `_high`: of the same drop, 95 % over test images (paired bootstrap);
    - `p_value`, `effect`, `cohen_dz`: of the drop, see `statistics.paired_test`; NaN with fewer
      than 8 seeds. `p_sequence`: adjusted for the strengths of one line, which are tested from the
      strongest down until one is not significant, see `statistics.fixed_sequence`;
    - `gain`, `gain_low`, `gain_high`, `gain_p`, `gain_holm`: accuracy against mitigation `none` of
      the same seeds; `gain_holm` is corrected for the mitigations of one noise, which have no
      order; NaN where `none` was not run;
    - `scale`, `shift`: mean of the channels' lines, root mean square of their shifts.

    Args:
        results: a row per cell, axes and what was measured, as `run_study` gives it.
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
    strongest_first = summary.loc[summary["strength"].abs().sort_values(ascending=False).index]
    for told_first, keys, name, adjusted, adjust in (
        (strongest_first, line, "p_value", "p_sequence", fixed_sequence),
        (summary, choice, "gain_p", "gain_holm", holm),
    ):
        # By the index: rows stay where they are, whatever the order of the tests.
        summary[adjusted] = told_first.groupby(keys, sort=False)[name].transform(
            lambda column, adjust=adjust: adjust(list(column))
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

    What was seen is a bracket: of the mean over seeds, the largest strength that loses fewer points
    and the smallest that loses more. In between each seed is interpolated, see
    `statistics.crossing`. Negative strengths take no part.

    Args:
        results: a row per cell, axes and what was measured, as `run_study` gives it.
        threshold: of the drop, in 0..1.

    Returns:
        One row per line of at least two strengths:

        - `num_crossed` of `num_seeds` that lose so much; `num_at_smallest` of them at the smallest
          strength already;
        - `between_low`, `between_high`: the bracket. `between_low` NaN: the threshold is at or
          below `between_high`. `between_high` NaN: it is above `between_low`;
        - `step`: by how much the drops of a seed differ at the strengths around its own crossing,
          mean over seeds;
        - `strength`: geometric mean of the seeds' interpolated strengths, NaN unless all of them
          cross within what was tried;
        - `strength_low`, `strength_high`: Student's 95 % over seeds, of the logarithms; only where
          `step` is below `MAX_STEP`;
        - `smallest`, `largest`: strengths that were tried.
    """
    import pandas as pd

    line = [name for name in GROUP if name != "strength"]
    told = []
    for key, group in results.groupby(line, sort=False):
        strengths = sorted(s for s in set(group["strength"]) if s >= 0)
        if len(strengths) < 2:
            continue
        table = group.pivot_table(index="seed", columns="strength", values="drop")[strengths]
        told.append(
            {
                **dict(zip(line, key, strict=True)),
                "num_seeds": len(table),
                **_threshold(strengths, table.to_numpy(), threshold),
                "smallest": strengths[0],
                "largest": strengths[-1],
            }
        )
    return pd.DataFrame(told)


def _threshold(
    strengths: Sequence[float], drops: NDArray[np.float64], threshold: float
) -> dict[str, Any]:
    """Of a line, from drops (seeds, strengths)."""
    seeds = [crossing(strengths, list(row), threshold) for row in drops]
    mean = crossing(strengths, list(drops.mean(axis=0)), threshold)
    step = float(np.mean([each.step for each in seeds]))  # NaN: not all are between strengths
    found = Interval(math.nan, math.nan, math.nan)
    if not math.isnan(step):
        with np.errstate(divide="ignore", invalid="ignore"):  # a seed may cross at strength 0
            logs = mean_interval(np.log([each.strength for each in seeds]))
        found = Interval(*(math.exp(v) for v in (logs.mean, logs.low, logs.high)))
        if step >= MAX_STEP:
            found = Interval(found.mean, math.nan, math.nan)
    return {
        "num_crossed": sum(not math.isnan(each.above) for each in seeds),
        "num_at_smallest": sum(math.isnan(each.below) for each in seeds),
        "between_low": mean.below,
        "between_high": mean.above,
        "step": step,
        **_interval("strength", found),
    }


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
        ValueError: the file is damaged, or no table of a study.
    """
    import pandas as pd

    if path.with_suffix(".parquet").exists():
        return read_parquet(path.with_suffix(".parquet"))
    content = read_file(path.with_suffix(".csv"), ValueError)
    try:
        # Only an empty field is a number that is missing: a network may be called NA.
        found = pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError:  # no rows, hence no columns
        return pd.DataFrame()
    return _checked(found, path.with_suffix(".csv"))


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file of `write_table`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or no table of a study.
    """
    check_parquet(path, _MAX_VALUES)
    from pyarrow import parquet

    # What pandas has written about itself is not needed, and trusted by nobody.
    found: pd.DataFrame = parquet.read_table(path, partitioning=None).to_pandas(
        ignore_metadata=True
    )
    return _checked(found, path)


def _checked(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The same, if it has the columns by which rows of a study are told apart."""
    from pandas.api.types import is_numeric_dtype

    if len(frame.columns):
        for name in GROUP:
            if name not in frame:
                raise ValueError(f"{path}: expected a column {name!r}, found none")
            is_number = name in _NUMBERS
            if len(frame) and is_number != is_numeric_dtype(frame[name]):
                raise ValueError(
                    f"{path}: expected {'numbers' if is_number else 'text'} in the column {name!r}"
                )
    return frame
