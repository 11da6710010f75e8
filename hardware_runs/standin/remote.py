"""A stand-in of another process, as tests and scripts see it."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from hardware_runs.standin.faults import Fault

CONTROL = "/standin/"
METHODS = (
    "records",
    "add_fault",
    "clear_faults",
    "advance",
    "recalibrate",
    "expire_tokens",
    "close_session",
    "cancel_job",
)


@dataclass(frozen=True)
class Remote:
    """A running stand-in, by its address."""

    url: str
    """As `python -m hardware_runs.standin` prints it."""

    def _call(self, name: str, *arguments: Any) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        body = json.dumps(arguments).encode()
        with opener.open(self.url + CONTROL + name, data=body) as response:
            answer = json.load(response)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["value"]

    def records(self) -> dict[str, Any]:
        """See `Service.records`."""
        records: dict[str, Any] = self._call("records")
        return records

    def add_fault(self, fault: Fault) -> None:
        """Another thing will go wrong."""
        self._call("add_fault", asdict(fault))

    def clear_faults(self) -> None:
        """Nothing goes wrong any more."""
        self._call("clear_faults")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._call("advance", seconds)

    def recalibrate(self) -> None:
        """All devices are calibrated anew, now."""
        self._call("recalibrate")

    def expire_tokens(self) -> None:
        """Every access token given out so far ends."""
        self._call("expire_tokens")

    def close_session(self, session_id: str) -> None:
        """As the service closes a session or batch by itself."""
        self._call("close_session", session_id)

    def cancel_job(self, job_id: str) -> None:
        """As somebody else cancels a job."""
        self._call("cancel_job", job_id)
