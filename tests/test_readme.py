"""What the documentation shows runs, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from readme import five_commands

from hardware_runs.standin import Rules, Standin

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/backends.md",
        "docs/hardware-runs.md",
        "docs/noise.md",
        "docs/noise-studies.md",
        "docs/noisy-engine.md",
    ],
)
def test_the_examples_print_what_they_say(page, tmp_path):
    text = (ROOT / page).read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    answer = "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
    assert code
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == answer


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_no_placeholder_is_left():
    assert not re.findall(r"^[A-Z_]{6,}$", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_commands_of_the_readme_exist():
    """Every `qpc` command and option that the README shows is one of the command line's."""
    from typer.testing import CliRunner

    from qpc_qiskit.cli import app

    text = (ROOT / "README.md").read_text()
    calls = re.findall(r"^    qpc (run \w+|\w+)(.*?)(?:#.*)?$", text, re.MULTILINE)
    assert len(calls) >= 5
    for command, rest in calls:
        result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, command
        plain = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
        for option in re.findall(r"(--?[a-z-]+)", rest):
            assert option in plain, (command, option)


@pytest.mark.slow
def test_the_five_commands(tmp_path):
    """From simulator to device, against the stand-in: real client, HTTP, one process for each."""
    text = (ROOT / "README.md").read_text()
    commands = five_commands(text)
    assert [words[1] for words in commands] == ["train", "run", "run", "run", "run"]
    qpc = str(Path(sys.executable).parent / "qpc")
    with Standin(Rules()) as standin:
        environment = {**os.environ, **standin.environment()}
        for words in commands:
            done = subprocess.run(
                [qpc, *words[1:]],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode in ((0, 75) if "submit" in words else (0,)), done.stderr
        jobs = standin.records()["jobs"]
    assert len(jobs) == 1
    assert "accuracy" in done.stdout
    assert 3 < jobs[0]["usage_seconds"] < 30
    told = re.search(
        r"one job of ([\d,]+) executions, about (\d+) s", (ROOT / "README.md").read_text()
    )
    assert int(told[1].replace(",", "")) * 256 == jobs[0]["num_executions"]
    assert abs(int(told[2]) - jobs[0]["usage_seconds"]) < 2
