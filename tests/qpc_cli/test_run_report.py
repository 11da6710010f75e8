"""`qpc run report` of runs on aer: files, JSON, and what is said when something is not there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from torch import nn
from typer.testing import CliRunner

from hardware_runs import durable
from hardware_runs.reports import figures as report_figures
from qpc_cli.app import app
from qpc_qiskit import QuantumPointwiseConv2d, use_engine

pytestmark = pytest.mark.usefixtures("quick_runs")


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, ["run", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


def failing(*arguments, exit_code):
    result = run("report", *arguments, exit_code=exit_code)
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with a checkpoint and a ledger with a run of it on aer."""
    folder = tmp_path_factory.mktemp("report")
    write_checkpoint(folder / "model")
    given = ("--backend=aer", "--images=3", "--run=first", f"--ledger={folder / 'runs.sqlite'}")
    run("submit", folder / "model", *given)
    return folder


@pytest.fixture
def ledger(begun, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QPC_LEDGER", str(begun / "runs.sqlite"))
    return begun / "runs.sqlite"


def test_files_and_json(ledger, monkeypatch):
    """With one of the figures, of which tests of reports draw all."""

    def accuracy(examined, folder):
        folder.mkdir(parents=True)
        return list(report_figures._accuracy(examined.report, folder))

    monkeypatch.setattr("hardware_runs.reports.page.draw_figures", accuracy)
    found = json.loads(run("report", "first", "--simulate=1", "--json").stdout)
    files = found.pop("files")
    assert files["page"] == "reports/first/report.html"
    assert json.loads(Path(files["data"]).read_text()) == found
    assert "<h1>Run first on aer</h1>" in Path(files["page"]).read_text()
    assert [Path(path).name for path in files["figures"]] == ["accuracy.png"]
    assert all(Path(path).exists() for path in files["figures"])
    assert (found["run"], found["state"], found["warnings"]) == ("first", "done", [])
    assert (found["num_images"], found["num_complete"], found["data"]) == (3, 3, "digits")
    told = {each["engine"]: each for each in found["engines"]}
    assert list(told) == ["exact", "aer", "measured"]
    assert told["aer"]["num_images"] == 1
    assert told["measured"]["agreement"] == 1
    assert "No noisy copy: the run was on Aer without noise." in found["notes"]
    assert found["layers"][0]["as_used"]["rms_error"] < 1e-6


def test_what_is_printed(ledger, begun, tmp_path, monkeypatch):
    """Without figures, which take seconds."""
    monkeypatch.setattr("hardware_runs.reports.page.draw_figures", lambda examined, folder: [])
    (tmp_path / "there").mkdir()
    text = run("report", "first", "--out", tmp_path / "there", "--simulate=0").stdout
    assert text == f"{tmp_path}/there/report.html: run first, done\n"
    moved = begun.with_name("moved")
    shutil.move(begun / "model", moved)
    try:
        text = run("report", "first", "--out", tmp_path / "there").stdout
        assert text.startswith("warning: The network or the images are not at hand")
        found = run("report", "first", "--out=there", f"--model={moved}", "--simulate=0", "--json")
        assert json.loads(found.stdout)["num_complete"] == 3
        message = failing("first", f"--model={begun / 'nowhere'}", exit_code=1)
        assert "nowhere" in message
    finally:
        shutil.move(moved, begun / "model")


def test_what_there_is_none_of(ledger, tmp_path):
    assert "it has no run 'second'; it has 'first'" in failing("second", exit_code=1)
    missing = tmp_path / "no.sqlite"
    assert "no.sqlite" in failing("first", f"--ledger={missing}", exit_code=1)
    assert not missing.exists()
    message = failing("first", f"--data-dir={tmp_path}", exit_code=2)
    assert "data_dir would have no effect with the digits" in message
    assert not (tmp_path / "reports").exists()


def test_a_script_of_its_own(tmp_path):
    """Its name may be anything; the folder is then to be named."""
    path, layers = tmp_path / "own.sqlite", nn.Sequential(QuantumPointwiseConv2d(2, 1)).eval()
    with durable(path, "my/own", "aer") as engine, torch.no_grad(), use_engine(layers, engine):
        engine.map(layers, [torch.ones(1, 2, 1, 1)])
    message = failing("my/own", f"--ledger={path}", exit_code=2)
    assert "The name of run 'my/own' cannot be that of a folder; give --out." in message
    text = run("report", "my/own", f"--ledger={path}", "--out", tmp_path / "report").stdout
    assert text.startswith("warning: The run was begun by a script of its own")
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (told["engines"], told["num_images"]) == ([], None)
    message = failing("my/own", f"--ledger={path}", "--out=x", "--model=x", exit_code=1)
    assert "by a script of its own" in message
