"""What stands in a run's way without ending it."""

from __future__ import annotations

import logging
import re

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"\b0x[0-9a-f]+")
"""Of an object, in the client's messages: another one each time."""


class Problems(dict[str, str]):
    """Texts by what they are about (a tag, job or session), since the last step began.

    Each is logged when it comes or changes, not at every step.

    Args:
        run: name of the run.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run
        self._logged: dict[str, str] = {}

    def note(self, what: str, problem: object) -> None:
        """Keep a text, and log it if it is new."""
        self[what] = _ADDRESS.sub("0x...", str(problem))
        if self._logged.get(what) != self[what]:
            self._logged[what] = self[what]
            logger.warning("run %s: %s: %s", self._run, what, self[what])

    def __str__(self) -> str:
        return " ".join(f"{what}: {text}" for what, text in self.items())
