"""Files of finished cells: a Parquet file each, which is read as it was written or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpc_qiskit.common.files import written_aside


def cell_path(folder: Path, key: str) -> Path:
    """Where a cell's file is."""
    return folder / "cells" / key[:2] / f"{key}.parquet"


def save_cell(folder: Path, key: str, values: Mapping[str, Any]) -> None:
    """Write a cell's file in one step.

    Raises:
        OSError: it cannot be written, with a full disk for instance.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = cell_path(folder, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"key": [key], **{name: [value] for name, value in values.items()}})
    (row,) = table.to_pylist()
    table = table.append_column(_DIGEST, pa.array([_digest(row)]))
    with written_aside(path) as aside:
        # No statistics, no dictionary: for one row they are longer than the row.
        parquet.write_table(
            table, aside, use_dictionary=False, write_statistics=False, write_page_checksum=True
        )


_DIGEST = "sha256"


def _digest(row: Mapping[str, Any]) -> str:
    """Of names and values as a file gives them back: pages have checksums, their names have none.

    An array of float32 comes back as Python's numbers, which JSON tells in full.
    """
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def check_parquet(path: Path, max_values: int) -> None:
    """Refuse a file that would take far more memory than it has bytes.

    A value that comes a billion times takes some bytes of a file, and all of them in memory.

    Args:
        path: of a Parquet file.
        max_values: of all columns together.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more values, or is no Parquet file.
    """
    from pyarrow import ArrowException, parquet

    try:
        about = parquet.read_metadata(path)
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        values = sum(g.column(j).num_values for g in groups for j in range(g.num_columns))
        size = sum(g.total_byte_size for g in groups)
    except ArrowException as error:
        raise ValueError(f"{path}: expected a Parquet file, found another ({error})") from error
    if not (0 <= about.num_rows <= max_values and 0 <= values <= max_values and size < 2**30):
        raise ValueError(f"{path}: expected at most {max_values:,} values, found {values:,}")


_MAX_VALUES = 2**24
"""Of a cell, the predictions of all test images and more."""


def load_cell(folder: Path, key: str) -> dict[str, Any] | None:
    """The values of a cell; None: it has no file, or a damaged one, which is removed."""
    from pyarrow import ArrowException, parquet

    path = cell_path(folder, key)
    try:
        check_parquet(path, _MAX_VALUES)
        table = parquet.read_table(path, partitioning=None, page_checksum_verification=True)
        (row,) = table.to_pylist()
        if row.pop(_DIGEST) != _digest(row) or row.pop("key") != key:
            raise ValueError("the file has other values than were written")
    except (ArrowException, ValueError, KeyError, TypeError):
        path.unlink()
        return None
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return None
        if error.errno is not None:  # the disk's, not the file's
            raise
        path.unlink()
        return None
    return dict(row)
