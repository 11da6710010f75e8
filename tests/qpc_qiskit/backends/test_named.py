"""Backends by name, and those that other packages offer."""

import sys
from importlib import invalidate_caches

import pytest
import torch
from qiskit.providers import BackendV2
from qiskit.providers.fake_provider import GenericBackendV2
from typer.testing import CliRunner

from qpc_cli.app import app
from qpc_qiskit import EstimatorEngine, QuantumPointwiseConv2d, use_engine
from qpc_qiskit.backends import named, survey
from qpc_qiskit.backends.named import find_backend, is_fake, is_ibm, offers
from qpc_qiskit.errors import BackendError, MissingExtra

MODULE = """
from qiskit.providers.fake_provider import GenericBackendV2

def small():
    return GenericBackendV2(3, seed=1)

def broken():
    raise RuntimeError("no\\ntoken")

def number():
    return 7
"""


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Installs a package that offers backends, name -> object; its module, if it has one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "vendor_of_tests.py").write_text(MODULE)

    def install(package, **backends):
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in backends.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{named.GROUP}]", *lines]))
        invalidate_caches()

    yield install
    sys.modules.pop("vendor_of_tests", None)


def test_a_backend_of_another_package(offer):
    offer("vendor", tiny="vendor_of_tests:small")
    backend = find_backend("tiny")
    assert isinstance(backend, GenericBackendV2)
    assert not is_fake(backend)
    assert not is_ibm(backend)
    layer = QuantumPointwiseConv2d(2, 1, num_layers=1, generator=torch.Generator().manual_seed(0))
    images = torch.rand(1, 2, 1, 2, generator=torch.Generator().manual_seed(1))
    engine = EstimatorEngine.from_backend("tiny", shots=1024, seed=1)
    with torch.no_grad():
        exact = layer(images)
        with engine, use_engine(layer, engine):
            found = layer(images)
    assert float((found - exact).abs().max()) < 0.3  # 5 standard errors of 1/32, and its noise
    with pytest.raises(ValueError, match="noise_model belongs to backend aer; tiny has"):
        EstimatorEngine.from_backend("tiny", noise_model="fake_manila")


def test_listed_without_being_loaded(offer, monkeypatch):
    monkeypatch.setattr(survey, "fake_summaries", lambda: [])  # they take long
    offer("vendor", tiny="vendor_of_tests:small", gone="no_such_module:x", aer="a:b", fake_x="a:b")
    assert list(offers()) == ["gone", "tiny"]  # the other names are ours
    done = CliRunner().invoke(app, ["backends"])
    assert done.exit_code == 0, done.output
    assert "tiny: Offered by vendor (vendor_of_tests:small)" in done.output
    assert "gone: Offered by vendor (no_such_module:x)" in done.output
    assert "vendor_of_tests" not in sys.modules


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("vendor_of_tests:broken", r"cannot be opened: RuntimeError: no\ntoken$"),
        ("vendor_of_tests:missing", "cannot be opened: AttributeError"),
        ("no_such_module:x", "cannot be opened: ModuleNotFoundError"),
        ("vendor_of_tests:number", "expected a qiskit BackendV2 from the call, got int"),
    ],
)
def test_one_that_fails(offer, target, message):
    offer("vendor", bad=target)
    with pytest.raises(BackendError, match=rf"^Backend 'bad' of vendor \({target}\).*{message}"):
        find_backend("bad")
    done = CliRunner().invoke(app, ["backends", "bad"])
    (line,) = done.output.splitlines()
    assert line.startswith("qpc: Backend 'bad' of vendor")
    assert done.exit_code == 1  # not wrong usage: the name is right


def test_one_name_of_two_packages(offer):
    offer("vendor", tiny="vendor_of_tests:small")
    offer("another", tiny="vendor_of_tests:number")
    message = r"is offered by several packages: (vendor|another) .*, (vendor|another) .*Uninstall"
    with pytest.raises(BackendError, match=message):
        find_backend("tiny")


def test_unknown_names_like_a_device():
    with pytest.raises(BackendError, match=r"Did you mean fake_torino, "):
        find_backend("torino")


def test_unknown_names(offer):
    with pytest.raises(BackendError, match=r"or 'ibm_\.\.\.'\. `qpc backends` lists them"):
        find_backend("nothing-like-it")
    offer("vendor", adonis="vendor_of_tests:small")
    with pytest.raises(BackendError, match=r"of other packages \(adonis\).*mean adonis\?"):
        find_backend("adonnis")


def test_without_the_client_of_ibm(monkeypatch):
    monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime", None)
    monkeypatch.delitem(sys.modules, "qpc_qiskit.backends.runtime", raising=False)
    for name in ("fake_torino", "ibm_torino"):
        with pytest.raises(MissingExtra, match=rf"^Backend '{name}' needs qiskit-ibm-runtime\."):
            find_backend(name)
    with pytest.raises(BackendError, match=r"Unknown backend 'torino'"):
        find_backend("torino")
    backend: BackendV2 = GenericBackendV2(2, seed=1)
    assert not is_fake(backend)
    assert not is_ibm(backend)
