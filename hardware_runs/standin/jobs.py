"""Jobs: accepted, listed, executed, cancelled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hardware_runs.standin import programs
from hardware_runs.standin.account import known
from hardware_runs.standin.faults import OF_JOBS, Fault
from hardware_runs.standin.protocol import Answer, Refusal, Request, date_text, seconds_of
from hardware_runs.standin.records import (
    RAN_TOO_LONG,
    RESULT_TOO_LARGE,
    SESSION_CLOSED,
    Job,
    cancel,
    is_accepting,
)

if TYPE_CHECKING:
    from hardware_runs.standin.service import Service


def post_job(service: Service, request: Request) -> Any:
    """Accept a job."""
    body = request.json()
    backend = known(str(body.get("backend")))
    if body.get("program_id") != "executor":
        raise Refusal(400, "The stand-in runs jobs of the program executor only.")
    if service.is_used_up:
        raise Refusal(409, "The instance's usage limit has been reached.")
    params = body["params"]
    try:
        program = programs.decode(backend, params)
    except (KeyError, ValueError) as error:
        raise Refusal(400, f"The job's inputs are not valid: {error}") from error
    posted = json.dumps(params["quantum_program"]).encode()
    with service.store.lock:
        job = Job(
            number=-1,
            job_id="",
            backend=backend,
            created=service.now,
            tags=tuple(body.get("tags", ())),
            session_id=body.get("session_id"),
            max_execution_time=body.get("cost"),
            private=bool(body.get("private", False)),
            log_level=body.get("log_level"),
            program_sha256=program.sha256,
            posted_sha256=hashlib.sha256(posted).hexdigest(),
            shots=program.shots,
            num_executions=program.num_executions,
            forecast_seconds=program.seconds,
            usage_factor=service.rules.usage_factor,
            queue_seconds=service.rules.queue_seconds,
            run_seconds=service.rules.run_seconds,
        )
        if program.refusal:
            job = replace(job, ending="Failed", reason=program.refusal, usage_factor=0.0)
        _check_rate(service)
        faults = service.script.fire(OF_JOBS, request.route, job.tags)
        job = _check_session(service, _fated(job, faults), faults)
        job = service.store.add_job(job, params)
        if any(fault.kind == "recalibrated" for fault in faults):
            service.recalibrate()
    return {"id": job.job_id, "backend": backend}


def _check_rate(service: Service) -> None:
    allowed = service.rules.posts_per_minute
    recent = sum(job.created > service.now - 60 for job in service.store.jobs())
    if allowed is not None and recent >= allowed:
        raise Refusal(429, f"At most {allowed} jobs a minute; try again later.", 1202)


def _check_session(service: Service, job: Job, faults: list[Fault]) -> Job:
    if job.session_id is None:
        return job
    if any(fault.kind == "closed_session" for fault in faults):
        service.close_session(job.session_id)
    session = service.session(job.session_id)
    if not is_accepting(session, service.store.jobs_of(session.session_id), service.now):
        raise Refusal(400, f"Session {session.session_id} has been closed.", SESSION_CLOSED)
    return job


def _about(service: Service, job: Job) -> dict[str, Any]:
    state = service.state(job)
    return {
        "id": job.job_id,
        "backend": job.backend,
        "program": {"id": "executor"},
        "state": {
            "status": state.status,
            "reason": state.reason,
            "reason_code": state.reason_code,
        },
        "status": state.status,
        "tags": list(job.tags),
        "session_id": job.session_id,
        "created": date_text(job.created),
        "private": job.private,
        "cost": job.max_execution_time,
        "estimated_running_time_seconds": job.forecast_seconds,
    }


def get_job(service: Service, request: Request, job_id: str) -> Any:
    """One job."""
    job = service.job(job_id)
    about = _about(service, job)
    if request.first("exclude_params") != "true":
        about["params"] = service.store.params(job)
    return about


def list_jobs(service: Service, request: Request) -> Any:
    """Jobs that match, newest first, page by page."""
    tags = tuple(request.query.get("tags", ()))
    with service.store.lock:
        lags = service.script.fire(("lag",), request.route, tags)
    youngest = service.now - max((fault.seconds for fault in lags), default=0.0)
    after, before = request.first("created_after"), request.first("created_before")
    pending = request.first("pending")
    jobs = [
        job
        for job in service.store.jobs()
        if not job.deleted
        and job.created <= youngest
        and request.first("backend") in (None, job.backend)
        and request.first("program") in (None, "executor")
        and request.first("session_id") in (None, job.session_id)
        and set(tags) <= set(job.tags)
        and (after is None or job.created >= seconds_of(after))
        and (before is None or job.created <= seconds_of(before))
        and (pending is None or (pending == "true") != service.state(job).is_final)
    ]
    if request.first("sort") != "ASC":
        jobs.reverse()
    offset = int(request.first("offset") or 0)
    limit = int(request.first("limit") or 200)
    page = [_about(service, job) for job in jobs[offset : offset + limit]]
    return {"jobs": page, "count": len(jobs), "limit": limit, "offset": offset}


def result(service: Service, request: Request, job_id: str) -> Any:
    """What a job gave; it is executed when first asked for."""
    job = service.job(job_id)
    state = service.state(job)
    if not state.is_final:
        return Answer(204)
    if state.status != "Completed":
        return f"Traceback (most recent call last):\n{state.reason or state.status}"
    with service.executing:
        text = service.store.result(job)
        if text is None:
            program = programs.decode(job.backend, service.store.params(job))
            text = programs.execute(program, noisy=service.rules.noisy)
            service.store.set_result(job, text)
    return text


def metrics(service: Service, request: Request, job_id: str) -> Any:
    """Times and usage of a job."""
    job = service.job(job_id)
    state = service.state(job)
    ran = job.cancelled is None or job.cancelled > job.starts
    ran = ran and state.reason_code != SESSION_CLOSED and job.starts <= service.now
    ends = service.closes(job) if state.reason_code == SESSION_CLOSED else job.ends
    is_known = state.is_final and service.now >= ends + job.usage_pending_seconds
    usage = {
        "qpu_charge_time_seconds": state.usage_seconds if is_known else 0.0,
        "status": "complete" if is_known else "pending",
    }
    return {
        "timestamps": {
            "created": date_text(job.created),
            "running": date_text(job.starts) if ran else None,
            "finished": date_text(ends) if state.is_final else None,
        },
        "usage": usage if job.has_usage else None,
    }


def logs(service: Service, request: Request, job_id: str) -> Any:
    """Of a job: empty."""
    service.job(job_id)
    return ""


def cancel_job(service: Service, request: Request, job_id: str) -> Any:
    """Cancel a job."""
    with service.store.lock:
        job = service.job(job_id)
        state = service.state(job)
        if state.is_final:
            raise Refusal(409, f"Job {job_id} is {state.status} already.")
        service.store.update_job(cancel(job, service.now))
    return Answer(204)


def set_tags(service: Service, request: Request, job_id: str) -> Any:
    """Replace the tags of a job."""
    with service.store.lock:
        tags = tuple(request.json()["tags"])
        service.store.update_job(replace(service.job(job_id), tags=tags))
    return Answer(204)


def delete(service: Service, request: Request, job_id: str) -> Any:
    """Forget a job."""
    with service.store.lock:
        service.store.update_job(replace(service.job(job_id), deleted=True))
    return Answer(204)


def _fated(job: Job, faults: list[Fault]) -> Job:
    """The job as the faults that hit it have it end."""
    for fault in faults:
        if fault.kind == "failed":
            job = replace(
                job,
                ending="Failed",
                reason=fault.message,
                reason_code=fault.code,
                usage_factor=fault.factor or 0.0,
            )
        elif fault.kind == "too_large":
            text = "The job's result payload is too large."
            job = replace(job, ending="Failed", reason=text, reason_code=RESULT_TOO_LARGE)
        elif fault.kind == "too_long":
            job = replace(job, ending="Cancelled", reason="Ran too long", reason_code=RAN_TOO_LONG)
        elif fault.kind == "cancelled":
            job = replace(job, reason=fault.message, cancelled=job.created)
        elif fault.kind == "queue":
            job = replace(job, queue_seconds=job.queue_seconds + fault.seconds)
        elif fault.kind == "usage":
            factor = 1.0 if fault.factor is None else fault.factor
            job = replace(job, usage_factor=job.usage_factor * factor)
        elif fault.kind == "pending_usage":
            job = replace(job, usage_pending_seconds=fault.seconds)
        elif fault.kind == "no_usage":
            job = replace(job, has_usage=False)
    return job
