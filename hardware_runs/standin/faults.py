"""What may go wrong, as a script: which requests or jobs a fault hits, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

Kind = Literal[
    "status",
    "cut",
    "expired_token",
    "status_after",
    "cut_after",
    "truncated",
    "corrupted",
    "lag",
    "failed",
    "cancelled",
    "too_long",
    "too_large",
    "queue",
    "usage",
    "pending_usage",
    "no_usage",
    "closed_session",
    "recalibrated",
    "not_operational",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

BEFORE: tuple[Kind, ...] = ("status", "cut", "expired_token")
"""Instead of what was asked for."""
AFTER: tuple[Kind, ...] = ("status_after", "cut_after", "truncated", "corrupted")
"""What was asked for is done, its answer is lost or spoilt."""
OF_JOBS = tuple(kind for kind in KINDS if kind not in (*BEFORE, *AFTER, "lag"))
"""Decided when a job is accepted."""

RESULTS = "GET /jobs/*/results"
_ROUTES: dict[Kind, str] = {
    "lag": "GET /jobs",
    "truncated": RESULTS,
    "corrupted": RESULTS,
    "not_operational": "GET /backends/*/properties",
}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    On a request (any route):
        `status`: the answer is an error, nothing was done. 404 on `GET /jobs/*` or
            `GET /sessions/*`: the service has forgotten a job, a session.
        `cut`: the connection ends without an answer, nothing was done.
        `expired_token`: 401, and every access token given out so far has ended.
        `status_after`, `cut_after`: the same two, but what was asked for has been done.
        `truncated`, `corrupted`: half of a result; a result with bits changed.
        `lag`: the listing leaves out jobs younger than `seconds`.
        `not_operational`: a device says that of its `qubits`.
    On a job that is accepted:
        `failed`: ends as FAILED with `message`; `code` and `factor` (of the forecast usage, 0 as
            for errors of the system).
        `cancelled`: somebody else cancels it while it waits.
        `too_long`: stopped with code 1305, at its `max_execution_time`.
        `too_large`: FAILED with code 5302.
        `queue`: waits `seconds` more by the stand-in's clock.
        `usage`: uses `factor` times the forecast.
        `pending_usage`: its metrics say `pending`, and 0 s, until `seconds` after its end.
        `no_usage`: its metrics say nothing of usage (null).
        `closed_session`: its session or batch is closed as it comes; the job is refused (1217).
        `recalibrated`: the device is calibrated anew right after it.
    """

    kind: Kind
    times: int | None = 1
    """How often it fires; None: always."""
    skip: int = 0
    """Matching requests that pass before it fires first."""
    route: str | None = None
    """Method and path, with wildcards: `POST /jobs`, `GET /jobs/*`, `*`; None: as the kind is
    about, else `POST /jobs`."""
    tag: str | None = None
    """Only of jobs with a tag that matches this, with wildcards."""
    status: int = 503
    """Of `status` and `status_after`."""
    code: int | None = None
    """The service's own error code, in the body of an error or in the reason of a failure."""
    message: str = "the stand-in was told to fail"
    seconds: float = 0.0
    factor: float | None = None
    qubits: tuple[tuple[int, ...], ...] = ()
    """Each (q,) a qubit, each (q, p) the gates on two, in both directions."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Unknown fault {self.kind!r}; expected one of {', '.join(KINDS)}.")

    def hits(self, kinds: tuple[Kind, ...], route: str, tags: tuple[str, ...]) -> bool:
        """Whether it is about this request."""
        if self.kind not in kinds:
            return False
        if not fnmatchcase(route, self.route or _ROUTES.get(self.kind, "POST /jobs")):
            return False
        pattern = self.tag
        return pattern is None or any(fnmatchcase(tag, pattern) for tag in tags)


@dataclass
class Script:
    """Faults to come, with what they have seen; used under its owner's lock."""

    faults: list[Fault] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """One more, after the others."""
        self.faults.append(fault)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self.faults.clear()
        self.seen.clear()

    def fire(self, kinds: tuple[Kind, ...], route: str, tags: tuple[str, ...] = ()) -> list[Fault]:
        """The faults that hit this request; each has now seen one request more."""
        return list(self._firing(kinds, route, tags))

    def fire_first(
        self, kinds: tuple[Kind, ...], route: str, tags: tuple[str, ...] = ()
    ) -> Fault | None:
        """The first fault that hits this request; those behind it do not see the request."""
        return next(self._firing(kinds, route, tags), None)

    def _firing(
        self, kinds: tuple[Kind, ...], route: str, tags: tuple[str, ...]
    ) -> Iterator[Fault]:
        for position, fault in enumerate(self.faults):
            if not fault.hits(kinds, route, tags):
                continue
            seen = self.seen.get(position, 0)
            self.seen[position] = seen + 1
            if seen >= fault.skip and (fault.times is None or seen < fault.skip + fault.times):
                yield fault
