"""Random numbers per test, the `--seed` and `--hardware` flags, Hypothesis' profile, `undrawn`.

`pythonpath = ["tests"]` in pyproject.toml makes `cases`, `references` and `conformance` importable
from every test file, at any depth.
"""

import functools
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
def _surroundings(tmp_path_factory):
    """Placements that tests compute are kept for the session, apart from the user's own.

    IBM's client, unless told not to, looks through its callers at every request, for its makers:
    half of a test's time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QPC_CACHE_DIR", str(tmp_path_factory.mktemp("placements")))
        patch.setenv("USAGE_DATA_OPT_OUT", "True")
        yield


@pytest.fixture(scope="session")
def quick_runs():
    """Not done again for each ledger, client and command: half of the time of small runs.

    Ledgers on SQLite share the statements that SQLAlchemy compiled; each otherwise has its own.
    IBM's client reads no certificates: the stand-in has none. Commands are built once from their
    functions.
    """
    from ibm_cloud_sdk_core.http_adapter import SSLHTTPAdapter
    from requests.adapters import HTTPAdapter
    from sqlalchemy import NullPool
    from typer import testing

    from hardware_runs.ledger import database

    create, compiled = database.create_engine, {}
    first = create("sqlite://", poolclass=NullPool)
    first.connect().close()  # what the dialect asks a database at its first connection

    def create_engine(url, **given):
        if url.get_backend_name() != "sqlite":
            return create(url, **given)
        engine = create(url, execution_options={"compiled_cache": compiled}, **given)
        engine.dialect = first.dialect  # statements are compiled for one dialect object
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "create_engine", create_engine)
        patch.setattr(SSLHTTPAdapter, "init_poolmanager", HTTPAdapter.init_poolmanager)
        patch.setattr(testing, "_get_command", functools.cache(testing._get_command))
        yield


@pytest.fixture
def test_seed(request):
    """An integer from the session's seed and the test's own id, so that order does not matter."""
    text = f"{request.config.getoption('seed')}:{request.node.nodeid}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@pytest.fixture
def shared_seed(request):
    """Equal for all tests of a session: of what many compare with one slow reference."""
    return request.config.getoption("seed")


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
            patch.setattr(f"qpc_qiskit.plots.figures.{name}", write)
        patch.setattr("qpc_qiskit.training.trainer.plot_curves", write)
        yield
