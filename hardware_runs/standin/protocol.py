"""Requests and answers, without the HTTP around them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

INSTANCE = "crn:v1:bluemix:public:quantum-computing:us-east:a/0:00000000-0000-4000-8000-0::"
PREFIX = "/experimental/api/v1"
"""The client takes a URL as it is only if it says `experimental`."""


@dataclass(frozen=True)
class Request:
    """A request of the client."""

    method: str
    path: str
    query: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    authorization: str = ""

    @classmethod
    def parse(cls, method: str, target: str, body: bytes, authorization: str) -> Request:
        """From the request line; the path loses the service's prefix."""
        url = urlsplit(target)
        path = url.path.removeprefix(PREFIX)
        return cls(method, path, parse_qs(url.query), body, authorization)

    @property
    def route(self) -> str:
        """Method and path, as faults name it."""
        return f"{self.method} {self.path}"

    def json(self) -> dict[str, Any]:
        """The body; a form's or an empty one is {}."""
        found = json.loads(self.body) if self.body[:1] == b"{" else {}
        return found if isinstance(found, dict) else {}

    def first(self, name: str) -> str | None:
        """A parameter of the query."""
        return next(iter(self.query.get(name, ())), None)


@dataclass(frozen=True)
class Answer:
    """What a request is answered with."""

    status: int
    body: Any = None
    """JSON; a `str` goes as it is; None: nothing."""
    is_cut: bool = False

    @property
    def payload(self) -> bytes:
        """Bytes of the body."""
        if self.body is None:
            return b""
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return text.encode()


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.answer = error_answer(status, message, code)


def error_answer(status: int, message: str, code: int | None = None) -> Answer:
    """An error as the service words it."""
    entry = {"code": code or status, "message": message, "solution": "", "more_info": ""}
    return Answer(status, {"errors": [entry], "trace": "stand-in"})


def date_text(at: float) -> str:
    """Seconds since the epoch, as the service writes them."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def seconds_of(date: str) -> float:
    """The reverse of `date_text`."""
    return datetime.fromisoformat(date).timestamp()
