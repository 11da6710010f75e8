import sys
from importlib.metadata import version

from qpc_qiskit.common.versions import library_versions, package_version


def test_versions_of_what_results_depend_on():
    found = library_versions()
    assert sys.version.startswith(f"{found['python']} ")
    for name in ("numpy", "torch", "qiskit", "qiskit-aer", "qiskit-ibm-runtime"):
        assert found[name] == version(name)
    assert all(isinstance(told, str) for told in found.values())


def test_a_package_that_is_not_there():
    assert package_version("a-package-that-nobody-has-written") == "not installed"
