"""Test doubles for whatever runs Qiskit Estimators: `from fakes import RecordingService, Spy, ...`.

- `RecordingService`: an IBM service without a network. The client's own code runs, from the
  Estimator down to the JSON of a POST and back from the JSON of a result; `_Server` stands where
  the REST calls would be, records the jobs, and executes them on Aer.
- `Spy`: an Estimator that keeps the PUBs it is asked for.
- `FakeVendorBackend`: a device of a vendor that is not IBM, for `BackendEstimatorV2`.
"""

import itertools
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property

from ibm_quantum_schemas.common import CompressedTensorModel
from ibm_quantum_schemas.executor.version_2_0 import QuantumProgramResultModel
from qiskit.circuit import Measure, Parameter
from qiskit.circuit.library import RXGate, RYGate, RZGate, iSwapGate
from qiskit.primitives import PrimitiveJob, StatevectorEstimator
from qiskit.primitives.base import BaseEstimatorV2
from qiskit.primitives.containers import PrimitiveResult, PubResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.providers import BackendV2, Options
from qiskit.transpiler import CouplingMap, Target
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime import QiskitRuntimeService
from qiskit_ibm_runtime.accounts import Account
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import RuntimeJobFailureError, RuntimeJobMaxTimeoutError
from qiskit_ibm_runtime.fake_provider import (
    FakeFractionalBackend,
    FakeGuadalupeV2,
    FakeManilaV2,
    FakeTorino,
)
from qiskit_ibm_runtime.fake_provider.executor.run_quantum_program import run_quantum_program
from qiskit_ibm_runtime.json import RuntimeEncoder
from qiskit_ibm_runtime.options_models.simulator import SimulatorOptions
from qiskit_ibm_runtime.quantum_program.converters.converters_2_0 import passthrough_data_to_2_0
from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS
from qiskit_ibm_runtime.utils.utils import is_isa_circuit

INSTANCE = "crn:v1:bluemix:public:quantum-computing:us-east:a/0:00000000-0000-4000-8000-0::"

DEVICES = {
    "ibm_manila": FakeManilaV2,  # 5 qubits in a line, cx
    "ibm_guadalupe": FakeGuadalupeV2,  # 16 qubits, cx
    "ibm_torino": FakeTorino,  # 133 qubits, cz
    "ibm_fractional": FakeFractionalBackend,  # 5 qubits, cz; rx and rzz if asked for
}
WIDEST_NOISY = 16
"""Qubits; an Estimator's circuit measures the whole device."""


class RecordingService(QiskitRuntimeService):
    """An offline `QiskitRuntimeService`: records what is posted, answers from a simulator.

    Backends, sessions, batches and jobs are the client's own objects. A job executes when its
    result is first asked for. `noisy=False` leaves the devices' noise out: only then can
    `ibm_torino` give results (from matrix product states), else its jobs are recorded and their
    `result()` raises `NotImplementedError`. With noise, `ibm_guadalupe` needs about 10 s per row.
    A job whose circuits are not native to its device is accepted and ends as an ERROR.

    What it records:
        jobs_posted: one `PostedJob` per accepted POST.
        num_posts: POSTs tried, those that failed included.
        sessions: one `PostedSession` per session or batch that was created.
        cancelled: ids of cancelled jobs.

    What a test may script, at any time:
        fail_run: {number of the POST: exception}. A `RequestsApiError(text, status_code)` is the
            realistic one: the client turns it into an `IBMRuntimeError`.
        lose_reply: the same, but the job exists: the connection dropped after the POST.
        fail_result: {index in jobs_posted: exception, or a list of exceptions to raise one by one
            before the result comes}. `RuntimeJobFailureError` and `RuntimeJobMaxTimeoutError` put
            the job into the state ERROR; others leave it DONE with a result that cannot be had.
        hold: indices of jobs that stay QUEUED (`result()` waits for ever without a timeout).
        transform: PrimitiveResult -> PrimitiveResult, applied after the client's post-processing.
        statuses: {device: fields of its `BackendStatus` that differ from "all is well"}.
        instance_usage: answer to GET /instances/usage.
    """

    def __init__(self, *, noisy=True, seed=7):
        # Deliberately not super().__init__(), which talks to IBM: its attributes, one by one.
        self._all_instances = [
            {"crn": INSTANCE, "plan": "open", "name": "test", "tags": [], "pricing_type": "free"}
        ]
        self._saved_instances = []
        self._instance_auto = True
        self._account = Account(token="x" * 44, instance=INSTANCE)
        self._channel = self._account.channel
        self._default_instance = True
        self._backend_configs = {}
        self._backends_info_per_instance = {}
        self._backend_instance_groups = []

        self.noisy = noisy
        self.seed = seed
        self.jobs_posted = []
        self.num_posts = 0
        self.sessions = []
        self.cancelled = []
        self.fail_run = {}
        self.lose_reply = {}
        self.fail_result = {}
        self.hold = set()
        self.transform = None
        self.statuses = {}
        self.instance_usage = {"usage_consumed_seconds": 0, "usage_limit_reached": False}

        self._active_api_client = _Server(self)
        self._api_clients = {INSTANCE: self._active_api_client}

    def _run(self, *args, **kwargs):
        return self._transformed(super()._run(*args, **kwargs))

    def _decode_job(self, raw_data):
        return self._transformed(super()._decode_job(raw_data))

    def _transformed(self, job):
        job._result_decoders = [*job._result_decoders, _Transform(self)]
        return job


@dataclass(eq=False)
class PostedJob:
    """What a POST /jobs said."""

    index: int
    job_id: str
    program_id: str
    backend: str
    session_id: str | None
    tags: list[str]
    max_execution_time: int | None
    private: bool
    log_level: str | None
    image: str | None
    calibration_id: str | None
    params: dict
    """The inputs, as they come out of the JSON."""
    created: datetime
    state: str = "Queued"
    reason: str | None = None
    reason_code: int | None = None

    @cached_property
    def program(self):
        """The decoded `QuantumProgram`: one item per PUB (and one for TREX)."""
        return self._decoded[0]

    @property
    def executor_options(self):
        return self._decoded[1]

    @cached_property
    def _decoded(self):
        converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS[self.params["schema_version"]]
        program, options = converter.decoder(converter.model.model_validate(self.params))
        for item in program.items:
            if hasattr(item, "samplex"):
                item.samplex.finalize()
        return program, options

    @property
    def estimator_options(self):
        """Options of the Estimator, as a dictionary: resilience level, twirling and so on."""
        return self.program.passthrough_data["post_processor"]["options"]

    @property
    def shots(self):
        """Shots per row, all randomizations together."""
        return self.program.passthrough_data["post_processor"]["shots"]

    @property
    def num_executions(self):
        return self.program.shots * sum(item.size() for item in self.program.items)

    @property
    def seconds(self):
        """IBM's rule of thumb for the QPU time."""
        return 2 + 0.00035 * self.num_executions


@dataclass(eq=False)
class PostedSession:
    """What a POST /sessions said."""

    session_id: str
    mode: str
    """`dedicated` (a Session) or `batch`."""
    backend: str
    max_time: int | None
    closed: bool = False
    cancelled: bool = False


@dataclass
class _Transform:
    """The last link in a job's chain of result decoders."""

    service: RecordingService

    def is_applicable(self, result):
        return self.service.transform is not None

    def decode(self, result):
        return self.service.transform(result)


@dataclass
class _Server:
    """Answers what `qiskit_ibm_runtime.api.client.RuntimeClient` would fetch."""

    service: RecordingService
    results: dict[str, str] = field(default_factory=dict)
    posting: threading.Lock = field(default_factory=threading.Lock)
    executing: threading.Lock = field(default_factory=threading.Lock)

    _instance = INSTANCE

    def __deepcopy__(self, memo):  # IBMBackend.__deepcopy__ copies its client
        return self

    # Devices.

    def list_backends(self, include_mocks=False):
        return [
            {
                "name": name,
                "status": {"name": "online"},
                "qubits": _fake_device(name).num_qubits,
                "queue_length": 0,
            }
            for name in DEVICES
        ]

    def backend_configuration(self, backend_name, refresh=False, calibration_id=None):
        fake = _fake_device(backend_name)
        return fake._load_json(fake.conf_filename) | {"backend_name": backend_name}

    def backend_properties(self, backend_name, datetime=None, calibration_id=None):
        fake = _fake_device(backend_name)
        return fake._load_json(fake.props_filename) | {"backend_name": backend_name}

    def backend_status(self, backend_name):
        return {
            "backend_name": backend_name,
            "backend_version": "1.0.0",
            "status_msg": "active",
            "operational": True,
            "pending_jobs": 0,
        } | self.service.statuses.get(backend_name, {})

    def cloud_usage(self):
        return dict(self.service.instance_usage)

    # Sessions.

    def create_session(self, backend=None, instance=None, max_time=None, mode=None):
        session = PostedSession(f"session-{len(self.service.sessions)}", mode, backend, max_time)
        self.service.sessions.append(session)
        return {"id": session.session_id}

    def close_session(self, session_id):
        self._session(session_id).closed = True

    def cancel_session(self, session_id):
        session = self._session(session_id)
        session.closed = session.cancelled = True
        for job in self.service.jobs_posted:
            if job.session_id == session_id and job.state == "Queued":
                self.job_cancel(job.job_id)

    def session_details(self, session_id):
        session = self._session(session_id)
        return {
            "id": session_id,
            "backend_name": session.backend,
            "mode": session.mode,
            "max_ttl": session.max_time,
            "state": "closed" if session.closed else "open",
            "accepting_jobs": not session.closed,
        }

    def _session(self, session_id):
        for session in self.service.sessions:
            if session.session_id == session_id:
                return session
        raise RequestsApiError(f"404 Client Error: no session {session_id}", 404)

    # Jobs.

    def program_run(
        self,
        program_id,
        backend_name,
        params,
        image,
        log_level,
        session_id,
        job_tags=None,
        max_execution_time=None,
        start_session=False,
        session_time=None,
        private=False,
        calibration_id=None,
    ):
        service = self.service
        with self.posting:
            number, service.num_posts = service.num_posts, service.num_posts + 1
            if number in service.fail_run:
                raise service.fail_run[number]
            if session_id and self._session(session_id).closed:
                raise RequestsApiError('400 Client Error: {"code":1217} Session is closed.', 400)
            index = len(service.jobs_posted)
            job = PostedJob(
                index=index,
                job_id=f"job-{index}",
                program_id=program_id,
                backend=backend_name,
                session_id=session_id,
                tags=list(job_tags or []),
                max_execution_time=max_execution_time,
                private=bool(private),
                log_level=log_level,
                image=image,
                calibration_id=calibration_id,
                params=json.loads(json.dumps(params, cls=RuntimeEncoder)),
                created=datetime.now(UTC),
            )
            service.jobs_posted.append(job)
            if number in service.lose_reply:
                raise service.lose_reply[number]
        return {"id": job.job_id, "backend": backend_name}

    def job_get(self, job_id, exclude_params=True):
        job = self._job(job_id)
        state = {
            "status": self._state(job),
            "reason": job.reason,
            "reason_code": job.reason_code,
        }
        return {
            "id": job_id,
            "backend": job.backend,
            "program": {"id": job.program_id},
            "state": state,
            "tags": list(job.tags),
            "session_id": job.session_id,
            "created": job.created.isoformat(),
            "private": job.private,
            "estimated_running_time_seconds": job.seconds,
        } | ({} if exclude_params else {"params": job.params})

    def _state(self, job):
        """A job leaves the queue when somebody first looks, unless it is held."""
        if job.state != "Queued" or job.index in self.service.hold:
            return job.state
        failure = self.service.fail_result.get(job.index)
        if isinstance(failure, RuntimeJobMaxTimeoutError):
            job.state, job.reason, job.reason_code = "Cancelled", failure.message, 1305
        elif isinstance(failure, RuntimeJobFailureError):
            job.state, job.reason = "Failed", failure.message
        elif message := self._refusal(job):
            job.state, job.reason = "Failed", message
        else:
            job.state = "Completed"
        return job.state

    def _refusal(self, job):
        """Why the device cannot run the job: the client does not check circuits."""
        target = _fake_device(job.backend).target
        messages = (is_isa_circuit(item.circuit, target) for item in job.program.items)
        return next(filter(None, messages), None)

    def jobs_get(
        self,
        limit=None,
        skip=None,
        backend_name=None,
        pending=None,
        program_id=None,
        job_tags=None,
        session_id=None,
        created_after=None,
        created_before=None,
        descending=True,
        include_mocks=False,
    ):
        jobs = [
            job
            for job in self.service.jobs_posted
            if backend_name in (None, job.backend)
            and program_id in (None, job.program_id)
            and session_id in (None, job.session_id)
            and set(job_tags or []) <= set(job.tags)
            and (pending is None or pending == (self._state(job) == "Queued"))
            and (created_after is None or job.created >= created_after)
            and (created_before is None or job.created <= created_before)
        ]
        if descending:
            jobs.reverse()
        page = itertools.islice(jobs, skip or 0, (skip or 0) + (limit or len(jobs)))
        return {"jobs": [self.job_get(job.job_id) for job in page], "count": len(jobs)}

    def job_results(self, job_id):
        job = self._job(job_id)
        with self.executing:
            if job.reason is not None:
                return f"Traceback (most recent call last):\n{job.reason}"
            failure = self.service.fail_result.get(job.index)
            if isinstance(failure, list):
                failure = failure.pop(0) if failure else None
            if failure is not None:
                raise failure
            if job_id not in self.results:
                self.results[job_id] = self._execute(job)
            return self.results[job_id]

    def _execute(self, job):
        """The result's JSON, as a server of schema 2.0 would write it."""
        result = run_quantum_program(
            _simulator(job.backend, self.service.noisy),
            job.program,
            SimulatorOptions(seed_simulator=self.service.seed + job.index),
        )
        data = [
            {
                "results": {
                    name: CompressedTensorModel.from_numpy(array) for name, array in item.items()
                },
                "metadata": {},
            }
            for item in result
        ]
        return QuantumProgramResultModel(
            data=data,
            metadata={"chunk_timing": []},
            passthrough_data=passthrough_data_to_2_0(job.program.passthrough_data),
            semantic_role=job.program._semantic_role,
        ).model_dump_json()

    def job_cancel(self, job_id):
        job = self._job(job_id)
        if job.state != "Queued":
            raise RequestsApiError(f"409 Client Error: {job_id} is {job.state}", 409)
        job.state = "Cancelled"
        self.service.cancelled.append(job_id)

    def job_delete(self, job_id):
        self._job(job_id).state = "Deleted"

    def job_logs(self, job_id):
        return ""

    def job_metadata(self, job_id):
        job = self._job(job_id)
        done = job.state == "Completed"
        created = job.created.isoformat()
        return {
            "timestamps": {
                "created": created,
                "running": created if done else None,
                "finished": created if done else None,
            },
            "usage": {
                "qpu_charge_time_seconds": job.seconds if done else 0,
                "status": "complete" if done else "pending",
            },
        }

    def update_tags(self, job_id, tags):
        self._job(job_id).tags = list(tags)
        return _NoContent()

    def _job(self, job_id):
        for job in self.service.jobs_posted:
            if job.job_id == job_id and job.state != "Deleted":
                return job
        raise RequestsApiError(f"404 Client Error: no job {job_id}", 404)


@dataclass(frozen=True)
class _NoContent:
    status_code: int = 204


@cache
def _fake_device(name):
    return DEVICES[name]()


@cache
def _simulator(name, noisy):
    fake = _fake_device(name)
    if not noisy:
        wide = fake.num_qubits > WIDEST_NOISY
        method = "matrix_product_state" if wide else "automatic"
        return AerSimulator(method=method, max_parallel_experiments=0)
    if fake.num_qubits > WIDEST_NOISY:
        raise NotImplementedError(
            f"{name} has {fake.num_qubits} qubits, too many to simulate with noise: its jobs are "
            "only recorded (RecordingService(noisy=False) executes them)."
        )
    return AerSimulator.from_backend(fake, max_parallel_experiments=0)


class Spy(BaseEstimatorV2):
    """An Estimator that remembers: `calls` is a list of PUBs for each `run`.

    Args:
        estimator: answers the calls; by default a `StatevectorEstimator`.
        answer: EstimatorPub -> DataBin, answers instead of the estimator.
        fail_at: (index of the call, exception that it raises).
    """

    def __init__(self, estimator=None, *, answer=None, fail_at=None):
        self.estimator = StatevectorEstimator() if estimator is None else estimator
        self.answer = answer
        self.fail_at = fail_at
        self.calls = []

    def run(self, pubs, *, precision=None):
        pubs = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        self.calls.append(pubs)
        if self.fail_at is not None and len(self.calls) - 1 == self.fail_at[0]:
            raise self.fail_at[1]
        if self.answer is None:
            return self.estimator.run(pubs)
        job = PrimitiveJob(self._answers, pubs)
        job._submit()
        return job

    def _answers(self, pubs):
        return PrimitiveResult([PubResult(self.answer(pub)) for pub in pubs])

    @property
    def pubs(self):
        """PUBs of all calls."""
        return list(itertools.chain.from_iterable(self.calls))

    @property
    def num_runs(self):
        return len(self.calls)

    @property
    def num_pubs(self):
        return len(self.pubs)

    @property
    def num_rows(self):
        """Sets of parameter values, over all PUBs."""
        return sum(pub.parameter_values.size for pub in self.pubs)


class FakeVendorBackend(BackendV2):
    """A device that is not IBM's: a grid with native iswap, rotations, and no error data.

    `run` samples without noise and, as a vendor's cloud does, refuses what is not native.
    `runs` keeps (number of circuits, shots, options) of each call.
    """

    def __init__(self, rows=3, columns=3, *, max_circuits=None):
        super().__init__(name="fake_vendor")
        self._max_circuits = max_circuits
        self.runs = []
        edges = CouplingMap.from_grid(rows, columns).get_edges()
        qubits = [(qubit,) for qubit in range(rows * columns)]
        angle = Parameter("angle")
        self._target = Target(num_qubits=rows * columns)
        for gate in (RXGate(angle), RYGate(angle), RZGate(angle), Measure()):
            self._target.add_instruction(gate, dict.fromkeys(qubits))
        self._target.add_instruction(iSwapGate(), dict.fromkeys(edges))

    @property
    def target(self):
        return self._target

    @property
    def max_circuits(self):
        return self._max_circuits

    @classmethod
    def _default_options(cls):
        return Options(shots=1024)

    def run(self, run_input, shots=None, seed_simulator=None, **options):
        circuits = run_input if isinstance(run_input, list) else [run_input]
        shots = self.options.shots if shots is None else shots
        self.runs.append((len(circuits), shots, options))
        if self.max_circuits and len(circuits) > self.max_circuits:
            raise ValueError(f"{len(circuits)} circuits in a job; at most {self.max_circuits}")
        for circuit in circuits:
            if message := is_isa_circuit(circuit, self.target):
                raise ValueError(message)
        # Aer does not know iswap.
        circuits = [circuit.decompose("iswap") for circuit in circuits]
        simulator = AerSimulator(max_parallel_experiments=0)
        return simulator.run(circuits, shots=shots, seed_simulator=seed_simulator)
