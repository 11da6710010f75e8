"""Public names, old and new, and what an import costs; directions are import-linter's."""

import ast
import importlib
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qpc_qiskit.common.moved import MOVED

ROOT = Path(__file__).parents[1]
PACKAGES = ("qpc_qiskit", "noise_models", "hardware_runs", "qpc_cli")
HEAVY = (
    "qiskit_aer",
    "lightning",
    "pytorch_lightning",
    "matplotlib",
    "sklearn",
    "dask",
    "distributed",
    "pyarrow",
    "qiskit_ibm_runtime",
    "pandas",
    "sqlalchemy",
)


@pytest.mark.parametrize("old", MOVED)
def test_old_names_work_for_one_version(old):
    """Each gives the module itself, not a second one, and says where it has gone."""
    if old.endswith("__main__"):
        assert importlib.util.find_spec(MOVED[old]) is not None
        return
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old} has moved to {MOVED[old]}")):
        found = importlib.import_module(old)
    assert found is importlib.import_module(MOVED[old])


def test_names_of_modules_that_became_packages():
    from noise_models.study import load_study, run_study
    from qpc_qiskit.data import load
    from qpc_qiskit.options import NetConfig, TrainConfig
    from qpc_qiskit.training import train

    for thing in (load_study, run_study, load, NetConfig, TrainConfig, train):
        assert callable(thing)


@pytest.mark.parametrize("module", ["qpc_qiskit", "hardware_runs.submit"])
def test_old_programs_work_for_one_version(module):
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", module, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert "DeprecationWarning" in done.stderr
    assert "has moved to qpc_cli." in done.stderr


def test_places_in_contributing_exist():
    """Files and folders by path, names by import."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Where a change goes")[2]
    places = [place for line in text.splitlines() for place in re.findall(r"`([^` ]+)`", line)]
    assert len(places) > 20
    for place in places:
        if "/" in place:
            assert (ROOT / place).exists() or (ROOT / "qpc_qiskit" / place).exists(), place
        else:
            assert pydoc.locate(place) is not None, place


def test_every_package_says_what_it_is_about():
    packages = [path.parent for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")]
    assert len(packages) > 20
    for package in packages:
        said = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8")))
        assert said, package
        assert len(said.split()) > 4, package
        if package.relative_to(ROOT).parts[:2] != ("hardware_runs", "migrations"):
            assert re.search("(May|Imports?) |imports", said), f"{package}: what may come in?"


def test_public_names():
    import qpc_qiskit

    assert qpc_qiskit.__all__ == sorted(qpc_qiskit.__all__)
    for name in qpc_qiskit.__all__:
        assert getattr(qpc_qiskit, name).__name__ == name
    assert set(qpc_qiskit.__all__) <= set(dir(qpc_qiskit))
    with pytest.raises(AttributeError, match="module 'qpc_qiskit' has no attribute 'nothing'"):
        _ = qpc_qiskit.nothing


def test_type_checkers_see_the_same_names():
    """The TYPE_CHECKING imports, the lazy table and __all__ are three lists of one thing."""
    import qpc_qiskit

    tree = ast.parse((ROOT / "qpc_qiskit" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {a.name: node.module for node in block.body for a in node.names}
    assert set(typed) == set(qpc_qiskit.__all__) == set(qpc_qiskit._HOME)
    for name, module in typed.items():
        assert module == f"qpc_qiskit.{qpc_qiskit._HOME[name]}"


STEPS = {
    "import": "import qpc_qiskit",
    "every name": "for name in qpc_qiskit.__all__: getattr(qpc_qiskit, name)",
    "exact layer": (
        "import torch\n"
        "layer = qpc_qiskit.QuantumPointwiseConv2d(4, 4)\n"
        "layer(torch.ones(1, 4, 2, 2)).sum().backward()\n"
        "layer.circuit(), layer.parameter_values(torch.ones(1, 4)), repr(layer)"
    ),
    "default estimator": (
        "layer = qpc_qiskit.QuantumPointwiseConv2d(2, 1, engine='estimator')\n"
        "layer(torch.ones(1, 2, 1, 1))"
    ),
}


def test_heavy_libraries_are_not_imported():
    """In one new interpreter, step by step."""
    code = "import sys\n" + "".join(f"{step}\nprint(*sys.modules)\n" for step in STEPS.values())
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    told = [{name.split(".")[0] for name in line.split()} for line in done.stdout.splitlines()]
    loaded = dict(zip(STEPS, told, strict=True))
    assert "qpc_qiskit" in loaded["import"]
    assert not loaded["import"] & {"torch", "qiskit", "qiskit_machine_learning"}, "it is lazy"
    for step in ("import", "every name", "exact layer"):
        assert not loaded[step] & set(HEAVY), step
    assert "qiskit_aer" in loaded["default estimator"], "the lists above tell what is loaded"
