"""The account, its instance, and the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from hardware_runs.standin import programs
from hardware_runs.standin.protocol import INSTANCE, Answer, Refusal, Request, seconds_of

if TYPE_CHECKING:
    from hardware_runs.standin.service import Service

_PLAN = "standin"


def token(service: Service, request: Request) -> Answer:
    """Exchange an API key for an access token."""
    form = parse_qs(request.body.decode())
    if form.get("apikey") != [service.rules.token]:
        text = "Provided API key could not be found."
        return Answer(400, {"errorCode": "BXNIM0415E", "errorMessage": text})
    return Answer(200, service.tokens.issue(service.generation))


def search(service: Service, request: Request) -> Any:
    """The instances of the account: one."""
    item = {
        "crn": INSTANCE,
        "name": "stand-in",
        "service_plan_unique_id": _PLAN,
        "doc": {"extensions": [{}]},
        "tags": [],
    }
    return {"items": [item], "limit": 100}


def plan(service: Service, request: Request, plan: str) -> Any:
    """The plan of an instance: one that has sessions, as the stand-in does; `Open` has none."""
    return {
        "overview_ui": {"en": {"display_name": "Pay-as-you-go"}},
        "metadata": {"pricing": {"type": "paygo"}},
    }


def usage(service: Service, request: Request) -> Any:
    """What the instance has used."""
    limit = service.rules.usage_limit_seconds
    return {
        "usage_consumed_seconds": service.used_seconds,
        "usage_limit_reached": service.is_used_up,
    } | ({} if limit is None else {"usage_limit_seconds": limit})


def backends(service: Service, request: Request) -> Any:
    """Names and numbers of qubits of all devices."""
    devices = [
        {
            "name": name,
            "status": {"name": "online"},
            "qubits": programs.configuration(name)["n_qubits"],
            "queue_length": 0,
        }
        for name in programs.device_names()
    ]
    return {"devices": devices}


def known(name: str) -> str:
    """The name of a device that there is."""
    if name not in programs.device_names():
        raise Refusal(404, f"The stand-in has no backend {name}.")
    return name


def configuration(service: Service, request: Request, name: str) -> Any:
    """Gates, coupling and delays of a device."""
    return programs.configuration(known(name))


def properties(service: Service, request: Request, name: str) -> Any:
    """Calibration of a device at a time."""
    before = request.first("updated_before")
    limit = float("inf") if before is None else seconds_of(before)
    times = [time for time in service.calibrations if time <= limit]
    faults = service.script.fire(("not_operational",), request.route)
    found = programs.properties(known(name), times)
    return programs.not_operational(found, [each for fault in faults for each in fault.qubits])


def status(service: Service, request: Request, name: str) -> Any:
    """Whether a device takes jobs, and how many wait for it."""
    known(name)
    waiting = sum(
        job.backend == name and not service.state(job).is_final for job in service.store.jobs()
    )
    return {
        "state": True,
        "status": "active",
        "length_queue": waiting,
        "backend_version": "1.0.0",
    }
