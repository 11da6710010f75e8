"""Files: written in full or not at all, and read without trust in what they say of themselves.

A file may come from anywhere. What is read of it is bounded before memory is taken, and whatever is
wrong with it is the error of its reader, not what a parser or an allocation happens to raise.
"""

import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

MAX_TEXT_BYTES = 2**25
"""Of a file of JSON or CSV; the largest that the toolkit writes have some MB."""
MAX_TOML_BYTES = 2**19
"""Of a TOML file, whose parser takes time and memory by the square of a line's dotted keys."""
MAX_POINTS = 250
"""In a line of a TOML file, so that a key has no more parts."""
MAX_DEPTH = 100
"""Of lists and tables in each other."""
MAX_DIGITS = 20
"""Of a whole number; those of 64 bits have so many."""
_CHUNK_BYTES = 2**24

MakeError = Callable[[str], Exception]
"""The class of a reader's errors, of which one is made with a message."""


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


def read_at_most(file: BinaryIO, max_bytes: int) -> bytes:
    """Read a stream to its end, or `max_bytes` of it, in pieces.

    Memory is taken for what comes, whatever the length that a header or a caller speaks of.
    """
    pieces = []
    while max_bytes > 0 and (piece := file.read(min(max_bytes, _CHUNK_BYTES))):
        pieces.append(piece)
        max_bytes -= len(piece)
    return b"".join(pieces)


def read_file(path: Path, error: MakeError, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file of bounded size.

    Raises:
        OSError: it cannot be read.
        error: it is longer than `max_bytes`.
    """
    with path.open("rb") as file:
        content = read_at_most(file, max_bytes + 1)
    if len(content) > max_bytes:
        raise error(f"{path}: expected a file of at most {max_bytes:,} bytes, found a longer one.")
    return content


def parse_json(text: str | bytes, where: object, error: MakeError, *, finite: bool = True) -> Any:
    """Plain values of a JSON document.

    Args:
        text: the document.
        where: the file, for the message.
        error: what is raised.
        finite: NaN and infinite numbers are refused.

    Raises:
        error: it is no JSON; a whole number has more than `MAX_DIGITS` digits, a table has a key
            twice, or lists and tables are nested too deeply for whatever goes through them.
    """
    try:
        value = json.loads(text, parse_int=_whole_number, object_pairs_hook=_table)
        _check_values(value, finite)
    except (ValueError, RecursionError) as problem:
        raise error(
            f"{where}: expected JSON, found something else ({_reason(problem)})."
        ) from problem
    return value


def parse_toml(text: str | bytes, where: object, error: MakeError) -> dict[str, Any]:
    """Plain values of a TOML document; see `parse_json`. In TOML inf and nan are numbers."""
    try:
        if len(text) > MAX_TOML_BYTES:
            raise ValueError(f"more than {MAX_TOML_BYTES:,} bytes")
        text = text if isinstance(text, str) else text.decode()
        if max(line.count(".") for line in text.split("\n")) > MAX_POINTS:
            raise ValueError(f"a line with more than {MAX_POINTS} points")
        value = tomllib.loads(text)
        _check_values(value, finite=False)
    except (ValueError, RecursionError) as problem:
        raise error(
            f"{where}: expected TOML, found something else ({_reason(problem)})."
        ) from problem
    return value


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of one file may take another one of two values each."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in table if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} twice in a table")
    return table


def _check_values(value: Any, finite: bool) -> None:
    """Refuse what checks and messages further on would stumble over; without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str):
                if not each.isascii():
                    each.encode()  # half of a surrogate pair can be neither shown nor written
            elif isinstance(each, int):
                if abs(each) >= 10**MAX_DIGITS:
                    raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
            elif isinstance(each, float) and finite and not math.isfinite(each):
                raise ValueError(f"the number {each}")
        if not inner:
            return
        level = inner
    raise ValueError(f"more than {MAX_DEPTH} levels of lists and tables in each other")


def _reason(problem: Exception) -> str:
    if isinstance(problem, RecursionError):
        return f"more than {MAX_DEPTH} levels of lists and tables in each other"
    text = str(problem)[:300]
    # tomllib hands on what Python says of numbers, with advice for programmers.
    return "a whole number of thousands of digits" if "set_int_max_str_digits" in text else text
