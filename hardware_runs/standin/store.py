"""What the stand-in knows, in SQLite: in memory, or in a file that outlives it."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hardware_runs.standin.records import Job, SessionRecord

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, record TEXT NOT NULL, params BLOB NOT NULL, result BLOB
);
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY, at REAL, route TEXT, status INTEGER, about TEXT
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class RecordStore:
    """Records that are on disk before a method returns; one connection, behind a lock.

    Args:
        path: of the file; None: in memory.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.lock = threading.RLock()
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            ":memory:" if path is None else str(path), check_same_thread=False, isolation_level=None
        )
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)
        self.prefix: str = self.fact("prefix", lambda: secrets.token_hex(7))
        self._jobs = {job.job_id: job for job in self._stored_jobs()}
        self._sessions = {s.session_id: s for s in self._stored_sessions()}

    def close(self) -> None:
        """Give the file back."""
        with self.lock:
            self._db.close()

    def _query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.lock:
            return self._db.execute(text, values).fetchall()

    # Facts.

    def fact(self, name: str, make: Callable[[], Any]) -> Any:
        """A value that is made once."""
        with self.lock:
            rows = self._query("SELECT value FROM facts WHERE name = ?", name)
            if rows:
                return json.loads(rows[0][0])
            value = make()
            self.set_fact(name, value)
            return value

    def set_fact(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        self._query("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, json.dumps(value))

    # Jobs.

    def _stored_jobs(self) -> list[Job]:
        return [
            Job(**{**data, "tags": tuple(data["tags"])})
            for (text,) in self._query("SELECT record FROM jobs ORDER BY number")
            for data in [json.loads(text)]
        ]

    def add_job(self, job: Job, params: dict[str, Any]) -> Job:
        """Number a job and keep it."""
        with self.lock:
            number = len(self._jobs)
            job = replace(job, number=number, job_id=f"d{self.prefix}{number:05d}")
            packed = zlib.compress(json.dumps(params).encode(), 1)
            record = json.dumps(asdict(job))
            self._query("INSERT INTO jobs VALUES (?, ?, ?, NULL)", number, record, packed)
            self._jobs[job.job_id] = job
            return job

    def update_job(self, job: Job) -> None:
        """Keep a changed record."""
        with self.lock:
            record = json.dumps(asdict(job))
            self._query("UPDATE jobs SET record = ? WHERE number = ?", record, job.number)
            self._jobs[job.job_id] = job

    def jobs(self) -> list[Job]:
        """All, in the order of acceptance."""
        with self.lock:
            return list(self._jobs.values())

    def job(self, job_id: str) -> Job | None:
        """The job of an id; None: there is none."""
        return self._jobs.get(job_id)

    def jobs_of(self, session_id: str) -> list[Job]:
        """Those of a session, in order."""
        return [job for job in self.jobs() if job.session_id == session_id]

    def params(self, job: Job) -> dict[str, Any]:
        """The inputs of a job, as they were posted."""
        ((packed,),) = self._query("SELECT params FROM jobs WHERE number = ?", job.number)
        params: dict[str, Any] = json.loads(zlib.decompress(packed))
        return params

    def result(self, job: Job) -> str | None:
        """What a job gave, if it was executed already."""
        ((packed,),) = self._query("SELECT result FROM jobs WHERE number = ?", job.number)
        return None if packed is None else zlib.decompress(packed).decode()

    def set_result(self, job: Job, text: str) -> None:
        """Keep what a job gave."""
        packed = zlib.compress(text.encode(), 1)
        self._query("UPDATE jobs SET result = ? WHERE number = ?", packed, job.number)

    # Sessions.

    def _stored_sessions(self) -> list[SessionRecord]:
        rows = self._query("SELECT record FROM sessions")
        found = [SessionRecord(**json.loads(text)) for (text,) in rows]
        return sorted(found, key=lambda session: session.created)

    def add_session(self, session: SessionRecord) -> SessionRecord:
        """Keep a session under a new id."""
        session = replace(session, session_id=str(uuid.uuid4()))
        self.update_session(session)
        return session

    def update_session(self, session: SessionRecord) -> None:
        """Keep a new or changed record."""
        with self.lock:
            self._query(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?)",
                session.session_id,
                json.dumps(asdict(session)),
            )
            self._sessions[session.session_id] = session

    def sessions(self) -> list[SessionRecord]:
        """All, in the order of creation."""
        with self.lock:
            return list(self._sessions.values())

    def session(self, session_id: str) -> SessionRecord | None:
        """The session of an id; None: there is none."""
        return self._sessions.get(session_id)

    # Requests.

    def add_request(self, at: float, route: str, status: int, about: Any) -> None:
        """Log an answered request; status 0: the connection was cut."""
        self._query(
            "INSERT INTO requests (at, route, status, about) VALUES (?, ?, ?, ?)",
            at,
            route,
            status,
            json.dumps(about),
        )

    def requests(self) -> list[tuple[float, str, int, Any]]:
        """Time, route, status and what it was about, in order."""
        rows = self._query("SELECT at, route, status, about FROM requests ORDER BY number")
        return [(at, route, status, json.loads(about)) for at, route, status, about in rows]
