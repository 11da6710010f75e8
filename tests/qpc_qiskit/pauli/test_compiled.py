import stat
import warnings

import pytest
import torch
from cases import evs_of
from qiskit_aer.noise import NoiseModel, depolarizing_error

from qpc_qiskit import make_spec
from qpc_qiskit.engines import NoisyEngine
from qpc_qiskit.errors import EngineError
from qpc_qiskit.pauli import compiled

needs_compiler = pytest.mark.skipif(compiled.find_compiler() is None, reason="no C compiler")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Nothing is compiled yet, and what will be goes to a folder of its own."""
    monkeypatch.setenv("QPC_CACHE_DIR", str(tmp_path / "cache"))

    def forget():
        compiled.load.cache_clear()
        compiled.why_not.cache_clear()

    forget()
    yield tmp_path
    forget()


def model():
    found = NoiseModel(["rz", "rx", "ry", "cx", "cz"])
    found.add_all_qubit_quantum_error(depolarizing_error(0.01, 1), "ry")
    return found


def report_of(engine):
    spec = make_spec(4, 2, num_layers=1)
    evs_of(engine, spec, torch.ones(2, 4), torch.zeros(1, spec.num_weights))
    return engine.last_report


@needs_compiler
def test_is_compiled_once_into_the_cache(fresh):
    report = report_of(NoisyEngine(model()))
    assert (report.implementation, report.implementation_reason) == ("compiled", None)
    (made,) = (fresh / "cache" / "kernels").iterdir()  # and nothing is left beside it
    before = made.stat().st_mtime_ns
    compiled.load.cache_clear()
    NoisyEngine(model(), implementation="compiled")
    assert made.stat().st_mtime_ns == before


def test_without_a_compiler(fresh, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(UserWarning, match="computes in torch, slower: .* needs a C compiler"):
        report = report_of(NoisyEngine(model()))
    assert report.implementation == "torch"
    assert "needs a C compiler" in report.implementation_reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert report_of(NoisyEngine(model())).implementation == "torch"
    with pytest.raises(EngineError, match=r"needs a C compiler.*use implementation='torch'"):
        NoisyEngine(model(), implementation="compiled")


def test_with_a_compiler_that_fails(fresh, monkeypatch):
    script = fresh / "bad-cc"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no good >&2\nexit 1\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    assert "could not compile" in report_of(NoisyEngine(model())).implementation_reason
    with pytest.raises(EngineError, match="could not compile the noisy engine's kernel: no good"):
        NoisyEngine(model(), implementation="compiled")


@needs_compiler
def test_where_nothing_can_be_written(fresh):
    (fresh / "cache").touch()  # no folder can be made in it, not even by root
    assert "cannot be made" in report_of(NoisyEngine(model())).implementation_reason


def test_says_nothing_of_a_reason_where_torch_was_asked_for():
    report = report_of(NoisyEngine(model(), implementation="torch"))
    assert (report.implementation, report.implementation_reason) == ("torch", None)


@needs_compiler
def test_refuses_another_device():
    engine = NoisyEngine(model(), implementation="compiled")
    with pytest.raises(EngineError, match="runs on CPUs, and the pixels are on meta"):
        engine._runner(torch.device("meta"))
    assert "does not run on meta" in NoisyEngine(model())._runner(torch.device("meta"))[1]
