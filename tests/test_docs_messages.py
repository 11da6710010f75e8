"""docs/troubleshooting.md quotes messages that exist."""

import ast
import re
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest

from qpc_cli.flags import spelled

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("qpc_qiskit", "noise_models", "hardware_runs", "qpc_cli")
ELSEWHERE = {
    "make: Python 3.11 or newer is needed": ROOT / "Makefile",
    "Insufficient memory to run circuit": "qiskit-aer",
    "Unable to find account.": "qiskit-ibm-runtime",
    "Unable to retrieve instances. Please check that you are using a valid API token.": (
        "qiskit-ibm-runtime"
    ),
    "The given API token is associated with an account that does not have access to the "
    "instance": "qiskit-ibm-runtime",
    "No backend matches the criteria.": "qiskit-ibm-runtime",
}
"""Messages of other programs: their file, or their distribution."""


def quoted(text):
    """First cells of the tables, with what is in backticks there."""
    rows = re.findall(r"^\| `(.*?)(?<!\\)` \|", text, re.MULTILINE)
    return [row.replace("\\`", "`").replace("\\|", "|") for row in rows]


def spoken(tree):
    """Every text in a module as the page has it: `...` for what is put in, one space for all.

    Of an error that names options, as a command line has it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())
            yield " ".join(
                re.sub(r"{([a-z_]+)}", lambda found: spelled(found[1]), node.value).split()
            )
        elif isinstance(node, ast.JoinedStr):
            parts = (
                str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values
            )
            yield " ".join("".join(parts).split())


@cache
def sources():
    return [
        text
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for text in spoken(ast.parse(path.read_text("utf-8")))
        if " " in text
    ]


def is_told(message):
    return any(message in text for text in sources())


MESSAGES = quoted((ROOT / "docs" / "troubleshooting.md").read_text("utf-8"))


@pytest.mark.parametrize("message", MESSAGES)
def test_message_exists(message):
    place = ELSEWHERE.get(message)
    if place is None:
        assert is_told(message)
    elif isinstance(place, Path):
        assert message in place.read_text("utf-8")
    else:
        files = [f for f in distribution(place).files or () if f.suffix in (".py", ".so", ".pyd")]
        texts = (Path(str(f.locate())).read_bytes() for f in files)
        assert any(message.encode() in _joined(text) for text in texts)


def _joined(source):
    """With literals that are written in several lines put together."""
    return re.sub(rb"\"\s*\n\s*f?\"", b"", source)


def test_no_message_of_other_programs_is_stale():
    assert set(ELSEWHERE) <= set(MESSAGES)


def test_invented_messages_are_found():
    assert len(MESSAGES) > 40
    assert is_told("it has no run ...")
    assert not is_told("it has no such run")
    assert not is_told("The flux capacitor is empty.")
    assert quoted("| `a \\`b\\` c` | x |\n| no | `d` |") == ["a `b` c"]
