import csv
import math

import matplotlib as mpl
import pytest

from qpc_qiskit.plots.run_panels import (
    MOST_LABELS,
    Cloud,
    Series,
    Span,
    plot_clouds,
    plot_labelled,
    plot_spans,
)

CLOUDS = [Cloud("one", [0.1, 0.2], [0.1, 0.3], (0.9, 0.01)), Cloud("two", [0.5], [0.4])]
SERIES = [Series("error", [1.0, math.nan], [0.5, math.nan], [1.5, math.nan]), Series("b", [2, 3])]
SPANS = [Span("job 1", "queued", 10.0, 70.0), Span("job 2", "running", 70.0, 100.5)]


def clouds(path):
    return plot_clouds(path, CLOUDS, xlabel="exact", ylabel="measured", title="all")


def labelled(path):
    return plot_labelled(path, ["x", "y"], SERIES, xlabel="error", what="patch")


def spans(path):
    return plot_spans(path, SPANS, what="job", title="when")


@pytest.mark.parametrize("draw", [clouds, labelled, spans])
def test_figures_have_their_data_and_leave_the_users_state(draw, tmp_path):
    backend = mpl.get_backend()
    files = draw(tmp_path / "a.b")  # a name may have dots
    assert [file.name for file in files] == ["a.b.png", "a.b.svg", "a.b.csv"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert mpl.get_backend() == backend
    assert files[1].read_bytes() == draw(tmp_path / "a.b")[1].read_bytes()


def data(files):
    return list(csv.reader(files[2].read_text().splitlines()))


def test_data(tmp_path):
    assert data(clouds(tmp_path / "x"))[:2] == [
        ["panel", "exact", "measured"],
        ["one", "0.1", "0.1"],
    ]
    rows = data(labelled(tmp_path / "y"))
    assert rows[0] == ["series", "patch", "error", "low", "high"]
    assert rows[1:3] == [["error", "x", "1.0", "0.5", "1.5"], ["error", "y", "nan", "nan", "nan"]]
    assert rows[3] == ["b", "x", "2", "nan", "nan"]
    assert data(spans(tmp_path / "z"))[1:] == [
        ["job 1", "queued", "10.000", "70.000"],
        ["job 2", "running", "70.000", "100.500"],
    ]


@pytest.mark.parametrize(
    ("seconds", "unit"), [(60, "s"), (600, "min"), (14_400, "h"), (9e5, "days")], ids=str
)
def test_units_of_time(seconds, unit, tmp_path):
    files = plot_spans(tmp_path / "x", [Span("job", "queued", 5, 5 + seconds)], what="job")
    assert f"time after the first / {unit}" in files[1].read_text()


def test_more_labels_than_are_drawn(tmp_path):
    labels = [f"patch {i}" for i in range(MOST_LABELS + 1)]
    series = [Series("error", [float(i) for i in range(len(labels))])]
    files = plot_labelled(tmp_path / "x", labels, series, xlabel="error", what="patch")
    assert len(data(files)) == 1 + len(labels)
    text = files[1].read_text()
    assert f"<!-- patch {MOST_LABELS - 1} -->" in text
    assert f"<!-- patch {MOST_LABELS} -->" not in text
