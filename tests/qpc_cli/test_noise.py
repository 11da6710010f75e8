"""`qpc noise`."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from noise_models import builders, catalog
from noise_models.snapshots import Snapshot
from noise_models.spec import NoiseSpec
from qpc_cli.app import app


def qpc(*words, exit_code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == exit_code, (result.stdout, result.stderr)
    return result


def test_list():
    text = qpc("noise", "list").stdout
    for name in catalog.names():
        assert f"\n{name} " in text
    assert text.startswith("name ")
    assert "depolarizing:0.01" in text
    told = json.loads(qpc("noise", "list", "--json").stdout)
    assert [each["name"] for each in told["catalog"]] == list(catalog.names())
    assert "bit_flip" in told["channels"]


@pytest.mark.parametrize("word", [*catalog.names(), "bit_flip:0.02"])
def test_what_is_shown_is_a_file(word, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(qpc("noise", "show", word).stdout)
    shown = json.loads(qpc("noise", "show", path, "--json").stdout)
    assert NoiseSpec.load(path).to_dict() == shown
    assert shown["name"] == word.replace(":", "-")


def test_show_scaled():
    found = NoiseSpec.from_toml(qpc("noise", "show", "bit_flip:0.02", "--scale", "3").stdout)
    assert found.channels == (builders.bit_flip(0.06),)
    assert found.name == "bit_flip-0.02-x3"


def test_snapshot_of_a_patch(tmp_path):
    path = tmp_path / "manila.json"
    text = qpc("noise", "snapshot", "fake_manila", "--num-qubits", 3, "-o", path).stdout
    assert text.startswith(f"{path}: snapshot of fake_manila, calibrated 2024-05-27T")
    found = Snapshot.load(path)
    assert len(found.qubits) == 3
    shown = qpc("noise", "show", path).stdout
    assert "3), 2 couplings" in shown
    assert "P(1|0)" in shown
    assert json.loads(qpc("noise", "show", path, "--json").stdout) == found.to_dict()


def test_snapshot_of_qubits_and_of_all(tmp_path):
    path = tmp_path / "manila.json"
    answer = qpc("noise", "snapshot", "fake_manila", "--qubits", "3,1,2", "-o", path, "--json")
    told = json.loads(answer.stdout)
    assert told["qubits"] == [3, 1, 2]
    assert told["digest"] == Snapshot.load(path).digest
    qpc("noise", "snapshot", "fake_manila", "-o", path)
    assert Snapshot.load(path).qubits == tuple(range(5))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "warm"], "qpc: Unknown noise 'warm'; expected a device's name"),
        (["show", "missing.toml"], "qpc: Cannot read missing.toml: No such file or directory."),
        (["show", "fake_torino"], "fake_torino is a device: `qpc backends fake_torino` tells of"),
        (["show", "bit_flip:0.5", "--scale", "3"], "channels[0].probability: expected a probab"),
        (["snapshot", "fake_trino", "-o", "a.json"], "qpc: Unknown backend 'fake_trino'"),
        (["snapshot", "fake_manila", "-o", "a.toml"], "expected a file whose name ends in .json."),
        (
            ["snapshot", "fake_manila", "-o", "a.json", "--qubits", "0,7"],
            "qpc: Expected different qubits of fake_manila, from 0 to 4, got 0, 7.",
        ),
        (
            ["snapshot", "fake_manila", "-o", "a.json", "--qubits", "0-3"],
            "--qubits must be numbers with commas between them; got '0-3'.",
        ),
        (
            ["snapshot", "fake_manila", "-o", "a.json", "--qubits", "0", "--num-qubits", "2"],
            "--qubits and --num-qubits contradict each other; give one.",
        ),
    ],
)
def test_wrong_usage(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = qpc("noise", *words, exit_code=2).stderr
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses(tmp_path):
    path = tmp_path / "nowhere" / "a.json"
    assert "No such file" in qpc("noise", "snapshot", "fake_manila", "-o", path, exit_code=1).stderr


def test_what_needs_no_simulator_imports_none():
    commands = [["--help"], ["noise", "list"], ["noise", "show", "heron_r2"]]
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom qpc_cli.app import app\n"
        f"for words in {commands}: assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print(*(name for name in ('qiskit', 'qiskit_aer', 'torch') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
