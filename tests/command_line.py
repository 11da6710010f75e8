"""`qpc` in this process, for tests of its commands."""

from typer.testing import CliRunner

from qpc_cli.app import app

TINY = (
    "--train-images=60", "--test-images=20", "--width=4", "--quantum-channels=4", "--num-layers=1",
)  # fmt: skip
"""A network and data that train in a second."""


def qpc(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output
    return result


def failing(*arguments, exit_code=2):
    """The one line that a failing command says."""
    result = qpc(*arguments, exit_code=exit_code)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("qpc: ")
    return line
