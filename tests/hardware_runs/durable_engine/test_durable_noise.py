"""Durable runs under noise that was described: recognised by what it is when they go on."""

import pytest
import torch
from qiskit_ibm_runtime.fake_provider import FakeManilaV2
from torch import nn

from hardware_runs.checkpoints.checkpoint_runs import keywords
from hardware_runs.checkpoints.commands import ask
from hardware_runs.durable_engine.beginning import durable
from noise_models.builders import bit_flip, compose, depolarizing, zz_crosstalk
from noise_models.snapshots import Snapshot
from noise_models.words import parse_noise
from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.engines import EstimatorEngine
from qpc_qiskit.errors import EngineError
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.fields import OptionError

IMAGES = torch.rand(1, 4, 1, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    return nn.Sequential(QuantumPointwiseConv2d(4, 2, num_layers=1)).eval()


@torch.no_grad()
def run(network, ledger, noise, **given):
    with (
        durable(ledger, "one", "aer", noise_model=noise, **given) as engine,
        use_engine(network, engine),
    ):
        return engine.map(network, [IMAGES])[0], engine.run.settings["engine_options"]


def by_the_engine(network, noise):
    engine = EstimatorEngine.from_backend("aer", noise_model=noise)
    with torch.no_grad(), use_engine(network, engine):
        return network(IMAGES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: compose(depolarizing(0.02)).build(),
        lambda: compose(bit_flip(0.05, on="encoder"), zz_crosstalk(0.1)).build(),
        lambda: Snapshot.of(FakeManilaV2(), [0, 1, 2]).backend(),
    ],
    ids=["model", "passes", "snapshot"],
)
def test_equal_noise_goes_on_and_other_noise_is_refused(network, tmp_path, make):
    ledger = tmp_path / "ledger.sqlite"
    values, settings = run(network, ledger, make())
    assert settings["noise_model"].startswith("sha256:")
    torch.testing.assert_close(values, by_the_engine(network, make()))
    again, _ = run(network, ledger, make())  # built anew
    assert torch.equal(values, again)
    other = Snapshot.of(FakeManilaV2(), [0, 1, 2]).scaled(2).backend()
    for noise in (other, compose(depolarizing(0.03)).build()):
        with pytest.raises(EngineError, match=r"was begun with other settings \(engine_options\)"):
            run(network, ledger, noise)


def test_a_word_is_recognised_as_what_it_stands_for(network, tmp_path):
    """A run that was begun by a word, and one whose file was changed meanwhile."""
    ledger, path = tmp_path / "ledger.sqlite", tmp_path / "noise.toml"
    compose(depolarizing(0.02), name="mine").save(path)
    values, _ = run(network, ledger, parse_noise(str(path)))
    again, _ = run(network, ledger, parse_noise("depolarizing:0.02"))
    assert torch.equal(values, again)
    compose(depolarizing(0.04), name="mine").save(path)
    with pytest.raises(EngineError, match="was begun with other settings"):
        run(network, ledger, parse_noise(str(path)))


def test_a_run_goes_on_in_another_folder(tmp_path, monkeypatch):
    """What the ledger keeps of a file is its absolute path."""
    compose(depolarizing(0.02), name="mine").save(tmp_path / "mine.toml")
    monkeypatch.chdir(tmp_path)
    options = EngineOptions(noise_model="mine.toml")
    asked = ask(tmp_path, options)
    assert asked.options.noise_model == str(tmp_path / "mine.toml")
    monkeypatch.chdir(tmp_path.parent)
    assert keywords(asked.options)["noise_model"].name == "mine"
    with pytest.raises(OptionError, match=r"noise_model: Cannot read .*mine.toml: No such file"):
        ask(tmp_path, options)


def test_a_snapshot_of_a_device_behind_the_real_client(start):
    """The stand-in has Manila's calibration, so the snapshots are equal but for the name."""
    backend = start().service().backend("ibm_manila")
    found, fake = Snapshot.of(backend, [2, 1]), Snapshot.of(FakeManilaV2(), [2, 1])
    assert found.device == "ibm_manila"
    assert found.calibrated is not None
    assert found.calibrations == fake.calibrations
    assert {(g.name, g.qubits, g.error) for g in found.gates if g.error} == {
        (g.name, g.qubits, g.error) for g in fake.gates if g.error
    }
