"""Old names of modules that have moved: each works for one version, with a DeprecationWarning.

Only names that README, docs, examples or docstrings of version 0.1 showed are here.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

MOVED = {
    "hardware_runs.beginning": "hardware_runs.durable_engine.beginning",
    "hardware_runs.comparison": "hardware_runs.planning.comparison",
    "hardware_runs.dispatch": "hardware_runs.durable_engine.dispatch",
    "hardware_runs.engine": "hardware_runs.durable_engine.engine",
    "hardware_runs.plan": "hardware_runs.planning.plan",
    "hardware_runs.report": "hardware_runs.reports.report",
    "hardware_runs.report_records": "hardware_runs.reports.records",
    "hardware_runs.submit": "qpc_cli.submit",
    "noise_models.mitigation": "noise_models.study.mitigation",
    "noise_models.statistics": "qpc_qiskit.grid.statistics",
    "noise_models.study.statistics": "qpc_qiskit.grid.statistics",
    "noise_models.study_spec": "noise_models.study.spec",
    "qpc_qiskit.__main__": "qpc_cli.__main__",
    "qpc_qiskit.ansatz": "qpc_qiskit.circuits.ansatz",
    "qpc_qiskit.brickwall": "qpc_qiskit.circuits.brickwall",
    "qpc_qiskit.cli": "qpc_cli.app",
    "qpc_qiskit.economy": "qpc_qiskit.options.economy",
    "qpc_qiskit.encoder": "qpc_qiskit.circuits.encoder",
    "qpc_qiskit.evaluation": "qpc_qiskit.training.evaluation",
    "qpc_qiskit.execution.gradients": "qpc_qiskit.rows.gradients",
    "qpc_qiskit.execution.noise": "qpc_qiskit.devices.noise",
    "qpc_qiskit.execution.pubs": "qpc_qiskit.rows.pubs",
    "qpc_qiskit.execution.references": "qpc_qiskit.rows.references",
    "qpc_qiskit.execution.runtime": "qpc_qiskit.backends.runtime",
    "qpc_qiskit.execution.tail": "qpc_qiskit.circuits.tail",
    "qpc_qiskit.execution.tiling": "qpc_qiskit.devices.tiling",
    "qpc_qiskit.files": "qpc_qiskit.common.files",
    "qpc_qiskit.model_page": "qpc_qiskit.training.model_page",
    "qpc_qiskit.model_report": "qpc_qiskit.training.model_report",
    "qpc_qiskit.predictions": "qpc_qiskit.training.predictions",
    "qpc_qiskit.progress": "qpc_qiskit.common.progress",
    "qpc_qiskit.spec": "qpc_qiskit.circuits.spec",
    "qpc_qiskit.trained": "qpc_qiskit.training.trained",
}


class _Moved(MetaPathFinder, Loader):
    """Finds what nobody else found under its old name."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_package = any(old.startswith(f"{name}.") for old in MOVED)
        if name not in MOVED and not is_package:
            return None
        return ModuleSpec(name, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        if old in MOVED:
            _warn(old)
            sys.modules[old] = import_module(MOVED[old])  # what import takes instead of `module`

    def get_code(self, name: str) -> CodeType:
        """For `python -m`, which runs a module instead of importing it."""
        _warn(name)
        run = f"run_module({MOVED[name]!r}, run_name='__main__', alter_sys=True)"
        return compile(f"from runpy import run_module\n{run}", name, "exec")


def _warn(old: str) -> None:
    message = f"{old} has moved to {MOVED[old]}; the old name goes in the version after this."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def find_moved_modules() -> None:
    """Have imports of the old names find the modules; again is without effect."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
