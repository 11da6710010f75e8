"""Writing files so that a crash leaves the old file or the new one, never half of either."""

import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qpc_qiskit.errors import EngineError

if TYPE_CHECKING:
    from qiskit import QuantumCircuit


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it takes `path`'s place when the block succeeds.

    Args:
        path: the file to be written; its folder must exist.

    Yields:
        A path in the same folder with the same suffix. It is removed when the block fails.

    Raises:
        OSError: it cannot be written; the error names `path`, the file that was wanted.
    """
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except OSError as error:
        # A full disk names no file, other errors the one beside it: nobody knows that.
        named = [Path(str(name)).name for name in (error.filename, error.filename2) if name]
        if error.errno is not None and (not named or aside.name in named):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # it is not there, or its folder is not
            aside.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the content of `path` in one step."""
    with written_aside(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Replace the content of `path` in one step, as UTF-8 with unchanged line ends."""
    write_bytes(path, content.encode())


FAITHFUL_QPY = (2, 3, 1)
"""The first Qiskit whose QPY (and pickle) keeps the sign of every difference of parameters."""


def as_qpy(circuits: "Sequence[QuantumCircuit]") -> bytes:
    """Circuits in QPY. A Qiskit that may write an angle wrongly is read back, and compared.

    Raises:
        EngineError: the Qiskit that is installed writes one of the angles wrongly.
    """
    import qiskit
    from qiskit import qpy

    buffer = io.BytesIO()
    qpy.dump(list(circuits), buffer)
    if tuple(map(int, re.findall(r"\d+", qiskit.__version__)[:3])) < FAITHFUL_QPY:
        buffer.seek(0)
        for written, read in zip(circuits, qpy.load(buffer), strict=True):
            if _angles(written) != _angles(read):
                raise EngineError(
                    f"Qiskit {qiskit.__version__} writes an angle of the circuit {written.name!r} "
                    "wrongly (a difference in a difference of parameters). Install a newer one: "
                    f"pip install 'qiskit>={'.'.join(map(str, FAITHFUL_QPY))}'"
                )
    return buffer.getvalue()


def _angles(circuit: "QuantumCircuit") -> list[float]:
    """Of all gates, at a point that no simple sum brings to zero, up to rounding."""
    names = sorted(parameter.name for parameter in circuit.parameters)
    point = {p: math.sqrt(2 + names.index(p.name)) for p in circuit.parameters}
    bound = circuit.assign_parameters(point)
    return [round(float(angle), 9) for gate in bound.data for angle in gate.operation.params]
