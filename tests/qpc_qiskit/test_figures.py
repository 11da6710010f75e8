import matplotlib as mpl
import pytest

from qpc_qiskit.figures import plot_curves
from qpc_qiskit.runs import EpochMetrics


@pytest.mark.parametrize("epochs", [1, 40])
@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_curves_are_drawn_beside_the_users_backend(tmp_path, epochs, suffix, magic):
    backend = mpl.get_backend()
    history = [EpochMetrics(i + 1, 0.1, 1 / (i + 1), 0.9, 0.5, 0.8) for i in range(epochs)]
    path = tmp_path / f"curves.{suffix}"
    plot_curves(path, history, "title")
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]
    assert mpl.get_backend() == backend
