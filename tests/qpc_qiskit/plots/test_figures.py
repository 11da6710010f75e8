import csv

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.image import imread
from qiskit import QuantumCircuit

from qpc_qiskit.common.metrics import EpochMetrics
from qpc_qiskit.plots.figures import (
    _WRONG,
    plot_circuit,
    plot_confusion,
    plot_curves,
    plot_experiment,
    plot_history,
    plot_predictions,
)


@pytest.mark.parametrize(
    ("epochs", "suffix", "magic"), [(1, "png", b"\x89PNG"), (40, "pdf", b"%PDF")]
)
def test_curves_are_drawn_beside_the_users_backend(tmp_path, epochs, suffix, magic):
    backend = mpl.get_backend()
    history = [EpochMetrics(i + 1, 0.1, 1 / (i + 1), 0.9, 0.5, 0.8) for i in range(epochs)]
    path = tmp_path / f"curves.{suffix}"
    plot_curves(path, history, "title")
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]
    assert mpl.get_backend() == backend


CONFUSION = [[5, 1, 0], [0, 0, 0], [2, 0, 700]]
CLASSES = ["cat", "dog", "Ankle boot"]


def history(path):
    return plot_history(path, [EpochMetrics(1, 0.1, 0.7, 0.9, 0.5, 0.8)], "title")


def confusion(path):
    return plot_confusion(path, CONFUSION, CLASSES, "title")


def predictions(path):
    images = np.random.default_rng(0).random((10, 1, 4, 4))
    titles = [f"truth\n→ {i}" for i in range(10)]
    return plot_predictions(path, images, titles, [i < 3 for i in range(10)])


def circuit(path):
    drawn = QuantumCircuit(3, global_phase=1)
    for i in range(4):
        drawn.rx(0.1 * i, i % 3)
        drawn.cx(i % 3, (i + 1) % 3)
    return plot_circuit(path, drawn)


def rows_of(files):
    return list(csv.reader(files[-1].read_text().splitlines()))


def of_history(files):
    head, row = rows_of(files)
    assert head[0] == "epoch"
    assert dict(zip(head, row, strict=True))["test_accuracy"] == "0.8"


def of_confusion(files):
    head, *rows = rows_of(files)
    assert head == ["truth", "prediction", "images"]
    assert len(rows) == 9
    assert ["Ankle boot", "cat", "2"] in rows  # rows are the truth
    assert ["cat", "Ankle boot", "0"] in rows


def of_predictions(files):
    head, *rows = rows_of(files)
    assert head == ["image", "caption", "wrong"]
    assert rows[2:4] == [["2", "truth → 2", "True"], ["3", "truth → 3", "False"]]
    assert len(rows) == 10


@pytest.mark.parametrize(
    ("draw", "assert_data"),
    [
        (history, of_history),
        (confusion, of_confusion),
        (predictions, of_predictions),
        (circuit, lambda _: None),
    ],
)
def test_figures_of_reports_are_the_same_bytes_and_leave_the_users_state(
    draw, assert_data, tmp_path
):
    backend, salt, open_figures = mpl.get_backend(), mpl.rcParams["svg.hashsalt"], plt.get_fignums()
    files = draw(tmp_path / "a.b")  # a name may have dots
    suffixes = ["png", "svg"] if draw is circuit else ["png", "svg", "csv"]
    assert [file.name for file in files] == [f"a.b.{suffix}" for suffix in suffixes]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    first = [file.read_bytes() for file in files]
    assert first[0].startswith(b"\x89PNG")
    assert [file.read_bytes() for file in draw(tmp_path / "a.b")] == first
    assert (mpl.get_backend(), mpl.rcParams["svg.hashsalt"]) == (backend, salt)
    assert plt.get_fignums() == open_figures
    assert_data(files)


@pytest.mark.parametrize("channels", [1, 3])
def test_wrong_images_are_marked_by_colour_and_cross(channels, tmp_path):
    """Colour alone is not seen by everybody, a cross alone not on every image."""
    images = np.full((2, channels, 4, 4), 255, np.uint8)
    marked = {}
    for wrong in (False, True):
        files = plot_predictions(tmp_path / f"{wrong}", images, ["a", "b"], [wrong, False])
        pixels = imread(files[0])[..., :3]
        colour = np.array(mpl.colors.to_rgb(_WRONG))
        marked[wrong] = np.abs(pixels - colour).max(-1) < 0.02
    assert not marked[False].any()
    width = marked[True].shape[1]
    assert not marked[True][:, width // 2 :].any()
    left = marked[True][:, : width // 2]
    (top, *_, bottom), (first, *_, last) = (
        np.flatnonzero(left.sum(axis) > 0.4 * left.shape[axis]) for axis in (1, 0)
    )  # of the frame
    inset = 6
    inside = left[top + inset : bottom - inset, first + inset : last - inset]
    half = len(inside) // 2
    assert inside[:half, half:].any()  # the cross
    assert not inside[half:].any()


def test_a_circuit_goes_on_below_in_lines_of_one_length(tmp_path):
    """Width is bounded, height grows with the gates."""
    short = QuantumCircuit(2)
    short.cx(0, 1)
    long = QuantumCircuit(2)
    for _ in range(40):
        long.cx(0, 1)
    shapes = [
        imread(plot_circuit(tmp_path / name, drawn)[0]).shape
        for name, drawn in (("short", short), ("long", long))
    ]
    assert shapes[1][0] > 2.5 * shapes[0][0]
    assert shapes[1][1] < 1500


def test_labels_of_an_experiment_are_drawn_as_they_are_written(tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig

    def savefig(self, *arguments, **options):
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    names = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    labels = [r"cost $\foo$", "_hidden"]
    plot_experiment(
        tmp_path / "curves.png",
        {label: [[dict.fromkeys(names, 1)]] for label in labels},
        "$5 and $6^^",
    )
    texts = drawn[0].legends[0].get_texts()
    assert [text.get_text() for text in texts] == labels
    assert not any(text.get_parse_math() for text in texts)
