"""`python -m hardware_runs.standin`: a stand-in in the foreground, until Ctrl-C."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from hardware_runs.standin.faults import Fault
from hardware_runs.standin.server import Standin
from hardware_runs.standin.service import Rules


def serve(
    file: Annotated[Path | None, typer.Option(help="Keep jobs in this file.")] = None,
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 0,
    noise: Annotated[bool, typer.Option(help="Execute with the devices' noise.")] = True,
    queue_seconds: Annotated[float, typer.Option(help="How long jobs wait.")] = 0.0,
    posts_per_minute: Annotated[int | None, typer.Option(help="IBM says 5.")] = None,
    usage_limit_seconds: Annotated[float | None, typer.Option(help="QPU time allowed.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help='What goes wrong, as JSON: {"kind": "cut_after", "times": 2}; repeat.'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Run a stand-in of IBM's service on this machine; prints the environment to export."""
    rules = Rules(
        noisy=noise,
        queue_seconds=queue_seconds,
        posts_per_minute=posts_per_minute,
        usage_limit_seconds=usage_limit_seconds,
    )
    faults = [Fault(**json.loads(text)) for text in fault or ()]
    standin = Standin(rules, path=file, port=port, faults=faults)
    standin.start()
    environment = standin.environment()
    if as_json:
        typer.echo(json.dumps({"url": standin.url, "environment": environment}))
    else:
        for name, value in environment.items():
            typer.echo(f"export {name}={shlex.quote(value)}")
        typer.echo(f"# {standin.url} answers until Ctrl-C; no job leaves this machine.")
    wait_for_signal()
    standin.stop()


def wait_for_signal() -> None:
    """Until Ctrl-C or SIGTERM."""
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    done.wait()


if __name__ == "__main__":
    typer.run(serve)
