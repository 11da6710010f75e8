"""From a request to its answer: which function answers it, and what goes wrong around it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardware_runs.standin import account, jobs, sessions
from hardware_runs.standin.faults import AFTER, BEFORE, Fault
from hardware_runs.standin.protocol import Answer, Refusal, Request, error_answer
from hardware_runs.standin.service import Service

_ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("POST", "/v3/resources/search", account.search),
    ("GET", "/catalog/([^/]+)", account.plan),
    ("GET", "/instances/usage", account.usage),
    ("GET", "/backends", account.backends),
    ("GET", "/backends/([^/]+)/configuration", account.configuration),
    ("GET", "/backends/([^/]+)/properties", account.properties),
    ("GET", "/backends/([^/]+)/status", account.status),
    ("POST", "/jobs", jobs.post_job),
    ("GET", "/jobs", jobs.list_jobs),
    ("GET", "/jobs/([^/]+)", jobs.get_job),
    ("DELETE", "/jobs/([^/]+)", jobs.delete),
    ("GET", "/jobs/([^/]+)/results", jobs.result),
    ("GET", "/jobs/([^/]+)/metrics", jobs.metrics),
    ("GET", "/jobs/([^/]+)/logs", jobs.logs),
    ("POST", "/jobs/([^/]+)/cancel", jobs.cancel_job),
    ("PUT", "/jobs/([^/]+)/tags", jobs.set_tags),
    ("POST", "/sessions", sessions.open_session),
    ("GET", "/sessions/([^/]+)", sessions.get_session),
    ("PATCH", "/sessions/([^/]+)", sessions.stop_session),
    ("DELETE", "/sessions/([^/]+)/close", sessions.cancel_session),
)


def answer(service: Service, request: Request) -> Answer:
    """Answer a request, with all that goes wrong."""
    tags = _tags(service, request)
    with service.store.lock:
        before = service.script.fire_first(BEFORE, request.route, tags)
    if before is not None:
        found = _broken(service, before)
    else:
        try:
            found = _dispatch(service, request)
        except Refusal as refusal:
            found = refusal.answer
        found = _spoilt(service, request, tags, found)
    status = 0 if found.is_cut else found.status
    service.store.add_request(service.now, request.route, status, list(tags))
    return found


def _broken(service: Service, fault: Fault) -> Answer:
    if fault.kind == "cut":
        return Answer(0, is_cut=True)
    if fault.kind == "expired_token":
        service.expire_tokens()
        return error_answer(401, "The access token has expired.")
    return error_answer(fault.status, fault.message, fault.code)


def _spoilt(service: Service, request: Request, tags: tuple[str, ...], answer: Answer) -> Answer:
    if answer.status >= 400:
        return answer
    with service.store.lock:
        fault = service.script.fire_first(AFTER, request.route, tags)
    if fault is None:
        return answer
    if fault.kind == "cut_after":
        return replace(answer, is_cut=True)
    if fault.kind == "status_after":
        return error_answer(fault.status, fault.message, fault.code)
    text = answer.payload.decode()
    spoilt = text[: len(text) // 2] if fault.kind == "truncated" else _corrupted(text)
    return replace(answer, body=spoilt)


def _tags(service: Service, request: Request) -> tuple[str, ...]:
    """Of the job that a request is about, or that it asks for."""
    if request.route == "POST /jobs":
        return tuple(request.json().get("tags", ()))
    if request.route == "GET /jobs":
        return tuple(request.query.get("tags", ()))
    if found := re.match(r"/jobs/([^/]+)", request.path):
        job = service.store.job(found[1])
        return () if job is None else job.tags
    return ()


def _dispatch(service: Service, request: Request) -> Answer:
    if request.route == "POST /identity/token":
        return account.token(service, request)
    if not service.tokens.is_good(request.authorization, service.generation):
        raise Refusal(401, "The access token is not valid, or has expired.", 1200)
    for method, pattern, handler in _ROUTES:
        found = re.fullmatch(pattern, request.path)
        if method == request.method and found:
            body = handler(service, request, *found.groups())
            return body if isinstance(body, Answer) else Answer(200, body)
    raise Refusal(404, f"The stand-in has no {request.route}.")


def _corrupted(text: str) -> str:
    """The same JSON, but no array in it can be read: each lost the head of its compression."""
    return re.sub(r'("data":\s*")(.{4})', r"\1AAAA", text)
