"""Writing files so that a crash leaves the old file or the new one, never half of either."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
