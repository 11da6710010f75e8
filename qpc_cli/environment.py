"""What is installed and what there is to compute on."""

from typing import Any

import torch

from qpc_qiskit import __version__
from qpc_qiskit.common.extras import EXTRAS
from qpc_qiskit.common.versions import library_versions, package_version


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
    """The extras, each with what is missing from it."""
    told = {}
    for extra, packages in EXTRAS.items():
        absent = [name for name in packages.values() if package_version(name) == "not installed"]
        told[extra] = f"missing {', '.join(absent)}" if absent else "installed"
    return told
