"""Every command that the documentation shows: parsed always, and run (slow) where that is cheap.

A command is in one of three tables: `RUN` (here), `RUN_ELSEWHERE` (by another test) or
`PARSED_ONLY` (with the reason). A new one in a page must be put into one of them.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import typer
from readme import PAGES, ROOT, commands, five_commands, name_of, words_of
from typer.testing import CliRunner

from hardware_runs.standin.__main__ import serve
from qpc_cli.app import app
from qpc_cli.submit import app as batch_script

TINY = (
    "--train-images=60", "--test-images=20", "--epochs=1",
    "--width=4", "--quantum-channels=8", "--num-layers=1",
)  # fmt: skip
TWO = ("--images=2", "--batch-size=2")
ON_FEZ = ("--no-compare", "--images=1")

RUN = {
    "qpc train --out runs/digits": TINY,
    "qpc train --out runs/digits --resume": (),
    "qpc train --engine noisy --noise depolarizing:0.01 --out runs/aware": TINY,
    "qpc train --engine noisy --noise depolarizing:0.01 --out runs/digits-noise-aware": TINY,
    "qpc evaluate runs/digits --engine noisy --noise fake_torino": TWO,
    "qpc evaluate runs/digits --engine noisy --noise heron_r2": TWO,
    "qpc evaluate runs/digits --engine noisy --noise depolarizing:0.01 --shots 1024 --seed 1": TWO,
    "qpc evaluate runs/digits --engine estimator --images 64": TWO,
    "qpc evaluate runs/digits --engine estimator --noise depolarizing:0.01 --images 64": TWO,
    "qpc evaluate runs/digits --engine estimator --backend fake_torino --shots 1024 --images 64": (
        TWO
    ),
    "qpc evaluate runs/digits --engine estimator --backend fake_torino --shots 1024 --seed 1 "
    "--images 64": TWO,
    "qpc evaluate runs/digits --engine estimator --backend fake_torino --shots 1024 --seed 1 "
    "--images 16": TWO,
    "qpc noise list": (),
    "qpc noise show heron_r2": (),
    "qpc evaluate runs/digits --engine estimator --noise mine.toml --images 64": TWO,
    "qpc noise show bit_flip:0.01 --scale 3": (),
    "qpc noise snapshot fake_manila --num-qubits 3 -o manila.json": (),
    "qpc noise snapshot fake_torino --num-qubits 4 -o torino.json": (),
    "qpc evaluate runs/digits --engine estimator --noise torino.json --images 64": TWO,
    "qpc export runs/digits --kernel 3 --format qasm3 -o kernel3.qasm": (),
    "qpc export runs/digits --kernel 3 --format qpy -o kernel3.qpy": (),
    "qpc report runs/digits": ("--images=2",),
    "qpc nets --data cifar10": (),
    "qpc nets paper-fig3a paper-fig3b --data cifar10": (),
    "qpc nets small --pointwise conv": (),
    "qpc experiment list": (),
    "qpc experiment digits --plan": (),
    "qpc experiment digits": (
        "--epochs=1",
        "--seeds=0",
        "--train-images=60",
        "--test-images=20",
        "--only=quantum",
    ),
    "qpc backends": (),
    "qpc backends fake_manila": (),
    "qpc run plan runs/digits --backend fake_fez --images 8 --shots 256 --rate 1.6": ON_FEZ,
    "qpc run submit runs/digits --backend fake_manila --images 2 --shots 64 --run first": (),
    "qpc run status first": (),
    "qpc run collect first --wait": (),
    "qpc run list": (),
    "qpc run report first": ("--simulate=0",),
    "python -m qpc_cli.submit --run first": (),
    "qpc run resume first --again": (),
    "qpc run cancel first": (),
    "qpc info": (),
}
"""In this order, in one folder; with what is added to make them small."""

KEPT = {"qpc noise show heron_r2": "mine.toml"}
"""Files into which pages write what a command prints."""

PAID = "a real device; the README's five commands run the same against the stand-in"
NO_DATA = "its data set cannot be had here"
STAYS = "the machine's packages stay as they are"
RUN_ELSEWHERE = {
    "qpc run status mine": "tutorial",
    "qpc run report mine": "tutorial",
    "qpc noise study examples/noise_study/ten_minutes.toml --out studies/ten-minutes": "tutorial",
    "qpc run plan runs/digits --backend ibm_fez --images 8 --shots 256": "five",
    "qpc run submit runs/digits --backend ibm_fez --images 8 --shots 256 --run first "
    "--max-qpu-seconds 30": "five",
}
"""By test_readme.py (`five`) or test_examples.py (`tutorial`, a small grid of the study)."""
PARSED_ONLY = {
    "qpc run submit runs/digits --backend ibm_fez --images 8 --shots 256 --run first "
    "--max-qpu-seconds 150": PAID,
    "qpc train --data cifar10 --data-dir DIR --out runs/cifar10": NO_DATA,
    "qpc train --preset strong --data cifar10 --data-dir DIR": NO_DATA,
    "qpc train --preset paper-literal --data cifar10 --data-dir DIR --epochs 20": NO_DATA,
    "qpc train --data cifar10 --data-dir DIR --devices 2": NO_DATA,
    "qpc experiment cifar10 --data-dir DIR": NO_DATA,
    "qpc experiment cifar10 --data-dir DIR --seeds 0": NO_DATA,
    "qpc experiment ansatz --data-dir DIR --train-images 10000": NO_DATA,
    "qpc experiment qubits --data-dir DIR --train-images 10000": NO_DATA,
    "qpc experiment qcnn --data-dir DIR --train-images 10000": NO_DATA,
    "qpc experiment application --data-dir DIR --train-images 5000 --test-images 5000": NO_DATA,
    "qpc experiment fashion-mnist --data-dir DIR --seeds 0": NO_DATA,
    "MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 NODE_RANK=0 qpc train --devices 4 --num-nodes 2": (
        "needs two machines"
    ),
    "qpc noise study examples/noise_study/small.toml": "half a minute; test_examples.py runs one",
    "qpc noise study examples/noise_study/digits.toml --out studies/digits": "half an hour",
    "qpc noise plot studies/small": "its study is not run",
    "qpc noise report studies/small": "its study is not run",
    "qpc standin": "runs until Ctrl-C; tests/hardware_runs/test_standin.py runs it",
    ".venv/bin/qpc standin": "runs until Ctrl-C",
    ".venv/bin/qpc train --out runs/digits": "run without the folder",
    ".venv/bin/qpc run plan runs/digits --backend fake_fez --images 8 --shots 256 --json": (
        "run with another rate"
    ),
    "/path/to/.venv/bin/qpc run cancel batch --ledger FOLDER/runs.sqlite": "needs that ledger",
    "/path/to/.venv/bin/qpc run cancel first": "needs that ledger",
}
NOT_QPC = {
    "make demo": "CI runs it",
    "make test": "CI runs these tests and more",
    "make test-all": "CI runs it",
    "make lint": "CI runs it",
    "make bench": "an hour",
    "source account.sh": "what `qpc standin` has printed",
    "pip install -c constraints.txt -e '.[all]'": STAYS,
    "pip install -c constraints.txt -e '.[all,test,bench]'": STAYS,
    "python -m benchmarks": "an hour",
    "python -m benchmarks gemm peers": "minutes",
    "python -m benchmarks --quick": "minutes",
    "python -m benchmarks --threads 1 --out /tmp/one-core": "an hour",
    ".venv/bin/python -m pytest tests/hardware --hardware": "a real device",
}
"""Not parsed."""

QPC = typer.main.get_command(app)
SHOWN = [(name_of(page), each) for page in PAGES for each in commands(page.read_text("utf-8"))]
OF_QPC = sorted({each for _, each in SHOWN if each not in NOT_QPC})


def parse(words):
    """Parse a command line up to, and without, the call of its function.

    Raises:
        typer.Exit, or what the command line's library raises for wrong usage.
    """
    program, *rest = words
    if program == "qpc" and rest[0] == "standin":
        served = typer.Typer(add_completion=False)
        served.command()(serve)
        command, rest = typer.main.get_command(served), rest[1:]
    elif program == "qpc":
        command = QPC
        while hasattr(command, "commands"):
            if rest[0] not in command.commands:
                raise LookupError(f"There is no command {' '.join(words)!r}.")
            command, rest = command.commands[rest[0]], rest[1:]
    elif words[:3] == ["python", "-m", "qpc_cli.submit"]:
        command, rest = typer.main.get_command(batch_script), rest[2:]
    else:
        raise LookupError(f"{program} is not a command of ours.")
    return command.make_context(program, list(rest))


def alternatives(words):
    """`qpc noise list|show` stands for two names of commands; None: it is one command."""
    if "|" not in words[-1]:
        return None
    return [[*words[:-1], name] for name in words[-1].split("|")]


@pytest.mark.parametrize("command", OF_QPC)
def test_command_is_one_that_can_be_given(command, monkeypatch):
    """Its name, its options, their values; required ones are there."""
    monkeypatch.chdir(ROOT)  # paths of examples are those of the repository
    words = words_of(command)
    names = alternatives(words)
    if names is None:
        parse(words)
        return
    for name in names:
        command = QPC
        for each in name[1:]:
            command = command.commands[each]


@pytest.mark.parametrize(
    "command",
    [
        "qpc trian --out runs/digits",
        "qpc train --outt runs/digits",
        "qpc train --epochs many",
        "qpc run plan runs/digits",
        "qpc run submit runs/digits --backend aer",
        "qpc noise study no-such-file.toml",
        "qpc standin --nose",
        "python -m qpc_cli.submit",
    ],
)
def test_wrong_commands_are_noticed(command):
    with pytest.raises(
        Exception, match=r"(?i)no such|no command|missing|valid integer|does not ex"
    ):
        parse(words_of(command))


def test_every_command_is_in_one_table():
    known = [*RUN, *RUN_ELSEWHERE, *PARSED_ONLY]
    assert len(set(known)) == len(known)
    shown = {command for command in OF_QPC if alternatives(words_of(command)) is None}
    assert shown - set(known) == set(), "new commands in the pages"
    assert set(known) - shown == set(), "commands that no page shows any more"
    assert set(NOT_QPC) <= {command for _, command in SHOWN}


def test_commands_in_the_text_exist():
    """`qpc run collect first` within a sentence: its name and its options."""
    for page in PAGES:
        for told in re.findall(r"(?<!\\)`(qpc [^`\n\\]+)`", page.read_text("utf-8")):
            told = told.replace("\\|", "|")
            words = words_of(re.sub(r"\[[^]]*\](\.\.\.)?|\.\.\.", "", told))
            command, names = QPC, words[1:]
            while hasattr(command, "commands") and names and names[0] != "COMMAND":
                ours = [name for name in names[0].split("|") if name]
                if ours[0].startswith("-"):
                    break
                found = [command.commands[name] for name in ours]
                command, names = found[0], names[1:]
            options = {option for each in command.params for option in (*each.opts, "--help")}
            options |= {option for each in command.params for option in each.secondary_opts}
            given = {word.split("=")[0] for word in names if word.startswith("-")}
            if command.name != "standin":
                assert given <= options, (name_of(page), told)


def test_make_has_the_targets():
    makefile = (ROOT / "Makefile").read_text()
    for _, command in SHOWN:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command


@pytest.mark.slow
def test_commands_run(tmp_path, monkeypatch):
    """One after the other, as a reader would; the last words make them small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QPC_LEDGER", raising=False)
    for command, more in RUN.items():
        words = words_of(command)
        script, rest = (batch_script, words[3:]) if words[0] == "python" else (app, words[1:])
        result = CliRunner().invoke(script, [*rest, *more])
        assert result.exit_code == 0, (command, result.output, result.exception)
        assert result.stdout.strip()
        if command in KEPT:
            Path(KEPT[command]).write_text(result.stdout)


def test_the_five_commands_are_run_elsewhere():
    shown = [" ".join(words) for words in five_commands((ROOT / "README.md").read_text())]
    assert {command for command, test in RUN_ELSEWHERE.items() if test == "five"} <= set(shown)
    assert set(shown) <= {*RUN, *RUN_ELSEWHERE}


def test_make_demo_is_the_example():
    """What `make demo` runs, without making an environment."""
    done = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "MAKEFLAGS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "examples/digits.py" in done.stdout
