"""Readers of the standard image files: IDX, and CIFAR-10's binary and Python batches.

Every reader checks what the file says of itself against what the file holds and raises a
`DataError` that names the file, what was expected and what was found.
"""

import gzip
import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpc_qiskit.errors import DataError

Bytes = NDArray[np.uint8]

IDX_UINT8 = 0x08  # type code in the third byte of the magic number
CIFAR_SHAPE = (3, 32, 32)  # red, green and blue planes, row-major
CIFAR_RECORD = 1 + 3 * 32 * 32  # one label byte, then the planes

# What numpy needs to rebuild an array of bytes, under numpy's old and new module names.
_PICKLE_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read_idx(path: Path, num_dims: int) -> Bytes:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: the file; it is unzipped when its name ends in `.gz`.
        num_dims: dimensions that the file must have: 3 for images, 1 for labels.

    Returns:
        uint8, of the shape that the file's header states.

    Raises:
        DataError: the file cannot be read, has another magic number or another length than stated.

    Source: http://yann.lecun.com/exdb/mnist, "the IDX file format".
    """
    content = _content(path)
    magic = (IDX_UINT8 << 8) | num_dims
    header_bytes = 4 + 4 * num_dims
    if len(content) < header_bytes:
        raise DataError(
            f"{path}: expected an IDX header of {header_bytes} bytes, found {len(content)} bytes. "
            "The file is truncated; fetch it again."
        )
    found = int.from_bytes(content[:4], "big")
    if found != magic:
        raise DataError(
            f"{path}: expected the IDX magic number 0x{magic:08x} ({num_dims} dimensions of "
            f"unsigned bytes), found 0x{found:08x}. Is this another file under the name?"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", num_dims, offset=4))
    expected = int(np.prod(shape, dtype=object))
    _check_length(path, expected, len(content) - header_bytes, f"bytes of data for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def read_cifar_bin(path: Path) -> tuple[Bytes, Bytes]:
    """Read one CIFAR-10 binary batch.

    Args:
        path: a `data_batch_*.bin` or `test_batch.bin`.

    Returns:
        Images (N, 3, 32, 32) and labels (N,), both uint8.

    Raises:
        DataError: the file cannot be read, is empty, or is not a whole number of records.
    """
    content = _content(path)
    if not content or len(content) % CIFAR_RECORD:
        raise DataError(
            f"{path}: expected a whole number of {CIFAR_RECORD}-byte records (10000 in the "
            f"original files), found {len(content)} bytes. The file is truncated or another; fetch "
            "it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), records[:, 0]


def read_cifar_python(path: Path) -> tuple[Bytes, Bytes]:
    """Read one CIFAR-10 Python batch, a pickle, without letting it run anything.

    Args:
        path: a `data_batch_*` or `test_batch` file.

    Returns:
        Images (N, 3, 32, 32) and labels (N,), both uint8.

    Raises:
        DataError: the file cannot be read, asks for something else than an array of bytes, or its
            arrays have other shapes.
    """
    content = _content(path)
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise DataError(
            f"{path}: expected a CIFAR-10 Python batch (a pickled dictionary), found something "
            f"that cannot be unpickled ({type(error).__name__}: {error}). Fetch the file again."
        ) from error
    images = _entry(path, batch, "data")
    labels = _entry(path, batch, "labels")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2:
        raise DataError(f"{path}: expected 'data' to be a matrix of uint8, found {_kind(images)}.")
    if images.shape[1] != CIFAR_RECORD - 1:
        raise DataError(
            f"{path}: expected {CIFAR_RECORD - 1} values per image, found {images.shape[1]}."
        )
    if not isinstance(labels, list) or not all(
        isinstance(label, int) and 0 <= label <= 255 for label in labels
    ):
        raise DataError(f"{path}: expected 'labels' to be a list of small whole numbers.")
    _check_length(path, len(images), len(labels), "labels, one per image")
    return images.reshape(-1, *CIFAR_SHAPE), np.array(labels, np.uint8)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that rebuilds NumPy arrays and plain containers and refuses the rest."""

    def find_class(self, module: str, name: str) -> object:
        """Look up one of the few names that an array needs."""
        if (module, name) not in _PICKLE_ALLOWED:
            raise DataError(
                f"expected arrays and lists only, found a reference to {module}.{name}. "
                "The file is not a CIFAR-10 batch and was not opened further."
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _entry(path: Path, batch: object, key: str) -> Any:
    if isinstance(batch, dict):
        for name in (key.encode(), key):
            if name in batch:
                return batch[name]
    raise DataError(f"{path}: expected a dictionary with the entry {key!r}, found {_kind(batch)}.")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, dict):
        return f"a dictionary with the entries {sorted(map(str, value))}"
    return f"a {type(value).__name__}"


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a complete gzip file, found a damaged one ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _check_length(path: Path, expected: int, found: int, what: str) -> None:
    if expected != found:
        raise DataError(
            f"{path}: expected {expected} {what}, found {found}. The file is "
            f"{'truncated' if found < expected else 'longer than it says'}; fetch it again."
        )


def check_labels(where: str, labels: NDArray[Any], num_images: int, num_classes: int) -> None:
    """Refuse labels that do not belong to the images or name no class.

    Args:
        where: file or data set, for the message.
        labels: whole numbers, shape (N,).
        num_images: the N that the images have.
        num_classes: labels must lie in 0..num_classes-1.

    Raises:
        DataError: the count differs, or a label is out of range.
    """
    if len(labels) != num_images:
        raise DataError(
            f"{where}: expected {num_images} labels, one per image, found {len(labels)}. "
            "Are the files from the same split?"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{where}: expected labels 0..{num_classes - 1}, found {labels[wrong[0]]} at index "
            f"{wrong[0]}."
        )
