"""The commands of `qpc noise` that belong to studies."""

import json

import pytest
from typer.testing import CliRunner

from qpc_cli.app import app

STUDY = """
name = "tiny"
[train.tiny]
data = {train_images = 60, test_images = 20}
net = {width = 2, quantum_channels = 2, num_layers = 1}
training = {epochs = 1}
[[grid]]
noise = [{noise = "STRENGTHS"}]
"""


def run(*words):
    return CliRunner().invoke(app, ["noise", *map(str, words)])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY.replace('"STRENGTHS"', '"bit_flip", strengths = [0.01, 0.1]'))
    return path


def test_a_study_and_its_figures_and_report(file, tmp_path):
    out = tmp_path / "out"
    result = run("study", file, "--out", out, "--workers", 0)
    assert result.exit_code == 0, result.output
    assert "bit_flip" in result.stdout
    assert "2 cells, 2 of them evaluated by the last call" in result.stdout
    (out / "report.html").unlink()
    again = run("study", file, "--out", out, "--workers", 0, "--json")
    told = json.loads(again.stdout)
    assert told["cells"] == 2
    assert told["last_call"]["num_evaluated"] == told["last_call"]["num_trained"] == 0
    assert (out / "report.html").exists()
    drawn = json.loads(run("plot", out, "--json").stdout)["figures"]
    assert drawn == told["figures"]
    assert run("report", out).exit_code == 0


def test_the_plan_runs_nothing(file, tmp_path):
    out = tmp_path / "out"
    told = run("study", file, "--out", out, "--plan")
    assert told.exit_code == 0, told.output
    assert "1 networks of its own, 1 of them to be trained; 2 rows" in told.stdout
    result = json.loads(run("study", file, "--out", out, "--plan", "--json").stdout)
    assert result["rows"] == {"main": 2}
    assert len(result["networks_to_train"]) == result["networks"] == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("noise", "match"),
    [
        ('"bit_flip", strengths = [-0.1]', "a probability from 0 to 1, got '-0.1'"),
        ('"bit_flap"', "Unknown noise 'bit_flap'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_run(noise, match, file, tmp_path):
    file.write_text(STUDY.replace('"STRENGTHS"', noise))
    result = run("study", file, "--out", tmp_path / "out", "--workers", 0)
    assert result.exit_code == 2
    assert match in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_study(tmp_path):
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert "holds no finished study" in result.stderr


def test_workers_or_a_scheduler(file):
    result = run("study", file, "--workers", 2, "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 2
    assert "contradict" in result.stderr
