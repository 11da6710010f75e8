"""Imports every module of the package. A room whose extra is not installed says so, all else fails.

With an argument, `all`, every extra is installed.
"""

import importlib
import pkgutil
import sys

import hardware_runs
import noise_models
import qpc_cli
import qpc_qiskit
from qpc_qiskit.errors import MissingExtra

SCRIPTS = ("__main__", "migrations.env")
"""Run something when they are imported."""

imported, missing, failed = 0, {}, {}
for package in (qpc_qiskit, noise_models, hardware_runs, qpc_cli):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", lambda _: None):
        if module.name.endswith(SCRIPTS):
            continue
        try:
            importlib.import_module(module.name)
            imported += 1
        except MissingExtra as error:
            missing[module.name] = str(error)
        except Exception as error:  # noqa: BLE001  (all of them are told)
            failed[module.name] = f"{type(error).__name__}: {error}"
print(f"{imported} modules imported")
for text in sorted(set(missing.values())):
    print(f"{list(missing.values()).count(text)} not: {text}")
for name, text in failed.items():
    print(f"{name}: {text}")
sys.exit(bool(failed or (missing and "all" in sys.argv)))
