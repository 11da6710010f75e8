"""Import directions, public names, and what an import costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("qpc_qiskit", "noise_models", "hardware_runs")
ALLOWED = {  # package -> our packages it may import
    "qpc_qiskit": {"qpc_qiskit"},
    "noise_models": {"qpc_qiskit", "noise_models"},
    "hardware_runs": {"qpc_qiskit", "noise_models", "hardware_runs"},
}
COMMAND_LINE = {
    "qpc_qiskit/cli.py",
    "qpc_qiskit/cli_noise.py",
    "qpc_qiskit/cli_run.py",
    "qpc_qiskit/cli_run_report.py",
    "qpc_qiskit/cli_study.py",
    "qpc_qiskit/cli_support.py",
    "qpc_qiskit/run_texts.py",
}
ONLY_HERE = {
    "qiskit_machine_learning": {"qpc_qiskit/connector.py"},
    "qiskit_ibm_runtime": {
        "qpc_qiskit/execution/runtime.py",
        "qpc_qiskit/execution/service.py",
        "hardware_runs/standin/programs.py",
        "hardware_runs/standin/server.py",
    },
}
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


def sources():
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(tree):
    """Top-level names of everything imported anywhere in a module, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield node.module.split(".")[0]
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value.split(".")[0]


def test_sources_are_found():
    """The tests below would pass on an empty list."""
    names = {str(p.relative_to(ROOT)) for p in sources()}
    assert {"qpc_qiskit/connector.py", "qpc_qiskit/engines/exact.py"} <= names
    assert set(imported(ast.parse("import a.b\ndef f():\n from c.d import e"))) == {"a", "c"}
    assert list(imported(ast.parse("import_module('x.y')"))) == ["x"]


def test_import_direction():
    offences = []
    for path in sources():
        name = str(path.relative_to(ROOT))
        found = set(imported(ast.parse(path.read_text())))
        forbidden = {"tests", "cases", "references", "conformance", "benchmarks"}
        if name not in COMMAND_LINE:
            forbidden |= set(PACKAGES) - ALLOWED[path.relative_to(ROOT).parts[0]]
        forbidden |= {library for library, homes in ONLY_HERE.items() if name not in homes}
        offences += [f"{name} imports {each}" for each in sorted(found & forbidden)]
    assert not offences


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
