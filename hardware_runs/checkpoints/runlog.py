"""A log for each run: one JSON object on a line, beside the ledger, without any token."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger("hardware_runs")
NO_FOLDER = Path("runs")
"""Where logs go whose ledger is a server."""
_SECRETS = re.compile(r"(?i)\b(bearer|apikey|token)([\s:=\"']+)[\w.~+/-]{8,}=*")
_FIELD = "qpc_fields"


def log_path(ledger: str | Path, run: str) -> Path:
    """The log of a run.

    Args:
        ledger: path, or URL of a database.
        run: name of the run, one that can be that of a file.
    """
    text = str(ledger)
    if "://" in text and not text.startswith("sqlite:///"):
        return NO_FOLDER / f"{run}.log.jsonl"
    return Path(text.removeprefix("sqlite:///")).expanduser().parent / f"{run}.log.jsonl"


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event to the log of the run that is open.

    Args:
        event: what happened, one word.
        level: of the logging module.
        fields: plain values.
    """
    logger.log(level, event, extra={_FIELD: fields})


@contextmanager
def run_log(path: Path, run: str) -> Iterator[None]:
    """Append what this package says to the log of a run while the block runs.

    Args:
        path: of the log; a new file is readable by its owner alone.
        run: name of the run.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = _FileHandler(path, run)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


class _FileHandler(logging.Handler):
    """Every line is one `write` to a file opened for appending, so that processes may share it."""

    def __init__(self, path: Path, run: str) -> None:
        super().__init__(logging.INFO)
        self._run = run
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def emit(self, record: logging.LogRecord) -> None:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "run": self._run,
            "process": record.process,
            "event": without_secrets(record.getMessage()),
            **getattr(record, _FIELD, {}),
        }
        line = without_secrets(json.dumps(content, default=str))
        try:
            os.write(self._file, f"{line}\n".encode())
        except OSError:  # a full disk must not end a run that is paid for
            self.handleError(record)

    def close(self) -> None:
        os.close(self._file)
        super().close()


def without_secrets(text: str) -> str:
    """A text without API keys: that of the environment, and whatever is told as one."""
    known = os.environ.get("QISKIT_IBM_TOKEN")
    if known:
        text = text.replace(known, "***")
    return _SECRETS.sub(r"\1\2***", text)
