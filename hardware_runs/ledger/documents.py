"""JSON and arrays as they stand in the ledger: canonical, checked, and without secrets."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpc_qiskit.errors import LedgerCorruptError, LedgerError

MAX_BLOB_BYTES = 10**9 - 10**6
"""SQLite and PostgreSQL both refuse a value of 1e9 bytes or a little more."""

_SECRET_NAMES = ("token", "apikey", "password", "secret", "credential", "authorization")


def to_json(value: Mapping[str, Any], what: str) -> str:
    """A mapping as JSON, the same text for the same content.

    Args:
        value: plain data.
        what: for messages.

    Raises:
        ValueError: it is no JSON, has a number that is not finite, or a key that names a secret.
    """
    _refuse_secrets(value, what)
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be stored as JSON: {error}") from error
    if json.loads(text) != value and json.loads(text) != _listed(value):
        raise ValueError(f"{what} would not come back from JSON unchanged; use str keys only.")
    return text


def from_json(text: str) -> dict[str, Any]:
    """The inverse of `to_json`; tuples have become lists."""
    return dict(json.loads(text))


def _listed(value: Any) -> Any:
    """The same with lists in place of tuples, as JSON gives it back."""
    if isinstance(value, Mapping):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


def _refuse_secrets(value: Any, what: str) -> None:
    """A ledger is copied, mailed and archived: no account may go with it."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            name = str(key).lower().replace("_", "").replace("-", "")
            # "max_tokens" and the like are numbers; a secret is text.
            if isinstance(each, str) and any(word in name for word in _SECRET_NAMES):
                raise ValueError(
                    f"{what} has the key {key!r}: accounts and tokens are never stored in a "
                    "ledger. Leave it out; the client finds its own saved account."
                )
            _refuse_secrets(each, what)
    elif isinstance(value, list | tuple):
        for each in value:
            _refuse_secrets(each, what)


def digest(content: bytes) -> str:
    """SHA-256 as hexadecimal text."""
    return hashlib.sha256(content).hexdigest()


def checked_blob(content: bytes, what: str) -> bytes:
    """The same bytes, if a database takes that many.

    Raises:
        LedgerError: they are too many.
    """
    if len(content) > MAX_BLOB_BYTES:
        raise LedgerError(
            f"{what} takes {len(content)} bytes; the ledger can store {MAX_BLOB_BYTES} in one "
            "piece. Use a smaller batch size. Nothing was written."
        )
    return content


def verified(content: bytes, expected: str, what: str) -> bytes:
    """The same bytes, if they have the digest that was stored with them.

    Raises:
        LedgerCorruptError: they have not.
    """
    if digest(content) != expected:
        raise LedgerCorruptError(
            f"{what} is damaged in the ledger: its checksum is wrong, so it was changed after it "
            "was written (disk fault, or an edit). Restore the ledger from a copy; the service "
            "still has the results of its jobs, under the job ids in the ledger."
        )
    return content


def to_npz(arrays: Mapping[str, NDArray[Any]], what: str) -> bytes:
    """Arrays as the bytes of an .npz file.

    Raises:
        LedgerError: they are too large for one piece.
        ValueError: an array holds Python objects.
    """
    buffer = io.BytesIO()
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{what} has Python objects in {name!r}; expected numbers.")
    members: dict[str, Any] = dict(arrays)
    np.savez(buffer, **members)
    return checked_blob(buffer.getvalue(), what)


def from_npz(content: bytes, expected: str, what: str) -> dict[str, NDArray[Any]]:
    """The inverse of `to_npz`.

    Raises:
        LedgerCorruptError: the bytes are not those that were written.
    """
    verified(content, expected, what)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise LedgerCorruptError(f"{what} cannot be read from the ledger: {error}") from error
