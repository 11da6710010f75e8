"""`qpc noise`: the catalog, what a word or a file stands for, and snapshots of devices.

A thin shell over `noise_models`; everything heavy is imported inside the commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpc_cli import study as cli_study
from qpc_cli.support import (
    EXIT_CODES,
    USAGE_ERROR,
    backend_errors,
    check_extras,
    fail,
    reported,
    say,
)
from qpc_qiskit.common.tables import table

if TYPE_CHECKING:
    from noise_models.snapshots import Snapshot

noise_app = typer.Typer(
    name="noise",
    help="Noise for simulations: list what there is, show it, take snapshots of devices.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
]


@noise_app.command("list", epilog=EXIT_CODES)
def list_noise(as_json: AsJson = False) -> None:
    """List the catalog, and the channels that a number makes noise of.

    All of these go with --noise, as do names of devices and files.
    """
    with reported():
        from noise_models import catalog, words

        specs = [catalog.find(name) for name in catalog.names()]
        rows = [
            (spec.name, spec.version, ", ".join(c.model_dump()["channel"] for c in spec.channels))
            for spec in specs
        ]
        result = {
            "catalog": [
                {"name": spec.name, "version": spec.version, "description": spec.description}
                for spec in specs
            ],
            "channels": list(words.KINDS),
        }
        listed = table([("name", "version", "channels"), *((*r[:2], r[2] or None) for r in rows)])
        kinds = " ".join(f"{kind}:0.01" for kind in words.KINDS)
        say(as_json, result, f"{listed}\n\nor a channel with its number: {kinds}")


@noise_app.command(epilog=EXIT_CODES)
def show(
    noise: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="What --noise takes, but no device.")
    ],
    strength: Annotated[
        float, typer.Option("--scale", min=0, help="So many times as strong.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show what noise is made of: a spec as TOML, to be saved and changed; of a snapshot a summary.

    For instance:

      qpc noise show heron_r2 > mine.toml

      qpc noise show bit_flip:0.01 --scale 3
    """
    with reported(), _usage():
        from noise_models import words
        from noise_models.spec import NoiseSpec

        if words.is_device(noise):
            fail(
                f"{noise} is a device: `qpc backends {noise}` tells of it, and `qpc noise snapshot "
                f"{noise}` saves its noise.",
                USAGE_ERROR,
            )
        found = words.find_noise(noise).scaled(strength)
        is_spec = isinstance(found, NoiseSpec)
        text = found.to_toml() if isinstance(found, NoiseSpec) else _summary(found)
        say(as_json, found.to_dict(), text.rstrip("\n") if is_spec else text)


@noise_app.command(epilog=EXIT_CODES)
def snapshot(
    device: Annotated[
        str, typer.Argument(help="fake_..., or ibm_... as it is calibrated now (free).")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", dir_okay=False, help="File to write, .json.")
    ],
    qubits: Annotated[
        str | None, typer.Option(metavar="0,1,...", help="Of the device. (default all)")
    ] = None,
    num_qubits: Annotated[
        int | None,
        typer.Option(
            min=1, max=10, help="Of the best patch for a layer (strongly_entangling, 3 blocks)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Save a device's noise as a file, which stays the same when the device is calibrated anew.

    For instance:

      qpc noise snapshot fake_torino --num-qubits 4 -o torino.json

      qpc evaluate runs/digits --engine estimator --noise torino.json --images 64
    """
    with reported(), _usage():
        if qubits is not None and num_qubits is not None:
            fail("--qubits and --num-qubits contradict each other; give one.", USAGE_ERROR)
        chosen = None if qubits is None else _numbers(qubits)
        check_extras({"backend": device})
        from qpc_qiskit.common.progress import busy

        with busy(f"Reading {device}"):
            from noise_models.snapshots import Snapshot, best_qubits
            from qpc_qiskit.backends.named import find_backend

            with backend_errors("", device):
                backend = find_backend(device)
                if num_qubits is not None:
                    chosen = list(best_qubits(backend, num_qubits))
            found = Snapshot.of(backend, chosen)
            found.save(output)
        told = {"file": str(output), "digest": found.digest, "qubits": list(found.qubits)}
        result = told | {"device": found.device, "calibrated": found.calibrated}
        say(as_json, result, f"{output}: {_summary(found)}")


def _summary(found: Snapshot) -> str:
    shown = ", ".join(map(str, found.qubits[:12])) + ", ..." * (len(found.qubits) > 12)
    lines = [
        f"snapshot of {found.device}, calibrated {found.calibrated or 'at an unknown time'}",
        f"qubits {shown} ({len(found.qubits)}), {len(found.coupling)} couplings",
    ]
    rows = [(m.name, m.error, m.nanoseconds) for m in found.medians()]
    lines.append(table([("median of", "error", "ns"), *rows]))
    return "\n".join(lines)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"--qubits must be numbers with commas between them; got {text!r}.", USAGE_ERROR)


@contextmanager
def _usage() -> Iterator[None]:
    from qpc_qiskit.errors import NoiseError

    try:
        yield
    except NoiseError as error:
        fail(str(error), USAGE_ERROR)


cli_study.register(noise_app)
