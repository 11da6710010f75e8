"""The stand-in itself: an HTTP server on the loopback interface, and the way to connect to it."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qiskit_ibm_runtime import QiskitRuntimeService

from hardware_runs.standin.faults import Fault
from hardware_runs.standin.protocol import INSTANCE, PREFIX, Request
from hardware_runs.standin.remote import CONTROL, METHODS
from hardware_runs.standin.routes import answer
from hardware_runs.standin.service import Rules, Service
from hardware_runs.standin.store import RecordStore

if TYPE_CHECKING:
    from typing import Self


class Standin:
    """A service on this machine; a context manager.

    While it is entered, the process's environment is that of `environment()`, so that plain
    `QiskitRuntimeService()` finds it, here and in subprocesses.

    Args:
        rules: how it behaves while nothing goes wrong.
        path: of a file that outlives it (jobs, sessions, tokens, time that was added; faults to
            come are not in it); None: all is in memory.
        host: an address of the loopback interface.
        port: 0: any that is free.
        clock: seconds since the epoch; `advance` adds to it.
        faults: what goes wrong.

    Raises:
        ValueError: a host that is not this machine's loopback interface.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        path: Path | str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
        faults: Iterable[Fault] = (),
    ) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(
                f"The stand-in is for this machine only; {host} is no loopback address."
            )
        self._store = RecordStore(path)
        self._service = Service(self._store, rules or Rules(), clock, faults)
        try:
            self._http = _Server((host, port), self._service)
        except OSError:
            self._store.close()
            raise
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._outer: dict[str, str | None] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to connect without a change of its code."""
        hosts = [h for h in os.environ.get("NO_PROXY", "").split(",") if h]
        if "127.0.0.1" not in hosts:
            hosts.append("127.0.0.1")
        return {
            "QISKIT_IBM_CHANNEL": "ibm_quantum_platform",
            "QISKIT_IBM_TOKEN": self._service.rules.token,
            "QISKIT_IBM_INSTANCE": INSTANCE,
            "QISKIT_IBM_URL": self.url + PREFIX,
            "IAM_URL": self.url,
            "GLOBAL_SEARCH_URL": self.url,
            "GLOBAL_CATALOG_URL": f"{self.url}/catalog",
            "NO_PROXY": ",".join(hosts),
            "no_proxy": ",".join(hosts),
        }

    def service(self, token: str | None = None) -> QiskitRuntimeService:
        """IBM's client, connected to it; the environment must name the stand-in.

        Args:
            token: an API key other than the one that is accepted.
        """
        return QiskitRuntimeService(
            channel="ibm_quantum_platform",
            token=token or self._service.rules.token,
            instance=INSTANCE,
            url=self.url + PREFIX,
        )

    def start(self) -> None:
        """Answer requests from now on; the environment stays as it is."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
        self._store.close()

    def __enter__(self) -> Self:
        self.start()
        environment = self.environment()
        self._outer = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        return self

    def __exit__(self, *exception: object) -> None:
        for name, value in self._outer.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self.stop()

    # What happened, and what shall happen; `Remote` has the same methods.

    @property
    def errors(self) -> list[str]:
        """Tracebacks of the stand-in's own failures; there should be none."""
        return self._http.errors

    def records(self) -> dict[str, Any]:
        """See `Service.records`."""
        return self._service.records()

    def add_fault(self, fault: Fault) -> None:
        """Another thing will go wrong."""
        self._service.add_fault(fault)

    def clear_faults(self) -> None:
        """Nothing goes wrong any more."""
        self._service.clear_faults()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._service.advance(seconds)

    def recalibrate(self) -> None:
        """All devices are calibrated anew, now."""
        self._service.recalibrate()

    def expire_tokens(self) -> None:
        """Every access token given out so far ends."""
        self._service.expire_tokens()

    def close_session(self, session_id: str) -> None:
        """As the service closes a session or batch by itself."""
        self._service.close_session(session_id)

    def cancel_job(self, job_id: str) -> None:
        """As somebody else cancels a job."""
        self._service.cancel_job(job_id)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        super().__init__(address, _Handler)
        self.service = service
        self.errors: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError):  # a client that is gone
            self.errors.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith(CONTROL):
            self._send(200, json.dumps(self._control(body)).encode())
            return
        authorization = self.headers.get("Authorization", "")
        request = Request.parse(self.command, self.path, body, authorization)
        try:
            found = answer(self.server.service, request)
        except Exception as error:  # noqa: BLE001, a mistake of the stand-in must not look like IBM's
            self.server.errors.append(traceback.format_exc())
            self._send(501, f"The stand-in itself failed: {error!r}".encode())
            return
        if found.is_cut:
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._send(found.status, found.payload)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _control(self, body: bytes) -> Any:
        name = self.path.removeprefix(CONTROL)
        if name not in METHODS:
            return {"error": f"The stand-in has no {name!r}; expected one of {METHODS}."}
        arguments = json.loads(body)
        if name == "add_fault":
            arguments = [Fault(**arguments[0])]
        return {"value": getattr(self.server.service, name)(*arguments)}

    def _send(self, status: int, payload: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal; `records` has them."""
