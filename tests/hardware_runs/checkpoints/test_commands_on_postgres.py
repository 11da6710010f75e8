"""`qpc run` with a ledger on PostgreSQL, where a server is given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import NO_POSTGRES, POSTGRES, postgres_schema
from sqlalchemy import make_url
from typer.testing import CliRunner

from hardware_runs.standin import Rules, Standin
from qpc_cli.app import app

pytestmark = pytest.mark.skipif(not POSTGRES, reason=NO_POSTGRES)

ROOT = Path(__file__).parents[3]
WORD = "sesame-street"
HOURS = 7200


def qpc(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    assert WORD not in result.output
    return result.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    qpc(
        "train", "--train-images=60", "--test-images=20", "--width=4", "--quantum-channels=4",
        "--num-layers=1", "--epochs=1", "--seed=3", "--out", folder,
    )  # fmt: skip
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(command, ..., exit_code=0) -> what `qpc run` says, as JSON, with a ledger of its own."""
    monkeypatch.chdir(tmp_path)  # logs lie in runs/
    with postgres_schema("qpc_test_commands") as text:
        url = make_url(text)
        if url.password is None:  # a server that trusts everybody does not read it
            url = url.set(password=WORD)
        ledger = url.render_as_string(hide_password=False)

        def run(*arguments, exit_code=0):
            told = qpc("run", *arguments, "--ledger", ledger, "--json", exit_code=exit_code)
            return json.loads(told)

        run.ledger = ledger
        yield run


def test_on_a_snapshot(model, run, tmp_path):
    arguments = (
        "submit",
        model,
        "--backend=fake_manila",
        "--economy=plain",
        "--images=3",
        "--shots=64",
        "--seed=1",
    )
    found = run(*arguments, "--run=first")
    assert (found["state"], found["images"], found["jobs"]) == ("done", 3, 1)
    assert run(*arguments, "--run=first") == found == run("collect", "first")
    status = run("status", "first")
    assert (status["state"], [job["state"] for job in status["jobs"]]) == ("done", ["done"])
    run(*arguments, "--run=second")
    listed = run("list")
    assert [(each["run"], each["state"]) for each in listed["runs"]] == [
        ("first", "done"), ("second", "done"),
    ]  # fmt: skip
    assert listed["ledger"].startswith("postgresql")
    assert run("cancel", "second")["state"] == "cancelled"
    assert {file.name for file in (tmp_path / "runs").iterdir()} == {
        "first.log.jsonl", "second.log.jsonl",
    }  # fmt: skip
    assert WORD not in (tmp_path / "runs" / "first.log.jsonl").read_text()


def test_on_a_device_with_another_process_that_collects(model, run, tmp_path):
    with Standin(Rules(noisy=False, queue_seconds=HOURS)) as standin:
        arguments = ("submit", model, "--backend=ibm_manila", "--images=2", "--shots=64",
                     "--economy=plain", "--max-qpu-seconds=60", "--run=first")  # fmt: skip
        assert run(*arguments, exit_code=75)["state"] == "pending"
        assert len(run("cancel", "first")["cancelled"]) == 1
        assert run("status", "first")["state"] == "cancelled"
        assert run("collect", "first", "--again", exit_code=75)["state"] == "pending"
        standin.advance(HOURS)
        done = subprocess.run(
            [sys.executable, "-c", "from qpc_cli.app import main; main()", "run", "collect",
             "first", "--json"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "QPC_LEDGER": run.ledger},
        )  # fmt: skip
        assert json.loads(done.stdout)["state"] == "done"
        assert run("status", "first")["state"] == "done"
        jobs = standin.records()["jobs"]
    assert [job["state"] for job in jobs] == ["Cancelled", "Completed"]
    assert standin.errors == []


def test_a_server_that_is_not_there(model, run):
    """One line, without the password."""
    url = make_url(run.ledger).set(port=1)
    result = CliRunner().invoke(
        app, ["run", "list", "--ledger", url.render_as_string(hide_password=False)]
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("qpc: ")
    assert WORD not in result.output
