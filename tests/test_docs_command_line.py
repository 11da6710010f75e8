"""docs/command-line.md names every command and option of the command line, and no other."""

import re

import pytest
import typer
from readme import ROOT

from hardware_runs.standin.__main__ import serve
from qpc_cli import support as cli_support
from qpc_cli.app import app
from qpc_cli.submit import app as batch_script

PAGE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
PACKAGES = ("qpc_qiskit", "noise_models", "hardware_runs", "qpc_cli")


def leaves(command, name):
    """Commands that are no groups, by their full names."""
    if not hasattr(command, "commands"):
        return {name: command}
    found = {}
    for word, each in command.commands.items():
        found |= leaves(each, f"{name} {word}")
    return found


def all_commands():
    found = leaves(typer.main.get_command(app), "qpc")
    served = typer.Typer(add_completion=False)
    served.command()(serve)
    found["qpc standin"] = typer.main.get_command(served)  # which takes its words as they are
    found["qpc"] = typer.main.get_command(app)
    found["python -m qpc_cli.submit"] = typer.main.get_command(batch_script)
    return found


def sections(text):
    """What is said below each heading that is a command."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: body for name, body in found.items() if re.match(r"(qpc|python)( |$)", name)}


def options_told(text):
    """In backticks and in examples."""
    code = [*re.findall(r"`([^`]+)`", text), *re.findall(r"^ {4}(.*)$", text, re.MULTILINE)]
    words = [word for each in code for word in re.split(r"[\s,=|]+", each)]
    return {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} - {"-m"}


def options_of(command):
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    options = {o for each in shown for o in (*each.opts, *each.secondary_opts)}
    return {o for o in options if o.startswith("-")} - {"-h", "--help"}


COMMANDS = all_commands()
SECTIONS = sections(PAGE)


def test_every_command_has_a_section():
    assert set(SECTIONS) == set(COMMANDS)


def test_the_overview_lists_every_command():
    overview = PAGE.partition("\n## ")[0]
    linked = set(re.findall(r"\]\(#([a-z-]+)\)", overview))
    names = {name for name in COMMANDS if name.startswith("qpc ")}
    assert linked == {name.replace(" ", "-") for name in names}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_of_the_command(name):
    told, ours = options_told(SECTIONS[name]), options_of(COMMANDS[name])
    assert ours - told == set(), "options that the page does not name"
    assert told - ours == set(), "options that the command does not have"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "qpc"])
def test_usage_has_what_must_be_given(name):
    (usage,) = re.findall(rf"^`({re.escape(name)}(?: [^`]*)?\[OPTIONS\])`", SECTIONS[name], re.M)
    for each in COMMANDS[name].params:
        if not each.opts[0].startswith("-"):
            assert (each.metavar or each.name.upper()) in usage
        elif each.required:
            assert set(usage.split()) & set(each.opts)


def test_exit_codes():
    section = PAGE.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    names = ("RUNTIME_ERROR", "USAGE_ERROR", "PENDING", "INTERRUPTED")
    assert told == {0, *(getattr(cli_support, name) for name in names)}


def test_environment_variables():
    """All that our code reads under our name; the others are named in the code as well."""
    code = "\n".join(
        path.read_text("utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    )
    section = PAGE.partition("\n## Environment variables\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", section))
    assert {name for name in told if name.startswith("QPC_")} == set(
        re.findall(r"\bQPC_[A-Z_]+\b", code)
    )
    assert {name for name in told if not re.search(rf"\b{name}\b", code)} == set()


def test_files_that_commands_write_are_told():
    """Names of files from the modules that write them."""
    from noise_models.study import run as study
    from qpc_cli import run as cli_run
    from qpc_qiskit.experiments import folder
    from qpc_qiskit.training import runs

    for name in (*runs.RUN_FILES, study.RESULTS_FILE, folder.SECONDS_FILE, cli_run.LEDGER):
        assert f"`{name}`" in PAGE


def test_what_is_missing_or_invented_is_noticed():
    assert options_told("`--out FOLDER` and `-o`\n\n    qpc train --epochs=3\n") == {
        "--out", "-o", "--epochs"
    }  # fmt: skip
    assert set(sections("## Exit codes\nx\n## qpc train\ny\n")) == {"qpc train"}
