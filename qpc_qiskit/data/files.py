"""Readers of the standard image files: IDX, and CIFAR-10's binary and Python batches.

Every reader checks what the file says of itself against what the file holds and raises a
`DataError` that names the file, what was expected and what was found. Memory is taken for what is
there and was announced, up to `MAX_BYTES`; of a Python batch nothing is run (see `pickles`).
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from qpc_qiskit.common.files import read_at_most
from qpc_qiskit.common.pickles import Call, Name, PickleError, recorded
from qpc_qiskit.errors import DataError

Bytes = NDArray[np.uint8]

IDX_UINT8 = 0x08  # type code in the third byte of the magic number
CIFAR_SHAPE = (3, 32, 32)  # red, green and blue planes, row-major
CIFAR_RECORD = 1 + 3 * 32 * 32  # one label byte, then the planes

MAX_BYTES = 2**30  # of images in one file; the largest of the standard ones has 5e7
MAX_PICKLE_BYTES = 2**28  # of which there are some copies while it is read

# What a pickled array refers to, under numpy's old and new module names; protocol 5 calls the last.
_NDARRAY, _DTYPE = "numpy.ndarray", "numpy.dtype"
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_PICKLE_NAMES = {_NDARRAY, _DTYPE, "_codecs.encode", *_RECONSTRUCT, *_FROM_BUFFER}


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
    magic = (IDX_UINT8 << 8) | num_dims
    header_bytes = 4 + 4 * num_dims
    with _opened(path) as file:
        header = read_at_most(file, header_bytes)
        if len(header) < header_bytes:
            raise DataError(
                f"{path}: expected an IDX header of {header_bytes} bytes, found {len(header)} "
                "bytes. The file is truncated; fetch it again."
            )
        found = int.from_bytes(header[:4], "big")
        if found != magic:
            raise DataError(
                f"{path}: expected the IDX magic number 0x{magic:08x} ({num_dims} dimensions of "
                f"unsigned bytes), found 0x{found:08x}. Is this another file under the name?"
            )
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", num_dims, offset=4))
        expected = math.prod(shape)
        if expected > MAX_BYTES:
            raise DataError(
                f"{path}: expected at most {MAX_BYTES} bytes of data, found a header that states "
                f"{expected} bytes for shape {shape}. Is this another file under the name?"
            )
        content = read_at_most(file, expected + 1)
    _check_length(path, expected, len(content), f"bytes of data for shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_cifar_bin(path: Path) -> tuple[Bytes, Bytes]:
    """Read one CIFAR-10 binary batch.

    Args:
        path: a `data_batch_*.bin` or `test_batch.bin`.

    Returns:
        Images (N, 3, 32, 32) and labels (N,), both uint8.

    Raises:
        DataError: the file cannot be read, is empty, or is not a whole number of records.
    """
    with _opened(path) as file:
        content = _all_of(path, file, MAX_BYTES)
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
    with _opened(path) as file:
        content = _all_of(path, file, MAX_PICKLE_BYTES)
    try:
        batch = recorded(content, _PICKLE_NAMES)
    except PickleError as error:
        raise DataError(
            f"{path}: expected arrays and lists only, found {error}. The file is not a CIFAR-10 "
            "batch and was not opened further."
        ) from error
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise DataError(
            f"{path}: expected a CIFAR-10 Python batch (a pickled dictionary), found something "
            f"that cannot be unpickled ({type(error).__name__}: {str(error)[:200]}). Fetch the "
            "file again."
        ) from error
    images = _matrix(path, _entry(path, batch, "data"))
    labels = _entry(path, batch, "labels")
    if not isinstance(labels, list) or not all(
        isinstance(label, int) and 0 <= label <= 255 for label in labels
    ):
        raise DataError(f"{path}: expected 'labels' to be a list of small whole numbers.")
    _check_length(path, len(images), len(labels), "labels, one per image")
    return images.reshape(-1, *CIFAR_SHAPE), np.array(labels, np.uint8)


def _matrix(path: Path, value: object) -> Bytes:
    """The array that a pickle describes, made here of bytes that are as many as it says."""

    def wrong(found: str) -> DataError:
        return DataError(f"{path}: expected 'data' to be a matrix of uint8, found {found}.")

    match value:
        case Call(
            name, (Name("numpy.ndarray"), (0,), b"b" | "b"), (1, shape, dtype, is_fortran, content)
        ) if name in _RECONSTRUCT:
            by_column = is_fortran in (True, 1)
        case Call(name, (content, dtype, shape, "C" | "F" as order), None) if name in _FROM_BUFFER:
            by_column = order == "F"
        case _:
            raise wrong(_kind(value))
    match dtype:
        case Call("numpy.dtype", ("u1" | b"u1", *_), None | (_, _, None, None, None, *_)):
            pass
        case Call("numpy.dtype", (str() | bytes() as other, *_)):
            raise wrong(f"an array of {other[:20]!r}")
        case _:
            raise wrong("an array of another type")
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise wrong("an array of other dimensions")
    if not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise wrong("sizes that are none")
    if shape[1] != CIFAR_RECORD - 1:
        raise DataError(f"{path}: expected {CIFAR_RECORD - 1} values per image, found {shape[1]}.")
    if type(content) is not bytes:
        raise wrong("an array without bytes")
    _check_length(path, math.prod(shape), len(content), f"bytes of 'data' for shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_column else "C")


def _entry(path: Path, batch: object, key: str) -> Any:
    if isinstance(batch, dict):
        for name in (key.encode(), key):
            if name in batch:
                return batch[name]
    raise DataError(f"{path}: expected a dictionary with the entry {key!r}, found {_kind(batch)}.")


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"a dictionary with the entries {sorted(map(str, value))[:10]}"
    return f"a call of {value.name}" if isinstance(value, Call) else f"a {type(value).__name__}"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, or what it unpacks to; reading fails as a `DataError`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a complete gzip file, found a damaged one ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _all_of(path: Path, file: BinaryIO, max_bytes: int) -> bytes:
    content = read_at_most(file, max_bytes + 1)
    if len(content) > max_bytes:
        raise DataError(f"{path}: expected at most {max_bytes} bytes, found more.")
    return content


def _check_length(path: Path, expected: int, found: int, what: str) -> None:
    """`found` may be the first that is one too many."""
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
