"""Every number of docs/noise-results.md is that of the study that is published beside it."""

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from noise_models.study.tables import THRESHOLD, records
from qpc_qiskit.grid.statistics import ALPHA

DOCS = Path(__file__).parents[3] / "docs"
STUDY = DOCS / "studies" / "digits"
CHANNELS = {
    "bit_flip": "bit flip",
    "phase_flip": "phase flip",
    "depolarizing": "depolarizing",
    "amplitude_damping": "amplitude damping",
    "phase_damping": "phase damping",
    "readout": "wrong readout",
}
SHOTS = (64, 256, 1024, 4096)
MITIGATIONS = ("none", "references", "readout", "zne")


def table(folder, name):
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])


def only(frame, **wanted):
    """The row with these values."""
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    (row,) = records(frame)
    return row


def percent(value, low, high, digits=1):
    """A mean with its interval; the page rounds as `round` does, and has no minus zero."""
    mean, left, right = (f"{100 * v + 0.0:.{digits}f}" for v in (value, low, high))
    return f"{mean} % ({left} to {right})"


def points(value, low, high, digits=1):
    """The same of a difference."""
    return percent(value, low, high, digits).replace(" %", " points")


def p(value):
    return f"p = {value:.2g}"


def threshold(row):
    """Of a line, as the page tells it: an interval where there is one, else what was seen."""
    if not math.isnan(row.strength_low):
        return f"{row.strength:.2g} ({row.strength_low:.2g} to {row.strength_high:.2g})"
    if row.num_crossed == 0:
        return f"above {row.largest:g}"
    return f"between {row.between_low:g} and {row.between_high:g}"


def of_run(folder):
    about = json.loads((folder / "run.json").read_text())

    def minutes(name):
        return f"{sum(call[name] for call in about['calls']) / 60:.0f}"

    trained = sum(call["num_trained"] for call in about["calls"])
    cpu = sum(c["training_cpu_seconds"] + c["cells_cpu_seconds"] for c in about["calls"]) / 60
    yield f"{about['num_cells']:,} cells and {trained} trainings"
    yield (
        f"{cpu:.0f} minutes of CPU time, {minutes('training_cpu_seconds')} of them for the "
        f"trainings, {minutes('cells_cpu_seconds')} for the cells "
        f"({minutes('preparing_cpu_seconds')} of these to prepare circuits); "
        f"{minutes('wall_seconds')} minutes on two cores"
    )


def of_channels(folder):
    summary, lines = table(folder, "summary"), table(folder, "thresholds")
    channels = summary[summary["grid"] == "channels"]
    small = channels[channels["strength"] <= 0.01]
    yield f"no drop at strengths up to 0.01 is above {100 * small['drop'].max():.1f} points"
    readout = channels[(channels["noise"] == "readout") & (channels["strength"] <= 0.4)]
    yield f"Wrong readout costs at most {100 * readout['drop'].max():.1f} points up to 0.4"
    for noise, words in CHANNELS.items():
        blocks = (
            only(lines, grid="channels", noise=noise, num_layers=layers) for layers in (1, 2, 3, 4)
        )
        yield f"| {words} | {' | '.join(map(threshold, blocks))} |"


def of_devices(folder):
    summary = table(folder, "summary")
    devices = summary[summary["grid"] == "devices"]
    weak = devices[devices["strength"] <= 4]
    clear = weak[weak["p_sequence"] < ALPHA]
    yield (
        f"no drop is above {100 * weak['drop'].max():.1f} points (significant: {len(clear)} of "
        f"{len(weak)})"
    )
    shrunk = [only(devices, noise="torino", num_layers=3, strength=s).scale for s in (1.0, 4.0)]
    yield (
        f"to {shrunk[0]:.2f} of their value with three blocks on torino, to {shrunk[1]:.2f} at "
        "four times its errors"
    )
    for noise, layers, blocks in (("torino", 2, "two"), ("torino", 4, "four"), ("fez", 4, "four")):
        row = only(devices, noise=noise, num_layers=layers, strength=8.0)
        yield (
            f"{noise} with {blocks} blocks {points(row.drop, row.drop_low, row.drop_high)}, "
            f"{p(row.p_sequence)}"
        )


def of_regimes(folder):
    summary, lines = table(folder, "summary"), table(folder, "thresholds")
    for network, words in (("robust", "keeps"), ("digits", "has")):
        row = only(summary, grid="regimes", network=network, strength=0.1)
        yield f"{words} {percent(row.accuracy, row.accuracy_low, row.accuracy_high)} at 0.1"
    robust, clean = (
        threshold(only(lines, grid="regimes", network=network)) for network in ("robust", "digits")
    )
    yield f"5 points are lost at: {robust}; the clean one: {clean}"
    ideal = [
        only(summary, grid="regimes", network=n, strength=0.1).ideal_accuracy
        for n in ("digits", "robust")
    ]
    yield f"pays {100 * (ideal[0] - ideal[1]):.1f} points without noise"


def of_mitigation(folder):
    summary = table(folder, "summary")
    frame = summary[summary["grid"] == "mitigation"]
    for shots in SHOTS:
        cells = []
        for word in MITIGATIONS:
            row = only(frame, shots=shots, mitigation=word, strength=8.0)
            cells.append(
                percent(row.accuracy, row.accuracy_low, row.accuracy_high).replace(" %", "")
            )
        yield f"| {shots:,} | {' | '.join(cells)} |"
    gains = frame[frame["gain"].notna()]
    as_it_is, strong = gains[gains["strength"] == 1], gains[gains["strength"] == 8]
    yield (
        f"no mitigation changes more than {100 * as_it_is['gain'].abs().max():.2f} points, and "
        f"{(as_it_is['gain_holm'] < ALPHA).sum()} of {len(as_it_is)} changes are significant"
    )

    def gain(row, sign=1, digits=1):
        ends = sorted((sign * row.gain_low, sign * row.gain_high))
        return f"{points(sign * row.gain, *ends, digits)[:-1]}, {p(row.gain_holm)})"

    row = only(strong, mitigation="references", shots=1024)
    more = (
        row.executions_per_image
        / only(frame, mitigation="none", strength=8.0, shots=1024).executions_per_image
    )
    yield f"Reference rows gain {gain(row)} at 1,024 shots for {100 * (more - 1):.2f} % more"
    worst = gains[gains["mitigation"] == "references"].sort_values("gain").head(1)
    (row,) = records(worst)
    yield (
        f"their largest loss is {gain(row, -1, 2)}, at a factor of {row.strength:g} with "
        f"{row.shots:,} shots"
    )
    yield f"loses {gain(only(strong, mitigation='readout', shots=64), -1)} at 64"
    row = only(strong, mitigation="readout", shots=4096)
    yield f"Readout inversion gains {gain(row)} at 4,096"
    twirled = gains[gains["mitigation"] == "twirling"]["gain_holm"].min()
    yield f"Twirling changes nothing here ({p(twirled)} and more)"


PARTS = (of_run, of_channels, of_devices, of_regimes, of_mitigation)


def plain(text):
    return " ".join(text.split())


@pytest.mark.parametrize("part", PARTS)
def test_the_page_tells_the_study(part):
    page = plain((DOCS / "noise-results.md").read_text("utf-8"))
    claims = list(part(STUDY))
    assert claims
    missing = [claim for claim in claims if claim not in page]
    assert not missing, "docs/noise-results.md should say:\n" + "\n".join(missing)


def test_what_the_page_says_in_words():
    summary, lines = table(STUDY, "summary"), table(STUDY, "thresholds")
    gains = summary[(summary["grid"] == "mitigation") & summary["gain"].notna()]
    references = gains[gains["mitigation"] == "references"]
    losses = references[references["gain"] < 0]
    assert (losses["gain_holm"] >= ALPHA).all(), "no loss by reference rows is significant"
    crossed = lines[(lines["grid"] == "channels") & lines["noise"].isin(["bit_flip", "phase_flip"])]
    flips = pd.concat([crossed, lines[lines["noise"] == "amplitude_damping"]])
    assert flips["between_low"].min() >= 0.03
    assert flips["between_high"].max() <= 0.1
    for noise in ("depolarizing", "phase_damping"):
        lower = lines[(lines["grid"] == "channels") & (lines["noise"] == noise)]
        highs = list(lower.sort_values("num_layers")["between_high"])
        assert highs == sorted(highs, reverse=True)
        assert highs[0] > highs[-1], "it falls with depth"
    channels = summary[summary["grid"] == "channels"]
    certain = channels[(channels["noise"] == "phase_flip") & (channels["num_layers"] == 2)]
    falls = certain.set_index("strength")["drop"]
    assert falls[0.9] < falls[0.5] - THRESHOLD, "accuracy partly comes back"


def test_the_numbers_that_come_from_the_benchmark():
    text = (DOCS.parent / "benchmarks" / "results" / "noise_aware.md").read_text("utf-8")
    page = plain((DOCS / "noise-results.md").read_text("utf-8"))
    for number in ("91.8 (90.3 to 93.2)", "22.0 (18.5 to 25.5)", "-0.3 (-0.5 to -0.1)"):
        assert number in text
        value, _, rest = number.partition(" ")
        assert re.search(rf"{re.escape(value)} (%|points) {re.escape(rest)}", page)
