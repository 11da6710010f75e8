"""What the commands of `qpc` share: options from fields, one-line errors, exit codes."""

import json
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NoReturn, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError

from qpc_qiskit.errors import QPCError

RUNTIME_ERROR, USAGE_ERROR, INTERRUPTED = 1, 2, 130
EXIT_CODES = "Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted."


def option_from(model: type[BaseModel], name: str, *flags: str, panel: str) -> Any:
    """A command line option for a field: text, choices and default are those of the field.

    Args:
        model: pydantic model whose fields have docstrings.
        name: the field.
        flags: spelling on the command line; by default typer derives it from the parameter.
        panel: heading in the help.

    Returns:
        What `typer.Option` returns, for a parameter whose own default is None.
    """
    field = model.model_fields[name]
    notes = []
    if get_origin(field.annotation) is Literal:
        notes.append(", ".join(get_args(field.annotation)))
    if field.default is not None and field.default is not False:
        notes.append(f"default {field.default}")
    help_text = f"{field.description} ({'; '.join(notes)})" if notes else field.description
    return typer.Option(*flags, help=help_text, show_default=False, rich_help_panel=panel)


def say(as_json: bool, result: dict[str, Any], text: str) -> None:
    """Print a result to stdout, as JSON or as text."""
    typer.echo(json.dumps(result, indent=2) if as_json else text)


def fail(message: str, code: int) -> NoReturn:
    """Say one line on stderr and leave."""
    typer.echo(f"qpc: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


@contextmanager
def reported() -> Iterator[None]:
    """Turn the errors that a user can cause into one line and an exit code."""
    try:
        yield
    except (QPCError, OSError) as error:
        if _debug():
            traceback.print_exc()
        fail(str(error), RUNTIME_ERROR)
    except KeyboardInterrupt as stop:
        if _debug():
            traceback.print_exc()
        fail(str(stop) or "Stopped.", INTERRUPTED)


@contextmanager
def usage_errors(flags: Mapping[tuple[str, str], str]) -> Iterator[None]:
    """Turn options that pydantic refuses into wrong usage.

    Args:
        flags: spelling on the command line by (model, field), where it is not the field's name.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["loc"]:  # empty where several options contradict each other
            field = str(first["loc"][0])
            flag = flags.get((error.title, field), f"--{field.replace('_', '-')}")
            message = f"{flag}: {message}"
        fail(message, USAGE_ERROR)


def _debug() -> bool:
    return os.environ.get("QPC_DEBUG", "") not in ("", "0")
