import json
import os

import pytest
from typer.testing import CliRunner

from qpc_cli.app import app
from qpc_qiskit.experiments import experiment_names
from qpc_qiskit.grid.locking import locked

pytestmark = pytest.mark.usefixtures("undrawn")

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
    assert "depth          cifar10          15  Does" in text
    found = json.loads(qpc("experiment", "list", "--json").stdout)["experiments"]
    assert [each["name"] for each in found] == sorted(experiment_names())


def test_plan_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = qpc("experiment", "depth", "--plan").stdout
    assert "quantum, depth 4" in text
    assert "2376" in text
    assert list(tmp_path.iterdir()) == []
    plan = json.loads(qpc("experiment", "digits", "--plan", "--epochs=3", "--json").stdout)
    assert plan["lines"]["quantum"]["training"]["epochs"] == 3
    assert plan["seeds"] == [0, 1, 2, 3, 4]
    plan = json.loads(qpc("experiment", "digits", "--plan", "--only=quantum", "--json").stdout)
    assert list(plan["lines"]) == ["quantum"]


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


def test_a_run_of_another_process_is_told(tiny, tmp_path):
    out = tmp_path / "out"
    held = out / "cells" / "classical" / "seed-0"
    held.mkdir(parents=True)
    with locked(held):
        result = qpc("experiment", tiny, "--train-images=60", "--test-images=20", "--out", out)
    assert f"classical, seed 0: left to process {os.getpid()} on " in result.stderr
    assert "Not all runs are finished." in result.stdout


def test_one_line(tiny, tmp_path):
    few = ("--train-images=60", "--test-images=20", "--out", tmp_path / "out")
    text = qpc("experiment", tiny, *few, "--only=quantum").stdout
    assert "Not all runs are finished." in text


def test_a_failed_run_is_told_with_line_and_seed(tiny, tmp_path):
    bad = 'label = "bad"\ntraining = { optimizer = "sgd", lr = 1e30, schedule = "constant" }\n'
    tiny.write_text(TINY.replace("[[lines]]", f"[[lines]]\n{bad}\n[[lines]]", 1))
    few = ("--train-images=60", "--test-images=20", "--seeds=0,1", "--epochs=1")
    result = qpc("experiment", tiny, *few, "--out", tmp_path / "out", exit_code=1)
    assert "Traceback" not in result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("qpc: ")]
    assert [line.partition(" failed: ")[0] for line in told[:2]] == [
        "qpc: bad, seed 0", "qpc: bad, seed 1",
    ]  # fmt: skip
    assert told[2].startswith("qpc: 2 runs failed; the same command tries again.")
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert rows["classical"][:2] == ["2", "1"]
    assert "bad" not in rows
    others = ("--only=quantum", "--seeds=1", "--json", "--out", tmp_path / "out")
    answer = json.loads(qpc("experiment", tiny, *few[:2], "--epochs=1", *others).stdout)
    assert [failure["seed"] for failure in answer["failures"]] == [0, 1]


def test_options_that_are_given_win_over_a_line(tiny):
    own = '[[lines]]\nlabel = "own"\ntraining = { epochs = 7 }\npreset = "paper-literal"\n'
    tiny.write_text(TINY + own)
    plan = json.loads(qpc("experiment", tiny, "--plan", "--epochs=3", "--json").stdout)
    assert [line["training"]["epochs"] for line in plan["lines"].values()] == [3, 3, 3]


def test_a_label_with_an_attribute(tiny):
    tiny.write_text(TINY.replace('"quantum"', '"x {lr.foo}"'))
    result = qpc("experiment", tiny, "--plan", exit_code=2)
    assert "label 'x {lr.foo}': no option 'lr.foo'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


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
        (["digits", "--only=x", "--plan"], "--only must be one of 'quantum', "),
        (["list", "--seeds=1"], "`list` takes no option but --json."),
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
    assert lines["paper-fig3a"][-2:] == ["1782", "2141120"]
    assert lines["paper-fig3b"][-2:] == ["12480", "2152330"]
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
