"""What is installed: which package is in which extra, and what is told where it is not there."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

import qpc_qiskit
from qpc_cli.environment import environment
from qpc_qiskit.common.extras import EXTRAS, importing, require
from qpc_qiskit.errors import MissingExtra, QPCError

ROOT = Path(__file__).parents[3]
PACKAGES = ("qpc_qiskit", "noise_models", "hardware_runs", "qpc_cli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
GATED = {
    "hardware_runs/ledger/": "runs",
    "hardware_runs/migrations/": "runs",
    "hardware_runs/standin/": "ibm",
}
"""Rooms whose `__init__`, or whoever loads them, asks for the extra."""
COME_ALONG = {
    "ibm_quantum_schemas": "ibm",
    "requests": "ibm",
    "pydantic_core": "core",
    "rustworkx": "core",
}
"""Imported packages that belong to a declared one."""


def names(requirements):
    return {re.split(r"[^A-Za-z0-9._-]", each)[0] for each in requirements} - {"qpc-qiskit"}


def test_the_table_is_that_of_the_package():
    declared = PROJECT["optional-dependencies"]
    assert {extra: set(EXTRAS[extra].values()) for extra in EXTRAS} == {
        extra: names(declared[extra]) for extra in EXTRAS
    }
    (everything,) = declared["all"]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == set(EXTRAS)
    assert set(declared) == {*EXTRAS, "all", "test", "dev", "bench", "docs"}


def test_one_version():
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    assert PROJECT["version"] == cited == qpc_qiskit.__version__


def third_party(body, *, everywhere):
    """Packages that a module imports; those of functions and of `importing` only if everywhere."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif everywhere or isinstance(node, ast.If | ast.Try):
            children = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
            children += [s for n in getattr(node, "handlers", ()) for s in n.body]
            yield from third_party(children, everywhere=everywhere)


@pytest.mark.parametrize("everywhere", [False, True], ids=["when loaded", "anywhere"])
def test_what_is_imported_is_declared(everywhere):
    """The core alone is imported outside of rooms that ask for their extra."""
    of_package = packages_distributions()
    core = {name.lower() for name in names(PROJECT["dependencies"])}
    extra = {package for packages in EXTRAS.values() for package in packages}
    for path in (p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))):
        place = path.relative_to(ROOT).as_posix()
        room = next((GATED[start] for start in GATED if place.startswith(start)), None)
        tree = ast.parse(path.read_text("utf-8"))
        for package in third_party(tree.body, everywhere=everywhere):
            if package in {*sys.stdlib_module_names, *PACKAGES}:
                continue
            known = {name.lower().replace("_", "-") for name in of_package.get(package, ())}
            allowed = bool(known & core) or COME_ALONG.get(package) == "core"
            if everywhere:
                allowed |= package in extra or package in COME_ALONG
            elif room is not None:
                allowed |= package in EXTRAS[room] or COME_ALONG.get(package) == room
            assert allowed, f"{place} imports {package}"


def test_require(monkeypatch):
    require("train", "Training")
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingExtra) as caught:
        require("train", "Training")
    assert str(caught.value) == (
        "Training needs lightning. Install it: pip install 'qpc-qiskit[train]'"
    )
    assert isinstance(caught.value, QPCError)
    assert isinstance(caught.value, ImportError)


def test_importing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    expected = r"^A table needs pyarrow\. Install"
    with pytest.raises(MissingExtra, match=expected), importing("studies", "A table"):
        import pyarrow
    old = ModuleType("pyarrow")
    old.__spec__, old.__path__ = None, []
    monkeypatch.setitem(sys.modules, "pyarrow", old)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    expected = r"^A table needs pyarrow in another version than \d\S*\. Install"
    with pytest.raises(MissingExtra, match=expected), importing("studies", "A table"):
        from pyarrow import Table  # noqa: F401
    with pytest.raises(MissingExtra, match=expected), importing("studies", "A table"):
        import pyarrow.parquet  # noqa: F401
    with pytest.raises(ImportError, match="other") as caught, importing("studies", "A table"):
        raise ImportError("other", name="other")
    assert not isinstance(caught.value, MissingExtra)


def test_environment_tells_what_is_missing(monkeypatch):
    assert environment()["extras"] == dict.fromkeys(EXTRAS, "installed")
    monkeypatch.setattr(
        "qpc_cli.environment.package_version",
        lambda name: "not installed" if name in ("dask", "psycopg") else "1",
    )
    assert environment()["extras"] == dict.fromkeys(EXTRAS, "installed") | {
        "cluster": "missing dask",
        "postgres": "missing psycopg",
    }


COMMANDS = {
    "train": ("train", "Training needs"),
    "train --engine noisy --noise fake_torino": ("train", "Training needs"),
    "report .": ("train", "The report of a training needs"),
    "experiment digits": ("train", "An experiment needs"),
    "evaluate x --engine estimator --backend fake_torino": ("ibm", "Backend 'fake_torino' needs"),
    "evaluate x --engine estimator --backend ibm_fez": ("ibm", "Backend 'ibm_fez' needs"),
    "evaluate x --engine noisy --noise fake_fez": ("ibm", "Noise 'fake_fez' needs"),
    "evaluate x --engine estimator --resilience 1": ("ibm", "--resilience needs"),
    "backends fake_torino": ("ibm", "Backend 'fake_torino' needs"),
    "backends --ibm": ("ibm", "Backend 'ibm_...' needs"),
    "standin": ("ibm", "The stand-in of IBM's service needs"),
    "noise snapshot fake_fez -o x.json": ("ibm", "Backend 'fake_fez' needs"),
    "noise study study.toml": ("studies", "A noise study needs"),
    "noise plot .": ("studies", "A noise study needs"),
    "noise report .": ("studies", "A noise study needs"),
    "run plan x --backend aer": ("runs", "A durable run needs"),
    "run submit x --backend aer --run a": ("runs", "A durable run needs"),
    "run collect a": ("runs", "A durable run needs"),
    "run status a": ("runs", "A durable run needs"),
    "run list": ("runs", "A durable run needs"),
    "run cancel a": ("runs", "A durable run needs"),
    "run report a": ("runs", "A durable run needs"),
}
"""Command -> the extra, and how its sentence begins."""

CORE_ONLY = """
import sys
gone = {gone!r}
for package in gone:
    sys.modules[package] = None

from typer.testing import CliRunner
from qpc_cli.app import app
from qpc_qiskit.errors import MissingExtra

for command, (extra, begin) in {commands!r}.items():
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1, (command, done.output)
    (line,) = done.output.splitlines()
    assert line.startswith("qpc: " + begin), (command, line)
    assert line.endswith(f"Install it: pip install 'qpc-qiskit[{{extra}}]'"), (command, line)
loaded = {{"torch", "qiskit"}} & set(sys.modules)
assert not loaded, loaded

import importlib, pkgutil
import hardware_runs, noise_models, qpc_cli, qpc_qiskit
refused = set()
for room in (qpc_qiskit, noise_models, hardware_runs, qpc_cli):
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + ".", lambda name: None):
        if module.name.endswith("__main__") or ".migrations." in module.name:
            continue
        try:
            importlib.import_module(module.name)
        except MissingExtra as error:
            refused.add(str(error).rpartition(": ")[2])
assert refused == {{f"pip install 'qpc-qiskit[{{extra}}]'" for extra in ("ibm", "train", "runs")}}

import torch
from qiskit.primitives import StatevectorEstimator
from qiskit.providers.fake_provider import GenericBackendV2
from qpc_qiskit import EstimatorEngine, NoisyEngine, QuantumPointwiseConv2d, use_engine
from noise_models.words import parse_noise

layer = QuantumPointwiseConv2d(4, 2, num_layers=1, generator=torch.Generator().manual_seed(0))
images = torch.rand(1, 4, 1, 2, generator=torch.Generator().manual_seed(1))
layer(images).sum().backward()
exact = layer(images).detach()
noise = parse_noise("depolarizing:0.01")
# With noise: wrong circuits or signs are off by 1 and more.
for engine, bound in (
    (EstimatorEngine.from_backend("aer"), 1e-6),
    (EstimatorEngine(StatevectorEstimator()), 1e-6),
    (EstimatorEngine.from_backend("aer", noise_model=noise), 0.3),
    (NoisyEngine(noise), 0.3),
    (EstimatorEngine.from_backend(GenericBackendV2(3, seed=1), shots=4096, seed=1), 0.3),
):
    with torch.no_grad(), use_engine(layer, engine):
        assert float((layer(images) - exact).abs().max()) < bound, engine
"""


@pytest.mark.slow
def test_the_core_alone(tmp_path):
    """In one process without any extra: every command says what it needs, the layer works."""
    gone = sorted({package for packages in EXTRAS.values() for package in packages})
    gone = [*(set(gone) - {"jinja2", "sklearn"}), "requests", "ibm_quantum_schemas"]
    (tmp_path / "study.toml").touch()
    code = CORE_ONLY.format(gone=gone, commands=COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QPC_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
