"""What is installed and what there is to compute on."""

import re
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

import torch

from qpc_qiskit import __version__
from qpc_qiskit.versions import library_versions, package_version


def environment() -> dict[str, Any]:
    """Versions, devices and extras, as plain values.

    Returns:
        `qpc-qiskit`: its version; `libraries`: versions by name; `torch_devices` and `aer_devices`:
        names; `extras`: for each extra of the package whether everything in it is installed.
    """
    return {
        "qpc-qiskit": __version__,
        "libraries": library_versions(),
        "torch_devices": [
            f"cpu ({torch.get_num_threads()} threads)",
            *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        ],
        "aer_devices": _aer_devices(),
        "extras": _extras(),
    }


def _aer_devices() -> list[str]:
    try:
        from qiskit_aer import AerSimulator
    except ImportError:
        return []
    return [str(device) for device in AerSimulator().available_devices()]


def _extras() -> dict[str, str]:
    """The extras that the installed package declares, each with what is missing from it."""
    try:
        requirements = requires("qpc-qiskit") or []
    except PackageNotFoundError:  # run from a checkout that was not installed
        return {}
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        text, _, marker = requirement.partition(";")
        if "extra ==" not in marker:
            continue
        extra = marker.split("extra ==")[1].strip(" \"')")
        package = re.split(r"[^A-Za-z0-9._-]", text.strip())[0]
        absent = missing.setdefault(extra, [])
        if package_version(package) == "not installed":
            absent.append(package)
    return {
        extra: f"missing {', '.join(absent)}" if absent else "installed"
        for extra, absent in missing.items()
    }
