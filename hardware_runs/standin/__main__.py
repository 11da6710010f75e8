"""`python -m hardware_runs.standin`: a stand-in in the foreground, until Ctrl-C."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from hardware_runs.standin import programs
from hardware_runs.standin.faults import Fault
from hardware_runs.standin.server import Standin
from hardware_runs.standin.service import Rules


def serve(
    file: Annotated[Path | None, typer.Option(help="Keep jobs in this file.")] = None,
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 0,
    noise: Annotated[
        bool,
        typer.Option(
            help="Execute with the devices' noise; ibm_fez and ibm_torino are too wide for that "
            "and execute without."
        ),
    ] = True,
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
    with stop_signals() as stopped:
        standin.start()
        environment = standin.environment()
        if as_json:
            typer.echo(json.dumps({"url": standin.url, "environment": environment}))
        else:
            for name, value in environment.items():
                typer.echo(f"export {name}={shlex.quote(value)}")
            if noise:
                wide = [name for name in programs.device_names() if not programs.has_noise(name)]
                names = " and ".join(sorted(wide))
                typer.echo(f"# {names} are too wide to simulate with noise: they run without.")
            typer.echo(f"# {standin.url} answers until Ctrl-C; no job leaves this machine.")
        stopped.get()
        standin.stop()


@contextmanager
def stop_signals() -> Iterator[SimpleQueue[int]]:
    """Ctrl-C and SIGTERM as entries of a queue.

    Unlike an event, it may be filled by a handler that interrupts whoever waits for it.
    """
    signals: SimpleQueue[int] = SimpleQueue()
    outer = {
        number: signal.signal(number, lambda number, _: signals.put(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for number, handler in outer.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    typer.run(serve)
