import csv
import math

import matplotlib as mpl
import pytest

from qpc_qiskit.plots.figures import PALETTE
from qpc_qiskit.plots.panels import (
    Curve,
    HeatMap,
    Panel,
    Points,
    _formatted,
    _is_best,
    _style,
    beside,
    plot_lines,
    plot_pareto,
    plot_tables,
)

PANELS = [
    Panel(
        "one", [Curve("a", [0.1, 1], [90, 80], [85, 75], [95, 85]), Curve("b", [0.1, 1], [91, 9])]
    ),
    Panel("two", [Curve("a", [0.1], [50])], [(99, "best")]),
]
TABLES = [HeatMap("one", ["x", "y"], ["0.1", "1"], [[0.0, 12.5], [-1.0, math.nan]])]
POINTS = [
    Points("one", [("cheap", 1, 50, 45, 55), ("dear", 9, 60, math.nan, math.nan)]),
    Points("two", [("cheap", 1, 50, 45, 55), ("dear", 9, 40, 30, 50)]),
]


def lines(path, **options):
    return plot_lines(path, PANELS, xlabel="strength", ylabel="accuracy / %", **options)


def tables(path):
    return plot_tables(path, TABLES, xlabel="strength", ylabel="noise", what="drop / points")


def pareto(path):
    return plot_pareto(path, POINTS, xlabel="shots", ylabel="accuracy / %")


@pytest.mark.parametrize("draw", [lines, tables, pareto])
def test_figures_are_the_same_bytes_and_leave_the_users_state(draw, tmp_path):
    backend, salt = mpl.get_backend(), mpl.rcParams["svg.hashsalt"]
    files = draw(tmp_path / "a.b")  # a name may have dots
    assert [file.name for file in files] == ["a.b.png", "a.b.svg", "a.b.csv"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert (mpl.get_backend(), mpl.rcParams["svg.hashsalt"]) == (backend, salt)
    first = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in draw(tmp_path / "a.b")] == first


def test_data_of_lines(tmp_path):
    files = lines(tmp_path / "figure", scale="log", marks=[(0.3, "a device")])
    rows = list(csv.reader(files[2].read_text().splitlines()))
    assert rows[0] == ["panel", "line", "strength", "accuracy / %", "low", "high"]
    assert rows[1] == ["one", "a", "0.1", "90", "85", "95"]
    assert rows[3] == ["one", "b", "0.1", "91", "nan", "nan"]
    assert len(rows) == 1 + 5
    assert "a device" in files[1].read_text()


def test_data_of_heat_maps_and_choices(tmp_path):
    rows = list(csv.reader(tables(tmp_path / "heat")[2].read_text().splitlines()))
    assert rows[2] == ["one", "x", "1", "12.5"]
    rows = list(csv.reader(pareto(tmp_path / "pareto")[2].read_text().splitlines()))
    assert [row[-1] for row in rows] == ["best", "True", "True", "True", "False"]


def test_heat_maps_of_different_strengths_have_axes_of_their_own(tmp_path):
    """SVG has every text that is drawn as a comment."""

    def drawn(*columns):
        both = [HeatMap(str(i), ["x"], each, [[1.0] * len(each)]) for i, each in enumerate(columns)]
        svg = plot_tables(tmp_path / "heat", both, xlabel="s", ylabel="noise", what="drop")[1]
        return [svg.read_text().count(f"<!-- {text} -->") for text in ("0.03", "0.07")]

    assert drawn(["0.03", "0.07"], ["0.03", "0.07"]) == [2, 2]
    assert drawn(["0.03", "0.07"], ["0.07", "0.5", "0.9"]) == [1, 2]


def test_which_choices_none_beats():
    points = [(name, cost, value, 0, 0) for name, cost, value in (("a", 1, 5), ("b", 2, 5))]
    assert _is_best(points[0], points)
    assert not _is_best(points[1], points)


def test_lines_differ_by_more_than_colour():
    styles = {tuple(_style(i).values()) for i in range(len(PALETTE))}
    shapes = {(_style(i)["marker"], _style(i)["linestyle"]) for i in range(len(PALETTE))}
    assert len(styles) == len(shapes) == len(PALETTE)


def test_what_rounds_to_zero_has_no_sign():
    assert [_formatted("{:.1f}", v) for v in (-0.04, 0.0, -0.06)] == ["0.0", "0.0", "-0.1"]


def test_only_choices_of_nearly_one_cost_are_drawn_beside_it():
    alone, first, second = beside([100.0, 1000.0, 1002.0])
    assert alone == 100
    assert first < 1000 < 1002 < second
    assert beside([4900.0, 5250.0]) == [4900, 5250]  # as drawn, they would change places


def test_costs_within_a_decade_have_few_ticks(tmp_path):
    points = [Points("one", [("a", 4870, 50, 45, 55), ("b", 5250, 51, 46, 56)])]
    files = plot_pareto(tmp_path / "near", points, xlabel="gates", ylabel="accuracy / %")
    drawn = files[1].read_text()
    assert 2 <= drawn.count('<g id="xtick_') <= 5
