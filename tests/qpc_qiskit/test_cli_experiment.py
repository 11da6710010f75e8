import json

import pytest
from typer.testing import CliRunner

from qpc_qiskit.cli import app

TINY = """
name = "tiny"
title = "Tiny"
question = "Does it run?"
seeds = [0]

[net]
width = 4
quantum_channels = 4

[training]
epochs = 1

[[lines]]
label = "quantum"

[[lines]]
label = "classical"
net = { name = "small-classical" }
"""


def qpc(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_list():
    text = qpc("experiment", "list").stdout
    assert "depth          cifar10        15 runs" in text
    found = json.loads(qpc("experiment", "list", "--json").stdout)["experiments"]
    assert [each["name"] for each in found][:2] == ["ansatz", "cifar10"]


def test_plan_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = qpc("experiment", "depth", "--plan").stdout
    assert "quantum, depth 4" in text
    assert "2376" in text
    assert list(tmp_path.iterdir()) == []
    plan = json.loads(qpc("experiment", "digits", "--plan", "--epochs=3", "--json").stdout)
    assert plan["lines"]["quantum"]["training"]["epochs"] == 3
    assert plan["seeds"] == [0, 1, 2, 3, 4]


def test_run_and_again(tiny, tmp_path):
    out = tmp_path / "out"
    few = ("--train-images=60", "--test-images=20", "--seeds=3", "--out", out)
    first = qpc("experiment", tiny, *few)
    assert "run 2 of 2: classical, seed 3" in first.stderr
    assert first.stdout.splitlines()[0] == str(out)
    assert first.stdout.splitlines()[2].startswith("quantum")
    again = qpc("experiment", tiny, *few, "--json")
    assert "run " not in again.stderr
    result = json.loads(again.stdout)
    assert result["is_complete"]
    assert [cell["seed"] for cell in result["cells"]] == [3, 3]
    refused = qpc("experiment", tiny, *few, "--epochs=2", exit_code=1)
    assert "training.epochs: begun with 1, now 2" in refused.stderr


def test_one_line(tiny, tmp_path):
    few = ("--train-images=60", "--test-images=20", "--out", tmp_path / "out")
    text = qpc("experiment", tiny, *few, "--only=quantum").stdout
    assert "Not all runs are finished." in text


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["big"], "No experiment is called 'big'; expected one of ansatz, "),
        (["digits", "--seeds=a"], "--seeds must be numbers, as in 0,1,2; got 'a'"),
        (["digits", "--seeds=1,1"], "seeds must differ"),
        (["digits", "--only=x"], "--only must be one of 'quantum', "),
        (["digits", "--device=tpu"], "device: Input should be"),
        (["digits", "--data-dir=x"], "data_dir would have no effect with the digits"),
        (["no.toml"], "no.toml: cannot be read"),
    ],
)
def test_wrong_usage(arguments, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = qpc("experiment", *arguments, exit_code=2)
    assert match in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_nets():
    text = qpc("nets", "--data=cifar10").stdout
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["paper-fig3a"][-2:] == ["1782", "2140608"]
    assert lines["paper-fig3b"][-2:] == ["12480", "2151818"]
    assert "--preset strong-twin" in text
    text = qpc("nets", "strong", "paper-cnn", "--data=cifar10").stdout
    assert "128 -> 64, 10 circuits of 7 qubits" in text
    assert "paper-cnn" in text
    found = json.loads(qpc("nets", "--pointwise=frozen", "--json").stdout)["networks"]
    assert "paper-cnn" not in found
    assert found["small"]["parameters"] - found["small"]["trainable"] == 288
    preset = json.loads(qpc("nets", "strong-twin", "--json").stdout)["networks"]["strong-twin"]
    assert preset["pointwise"] == 128 * 64 + 64 + 64 * 128 + 128


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["big"], "NAME must be one of small, "),
        (["--data=mnist"], "--data must be one of digits"),
        (["small", "--pointwise=x"], "--pointwise: Input should be"),
        (["paper-cnn", "--pointwise=conv"], "pointwise would have no effect"),
    ],
)
def test_wrong_usage_of_nets(arguments, match):
    assert match in qpc("nets", *arguments, exit_code=2).stderr
