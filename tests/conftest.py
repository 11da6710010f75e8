"""Random numbers per test, the `--seed` and `--hardware` flags, Hypothesis' profile, `undrawn`.

`pythonpath = ["tests"]` in pyproject.toml makes `cases`, `references` and `conformance` importable
from every test file, at any depth.
"""

import hashlib
import os

# Before NumPy is loaded: the references are small products, and OpenBLAS threads that wait for a
# busy core make them a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

# torch, NumPy and Hypothesis are loaded where they are needed: the process that hands the tests to
# others needs none of them, and these wait for it.


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="seed of every test's random numbers")
    parser.addoption(
        "--hardware", action="store_true", help="also run the tests that need an IBM account"
    )


def pytest_report_header(config):
    return f"seed: {config.getoption('seed')} (change it with --seed)"


def pytest_collectstart(collector):
    """Hypothesis' profile, before the first file that uses it."""
    if isinstance(collector, pytest.Module) and "hypothesis" in collector.path.read_text("utf-8"):
        from hypothesis import settings

        # No deadline: two shared cores. Derandomised: a red test is red for everybody.
        settings.register_profile(
            "qpc", deadline=None, database=None, derandomize=True, max_examples=30, print_blob=True
        )
        settings.load_profile("qpc")


def pytest_collection_modifyitems(config, items):
    if config.getoption("hardware"):
        return
    skip = pytest.mark.skip(reason="needs a real IBM account; run with --hardware")
    for item in items:
        if item.get_closest_marker("hardware"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _placements_of_this_session(tmp_path_factory):
    """Placements that tests compute are kept for the session, apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QPC_CACHE_DIR", str(tmp_path_factory.mktemp("placements")))
        yield


@pytest.fixture
def test_seed(request):
    """An integer from the session's seed and the test's own id, so that order does not matter."""
    text = f"{request.config.getoption('seed')}:{request.node.nodeid}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@pytest.fixture
def rng(test_seed):
    import numpy as np

    return np.random.default_rng(test_seed)


@pytest.fixture
def generator(test_seed):
    import torch

    return torch.Generator().manual_seed(test_seed)


@pytest.fixture(scope="module")
def undrawn():
    """Trainings and experiments whose figure is not drawn, which takes longer than a tiny training.

    For whole modules, with `pytestmark = pytest.mark.usefixtures("undrawn")`.
    """

    def write(path, *_drawn):
        path.write_bytes(b"not drawn")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_curves", "plot_experiment"):
            patch.setattr(f"qpc_qiskit.figures.{name}", write)
        patch.setattr("qpc_qiskit.training.plot_curves", write)
        yield
