"""`--engine noisy` of `qpc evaluate` and `qpc train`."""

import json

import pytest
from command_line import TINY, failing, qpc
from later import later
from safetensors.torch import load_file
from torch import equal

from qpc_qiskit.data.images import load
from qpc_qiskit.nets import NetConfig, build_net
from qpc_qiskit.options.records import TrainConfig
from qpc_qiskit.training.checkpoint import read_record

training = later("qpc_qiskit.training.trainer")
NOISY = "--engine=noisy"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    qpc("train", *TINY, "--epochs=2", "--seed=3", "--out", folder)
    return folder


@pytest.mark.parametrize("noise", ["depolarizing:0.05", "fake_manila"])
def test_evaluate_equals_aer(run, noise):
    options = ("--noise", noise, "--images=4", "--json")
    found = json.loads(qpc("evaluate", run, NOISY, *options).stdout)
    aer = json.loads(qpc("evaluate", run, "--engine=estimator", *options).stdout)
    assert found["engine"] == "noisy"
    assert found["loss"] == pytest.approx(aer["loss"], abs=1e-5)
    assert found["max_logit_difference"] == pytest.approx(aer["max_logit_difference"], abs=1e-4)
    assert found["max_logit_difference"] > 1e-3
    assert found["last_report"]["num_executions"] == 0
    assert found["options"] == {"noise": noise}
    (layer,) = found["layers"].values()
    assert bool(layer["patch"]) == (noise == "fake_manila")


def test_evaluate_with_shots_and_another_encoder(run):
    options = ("--noise=fake_manila", "--shots=100", "--seed=1", "--encoder=brickwall")
    first, second = (
        json.loads(qpc("evaluate", run, NOISY, *options, "--images=10", "--json").stdout)
        for _ in range(2)
    )
    assert first["loss"] == second["loss"]
    assert first["shots"] == 100
    low, high = first["accuracy_interval"]
    assert low < first["accuracy"] < high or first["accuracy"] in (0, 1)
    text = qpc("evaluate", run, NOISY, *options, "--images=10").stdout
    assert text.startswith("noisy with noise fake_manila: accuracy ")
    assert "100 shots for each value, brickwall" in text
    assert "on qubits " in text


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "--engine noisy needs --noise"),
        (["--noise=warm"], "--noise: Unknown noise 'warm'"),
        (["--noise=fake_trino"], "--noise: Unknown backend 'fake_trino'"),
        (["--noise=fake_manila", "--backend=aer"], "--backend belongs to --engine estimator"),
        (["--noise=fake_manila", "--precision=0.1"], "--precision belongs to --engine estimator"),
        (["--noise=fake_manila", "--seed=1"], "--seed has no effect on exact values"),
        (["--noise=fake_manila", "--encoder=angle"], "--encoder must be one of multiplexor"),
        (["--noise=fake_manila", "--absorb-tail", "--shots=9"], "would share their shots"),
    ],
)
def test_wrong_options(run, arguments, match):
    assert match in failing("evaluate", run, NOISY, *arguments)


def test_train_records_the_noise_and_resumes(tmp_path, monkeypatch):
    """A run that was stopped after an epoch ends as one that was not, with the noise it had."""
    options = (*TINY, NOISY, "--noise=depolarizing:0.1", "--seed=3", "--epochs=2")
    whole, resumed, exact = (tmp_path / name for name in ("whole", "resumed", "exact"))
    qpc("train", *options, "--out", whole)
    original = training._Task.training_step

    def stopping(self, batch, batch_index):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return original(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(training._Task, "training_step", stopping)
        qpc("train", *options, "--out", resumed, exit_code=130)
    qpc("train", "--resume", "--out", resumed)
    qpc("train", *TINY, "--seed=3", "--epochs=2", "--out", exact)
    first, second, other = (load_file(f / "model.safetensors") for f in (whole, resumed, exact))
    assert all(equal(first[name], second[name]) for name in first)
    assert not all(equal(first[name], other[name]) for name in first)
    record = read_record(resumed)
    assert (record.training.engine, record.training.noise) == ("noisy", "depolarizing:0.1")
    assert "noisy" in json.loads((resumed / "model.json").read_text())["choices"]["A14"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([NOISY], "the noisy engine needs noise"),
        (["--noise=fake_manila"], "noise would have no effect with the exact engine"),
        ([NOISY, "--noise=warm"], "--noise: Unknown noise 'warm'"),
        ([NOISY, "--noise=fake_manila", "--net=small-classical"], "has no quantum layer"),
        (["--engine=warp"], "--engine: Input should be 'exact' or 'noisy'"),
    ],
)
def test_wrong_options_of_train(tmp_path, arguments, match):
    sizes = ("--train-images=60", "--test-images=20")
    assert match in failing("train", *sizes, *arguments, "--out", tmp_path / "run")


def test_engine_and_options_must_agree(tmp_path):
    data = load("digits").subset(60, 20)
    model = build_net(NetConfig(width=4, quantum_channels=4, num_layers=1), seed=1)
    config = TrainConfig(epochs=1, engine="noisy", noise="fake_manila")
    with pytest.raises(ValueError, match="the 'noisy' engine trains, and none is given"):
        training.train(model, data, config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
