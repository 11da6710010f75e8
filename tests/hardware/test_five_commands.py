"""The README's five commands, as they stand there, on a real device; see this folder's README."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from readme import five_commands

ROOT = Path(__file__).parents[2]
BACKEND = os.environ.get("QPC_HARDWARE_BACKEND", "ibm_fez")
PENDING = 75

EXAMPLE = r"""
    qpc info

## From simulator to device in five commands

    qpc train --out "runs/my digits"                 # 20 s
    qpc run submit runs/digits --backend ibm_fez \
        --run=first --max-qpu-seconds 300 --wait     # paid

    pip install qpc-qiskit

### Remarks

    qpc run list

## Another section

    qpc info
"""


def test_commands_are_found():
    assert five_commands(EXAMPLE) == [
        ["qpc", "train", "--out", "runs/my digits"],
        ["qpc", "run", "submit", "runs/digits", "--backend", "ibm_fez", "--run=first",
         "--max-qpu-seconds", "300", "--wait"],
        ["qpc", "run", "list"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no section"):
        five_commands("# qpc-qiskit\n")


def test_what_a_submission_plans():
    *_, submit, _ = five_commands(EXAMPLE)
    given, plan = told(submit)
    assert (given.run, given.max_qpu_seconds) == ("first", 300)
    assert plan == ["qpc", "run", "plan", "runs/digits", "--backend", "ibm_fez", "--json"]


def told(submit):
    """The options of `qpc run submit` that a plan does not take; the same as `qpc run plan`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run")
    parser.add_argument("--max-qpu-seconds", type=float)
    for name in ("--ledger", "--poll-seconds", "--seed"):
        parser.add_argument(name)
    for name in ("--wait", "--yes", "--json"):
        parser.add_argument(name, action="store_true")
    given, rest = parser.parse_known_args(submit[3:])
    return given, ["qpc", "run", "plan", *rest, "--json"]


@pytest.mark.hardware
def test_five_commands(tmp_path, capfd):
    commands = [
        [re.sub(r"(^|=)ibm_fez$", rf"\g<1>{BACKEND}", word) for word in words]
        for words in five_commands((ROOT / "README.md").read_text())
    ]
    assert len(commands) == 5
    (submit,) = (words for words in commands if words[:3] == ["qpc", "run", "submit"])
    given, plan = told(submit)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "QPC_LEDGER"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def asked(words):
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return json.loads(done.stdout)

    with capfd.disabled():
        sys.stdout.write(f"\n$ cd {tmp_path}\n")
        for words in commands:
            sys.stdout.write(f"$ {shlex.join(words)}\n")
            sys.stdout.flush()
            done = subprocess.run(words, cwd=tmp_path, env=environment, check=False)
            allowed = (0, PENDING) if words is submit else (0,)
            assert done.returncode in allowed, words
        for _ in range(30):  # the service may tell a job's usage some time after its result
            status = asked(["qpc", "run", "status", given.run, "--json"])
            if not status["reserved_seconds"]:
                break
            time.sleep(10)
            asked(["qpc", "run", "collect", given.run, "--json"])
        planned = asked(plan)
        sys.stdout.write(f"{json.dumps({'status': status}, indent=2)}\n")
    assert status["state"] == "done"
    assert 0 < status["used_seconds"] <= given.max_qpu_seconds
    assert len([job for job in status["jobs"] if job["job_id"]]) == planned["num_jobs"]
