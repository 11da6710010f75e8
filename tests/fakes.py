"""Test doubles for whatever runs Qiskit Estimators: `from fakes import recording, Spy, ...`.

- `recording()`: IBM's client, connected to the stand-in of the service, with what was posted.
- `Spy`: an Estimator that keeps the PUBs it is asked for.
- `FakeVendorBackend`: a device of a vendor that is not IBM, for `BackendEstimatorV2`.
"""

import itertools
import os
from functools import cache, cached_property
from types import SimpleNamespace
from unittest.mock import patch

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
from qiskit_ibm_runtime.api.client import RuntimeClient
from qiskit_ibm_runtime.exceptions import RuntimeJobFailureError, RuntimeJobMaxTimeoutError
from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS
from qiskit_ibm_runtime.utils.utils import is_isa_circuit

from hardware_runs.standin import Fault, Rules, Standin
from hardware_runs.standin.protocol import INSTANCE, PREFIX
from hardware_runs.standin.records import MAX_TTL_SECONDS
from hardware_runs.standin.service import TOKEN

HELD_SECONDS = 1e9


def recording(noisy=False):
    """The service of this process, in which nothing was posted yet and nothing goes wrong."""
    service = _recording(noisy)
    service.begin()
    return service


@cache
def _recording(noisy):
    standin = Standin(Rules(noisy=noisy))
    standin.start()  # until the process ends
    return RecordingService(standin)


class RecordingService(QiskitRuntimeService):
    """IBM's client and a stand-in; what was posted since `begin`, and what shall go wrong.

    What goes wrong at the service itself is a `Fault` of the stand-in; what the client makes of an
    error is raised here, without the client's own waiting.

        jobs_posted: one `PostedJob` per accepted POST.
        num_posts: POSTs tried, those that failed included.
        fetched: ids of the jobs whose results were fetched.
        sessions, cancelled: those that were created; ids of cancelled jobs.
        fail_run: {number of the POST: exception}.
        fail_result: {index in jobs_posted: exception, or a list of exceptions to raise one by one
            before the result comes}. `RuntimeJobFailureError` and `RuntimeJobMaxTimeoutError` are
            how the job ends at the service.
        hold: indices of jobs that stay in the queue.
        transform: PrimitiveResult -> PrimitiveResult, applied after the client's post-processing.
    """

    def __init__(self, standin):
        self.standin = standin
        environment = standin.environment()
        os.environ |= {name: environment[name] for name in ("NO_PROXY", "no_proxy")}
        with patch.dict(os.environ, environment):
            super().__init__(
                channel="ibm_quantum_platform",
                token=TOKEN,
                instance=INSTANCE,
                url=standin.url + PREFIX,
            )
        self._active_api_client.__class__ = _Client
        self.begin()

    def begin(self):
        """Forget what was posted and what was to go wrong."""
        store = self.standin._service.store
        self._before = len(store.jobs()), {session.session_id for session in store.sessions()}
        self._posted = {}
        self.standin.clear_faults()
        self.num_posts, self.fetched = 0, []
        self.fail_run, self.fail_result, self.hold, self.transform = {}, {}, set(), None
        self._active_api_client.__dict__.pop("program_run", None)  # of a test's own
        self._active_api_client.recording = self

    @property
    def jobs_posted(self):
        store = self.standin._service.store
        for job in store.jobs()[self._before[0] + len(self._posted) :]:
            self._posted[job.job_id] = PostedJob(job, store.params(job))
        return list(self._posted.values())

    @property
    def sessions(self):
        return [
            SimpleNamespace(
                session_id=each.session_id,
                mode=each.mode,
                backend=each.backend,
                max_time=None if each.max_ttl == MAX_TTL_SECONDS else each.max_ttl,
                closed=each.stopped is not None or each.closed is not None,
                cancelled=each.closed is not None,
            )
            for each in self.standin._service.store.sessions()
            if each.session_id not in self._before[1]
        ]

    @property
    def cancelled(self):
        jobs = self.standin._service.store.jobs()[self._before[0] :]
        return [job.job_id for job in jobs if job.cancelled is not None]

    def _run(self, *args, **kwargs):
        job = super()._run(*args, **kwargs)
        job._result_decoders = [*job._result_decoders, _Transform(self)]
        return job


class PostedJob:
    """What a POST /jobs said."""

    def __init__(self, job, params):
        self.job_id, self.backend, self.session_id = job.job_id, job.backend, job.session_id
        self.tags, self.max_execution_time = list(job.tags), job.max_execution_time
        self.num_executions = job.num_executions
        self._params = params

    @cached_property
    def _decoded(self):
        converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS[self._params["schema_version"]]
        return converter.decoder(converter.model.model_validate(self._params))

    @property
    def program(self):
        """The decoded `QuantumProgram`: one item per PUB (and one for TREX)."""
        return self._decoded[0]

    @property
    def executor_options(self):
        return self._decoded[1]

    @property
    def estimator_options(self):
        """Options of the Estimator, as a dictionary: resilience level, twirling and so on."""
        return self.program.passthrough_data["post_processor"]["options"]

    @property
    def shots(self):
        """Shots per row, all randomizations together."""
        return self.program.passthrough_data["post_processor"]["shots"]


class _Transform:
    """The last link in a job's chain of result decoders."""

    def __init__(self, recording):
        self.recording = recording

    def is_applicable(self, result):
        return self.recording.transform is not None

    def decode(self, result):
        return self.recording.transform(result)


class _Client(RuntimeClient):
    """Told apart from the client's own by what its `recording` says is to go wrong."""

    def __deepcopy__(self, memo):  # IBMBackend.__deepcopy__ copies its client
        return self

    def program_run(self, *args, **kwargs):
        service = self.recording
        number, service.num_posts = service.num_posts, service.num_posts + 1
        if number in service.fail_run:
            raise service.fail_run[number]
        index = len(service.jobs_posted)
        failure = service.fail_result.get(index)
        if index in service.hold:
            service.standin.add_fault(Fault("queue", seconds=HELD_SECONDS))
        if isinstance(failure, RuntimeJobMaxTimeoutError):
            service.standin.add_fault(Fault("too_long"))
        elif isinstance(failure, RuntimeJobFailureError):
            service.standin.add_fault(Fault("failed", message=failure.message))
        return super().program_run(*args, **kwargs)

    def job_results(self, job_id):
        service = self.recording
        index = [job.job_id for job in service.jobs_posted].index(job_id)
        failure = service.fail_result.get(index)
        if isinstance(failure, list):
            failure = failure.pop(0) if failure else None
        if failure is not None and not isinstance(
            failure, RuntimeJobFailureError | RuntimeJobMaxTimeoutError
        ):
            raise failure
        service.fetched.append(job_id)
        return super().job_results(job_id)


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
