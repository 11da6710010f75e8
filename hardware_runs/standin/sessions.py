"""Sessions and batches: opened, described, closed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hardware_runs.standin.account import known
from hardware_runs.standin.protocol import Answer, Request, date_text
from hardware_runs.standin.records import (
    MAX_TTL_SECONDS,
    SessionRecord,
    cancel,
    closing_time,
    elapsed_seconds,
    is_accepting,
)

if TYPE_CHECKING:
    from hardware_runs.standin.service import Service


def open_session(service: Service, request: Request) -> Any:
    """Open a session or batch."""
    body = request.json()
    session = service.store.add_session(
        SessionRecord(
            session_id="",
            mode=body["mode"],
            backend=known(body["backend"]),
            created=service.now,
            max_ttl=body.get("max_ttl", MAX_TTL_SECONDS),
        )
    )
    return _about_session(service, session)


def get_session(service: Service, request: Request, session_id: str) -> Any:
    """State, limits and times of a session."""
    return _about_session(service, service.session(session_id))


def _about_session(service: Service, session: SessionRecord) -> dict[str, Any]:
    jobs = service.store.jobs_of(session.session_id)
    states = [service.state(job) for job in jobs]
    closes = closing_time(session, jobs)
    is_closed = closes <= service.now
    running = [job for job in jobs if job.starts <= service.now]
    ended = [job.ends for job, state in zip(jobs, states, strict=True) if state.is_final]
    return {
        "id": session.session_id,
        "backend_name": session.backend,
        "mode": session.mode,
        "state": "closed" if is_closed else "active" if running else "open",
        "accepting_jobs": is_accepting(session, jobs, service.now),
        "max_ttl": session.max_ttl,
        "interactive_ttl": 60,
        "active_ttl": session.max_ttl,
        "elapsed_time": elapsed_seconds(session, jobs, states, service.now),
        "started_at": date_text(min(job.starts for job in running)) if running else None,
        "activated_at": date_text(min(job.starts for job in running)) if running else None,
        "closed_at": date_text(closes) if is_closed else None,
        "last_job_started": date_text(max(job.starts for job in running)) if running else None,
        "last_job_completed": date_text(max(ended)) if ended else None,
        "timestamps": [],
    }


def stop_session(service: Service, request: Request, session_id: str) -> Any:
    """No more jobs for it."""
    if request.json().get("accepting_jobs") is False:
        with service.store.lock:
            session = service.session(session_id)
            service.store.update_session(replace(session, stopped=session.stopped or service.now))
    return Answer(204)


def cancel_session(service: Service, request: Request, session_id: str) -> Any:
    """Close it, with all that waits."""
    with service.store.lock:
        for job in service.store.jobs_of(session_id):
            if not service.state(job).is_final:
                service.store.update_job(cancel(job, service.now))
        service.close_session(session_id)
    return Answer(204)
