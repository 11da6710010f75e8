"""Stages of a program in C, on CPUs: the same as `TorchStage`, up to rounding.

`kernel.c` is compiled with the system's C compiler when it is first needed, into the user's cache
folder, under a name that tells source, flags, compiler and processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from qpc_qiskit.devices.placement_cache import cache_folder
from qpc_qiskit.errors import EngineError
from qpc_qiskit.pauli.blocks import make_tables
from qpc_qiskit.pauli.steps import Stage

FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")

_VECTOR_PIXELS = {torch.float32: 16, torch.float64: 8}  # as in kernel.c
_CHUNK_BYTES = 2**21  # of the states after the last step: they stay in the cache until measured
_CHUNK_PIXELS = 256, 2048  # fewer are all overhead of the calls, more gain nothing
_KEPT_BYTES = 2**24  # of states that a chunk keeps from its forward to its backward pass
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


class _Stage(ctypes.Structure):
    """As in kernel.c."""

    _fields_ = [
        ("program", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
        ("max_rows", ctypes.c_int64),
        ("max_block_rows", ctypes.c_int64),
        ("max_kept_rows", ctypes.c_int64),
    ]


class CompiledStage:
    """A stage on the CPU, in one dtype; any number of threads may use it.

    Args:
        stage: the steps.
        num_angles: T, of the whole program.
        dtype: of the states.
        device: a CPU.

    Raises:
        EngineError: there is no C compiler, or it failed.
    """

    def __init__(
        self, stage: Stage, num_angles: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        library = load()
        tables = make_tables(stage)
        self._run = getattr(library, f"run_{_SUFFIX[dtype]}")
        self._pull = getattr(library, f"pull_{_SUFFIX[dtype]}")
        self._num_angles, self._dtype = num_angles, dtype
        self._rows = len(stage.first), stage.num_rows
        self._kept_rows = tables.kept_rows
        self._arrays = (
            torch.from_numpy(tables.program),
            torch.from_numpy(tables.tables),
            torch.from_numpy(tables.code),
            torch.from_numpy(tables.factors).to(dtype),
        )
        self._stage = _Stage(
            *(array.data_ptr() for array in self._arrays),
            tables.max_rows,
            tables.max_block_rows,
            tables.max_kept_rows,
        )
        kept = _KEPT_BYTES // (max(tables.kept_rows, 1) * dtype.itemsize)
        low, high = _CHUNK_PIXELS
        wanted = min(max(low, _CHUNK_BYTES // (stage.num_rows * dtype.itemsize)), high)
        step = _VECTOR_PIXELS[dtype]
        self.chunk = max(step, min(kept, wanted) // step * step)

    def run(self, first: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """See `Runner.run`."""
        return self._states(first, cosines, sines, None)[0][:, : first.shape[1]]

    def pull(
        self, first: Tensor, cosines: Tensor, sines: Tensor, slopes: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """See `Runner.pull`."""
        count = first.shape[1]
        size = _padded(count, self._dtype)
        kept = first.new_empty(self._kept_rows, size)
        last, turns = self._states(first, cosines, sines, kept)
        outer = self._wide(slopes(last[:, :count]), size)
        by_first = first.new_empty(self._rows[0], size)
        by_angles = first.new_zeros(self._num_angles, size)
        self._check(
            self._pull(
                ctypes.byref(self._stage),
                *_pointers(*turns),
                ctypes.c_int64(size),
                *_pointers(kept),
                ctypes.c_int64(self._kept_rows),
                *_pointers(outer, by_first, by_angles),
            )
        )
        return by_first[:, :count], by_angles[:, :count]

    def _states(
        self, first: Tensor, cosines: Tensor, sines: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The last state, and the turns, all wide enough for the kernel."""
        size = _padded(first.shape[1], self._dtype)
        wide = self._wide(first, size)
        turns = self._wide(cosines, size), self._wide(sines, size)
        last = first.new_empty(self._rows[1], size)
        self._check(
            self._run(
                ctypes.byref(self._stage),
                *_pointers(wide, *turns),
                ctypes.c_int64(size),
                *_pointers(last),
                ctypes.c_void_p(None if kept is None else kept.data_ptr()),
            )
        )
        return last, turns

    def _wide(self, rows: Tensor, size: int) -> Tensor:
        """Contiguous, with zeros for the pixels that are missing."""
        missing = size - rows.shape[1]
        return torch.nn.functional.pad(rows, (0, missing)) if missing else rows.contiguous()

    def _check(self, failed: int) -> None:
        if failed:
            raise MemoryError("The noisy engine's compiled kernel got no memory.")


def _padded(count: int, dtype: torch.dtype) -> int:
    step = _VECTOR_PIXELS[dtype]
    return -(-count // step) * step


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


@cache
def load() -> ctypes.CDLL:
    """The compiled kernel.

    Raises:
        EngineError: there is no C compiler, or it failed.
    """
    compiler = find_compiler()
    if compiler is None:
        raise EngineError(
            "The compiled kernel of the noisy engine needs a C compiler (cc, gcc or clang, or the "
            "one that $CC names), and there is none. Install one, or use implementation='torch'."
        )
    source = files("qpc_qiskit.pauli").joinpath("kernel.c").read_bytes()
    content = [source.decode(), *FLAGS, compiler, _version(compiler), _processor()]
    name = hashlib.sha256("\0".join(content).encode()).hexdigest()[:24]
    folder = cache_folder() / "kernels"
    path = folder / f"noisy-{name}.so"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(
            f"The compiled kernel of the noisy engine cannot be made in {folder}: {error}. Set "
            "QPC_CACHE_DIR to another folder, or use implementation='torch'."
        ) from error


@cache
def why_not() -> str | None:
    """Why there is no compiled kernel; None: there is one. Warns of it once in a process."""
    try:
        load()
    except EngineError as error:
        warnings.warn(
            f"The noisy engine computes in torch, slower: {error}",
            UserWarning,
            stacklevel=2,
        )
        return str(error)
    return None


def find_compiler() -> str | None:
    """The system's C compiler: $CC, else the first of cc, gcc and clang that there is."""
    named = os.environ.get("CC")
    names = [named] if named else ["cc", "gcc", "clang"]
    return next((path for name in names if (path := shutil.which(name))), None)


def _compile(compiler: str, source: bytes, path: Path) -> None:
    """Compile into a folder of its own, then move: other processes see all of it or nothing."""
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        file = Path(aside) / "kernel.c"
        file.write_bytes(source)
        made = file.with_suffix(".so")
        done = subprocess.run(
            [compiler, *FLAGS, str(file), "-o", str(made)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EngineError(
                f"{compiler} could not compile the noisy engine's kernel: "
                f"{done.stderr.strip()[-500:]} Use implementation='torch'."
            )
        made.replace(path)


def _version(compiler: str) -> str:
    found = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return found.stdout.partition("\n")[0]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *dict.fromkeys(told)])
