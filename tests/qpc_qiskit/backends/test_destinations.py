"""Templates on simulators, patches and backends of every kind."""

import itertools

import numpy as np
import pytest
import torch
from cases import Case, evs_of
from conformance import weights_of
from fakes import FakeVendorBackend, Spy, recording
from qiskit.circuit import Measure, Parameter
from qiskit.circuit.library import CZGate, RZGate, SXGate
from qiskit.primitives import BackendEstimatorV2
from qiskit.providers import BackendV2, Options
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import CouplingMap, InstructionProperties, Target
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error
from qiskit_aer.primitives import EstimatorV2 as AerEstimatorV2
from qiskit_ibm_runtime import Batch
from qiskit_ibm_runtime import EstimatorV2 as IBMLegacyEstimator
from qiskit_ibm_runtime.executor_estimator import Estimator as IBMEstimator
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeTorino
from tiers import thorough

from qpc_qiskit import EstimatorEngine, ExactEngine
from qpc_qiskit.backends import destinations
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.devices.forecast import JobCost
from qpc_qiskit.devices.isa import is_isa
from qpc_qiskit.errors import BackendError, EngineError, NotISAError
from qpc_qiskit.rows.pubs import make_template

CASE = Case(3, 2, 2, "figure1", 2)
SPEC = CASE.spec()


def template_of(spec=SPEC):
    return make_template(make_encoder("multiplexor", spec.num_qubits), spec.ansatz)


def target_with(num_qubits, edges):
    target = Target(num_qubits=num_qubits)
    every = {(q,): InstructionProperties(error=1e-3) for q in range(num_qubits)}
    for gate in (RZGate(Parameter("t")), SXGate(), Measure()):
        target.add_instruction(gate, dict(every))
    target.add_instruction(CZGate(), {e: InstructionProperties(error=1e-2) for e in edges})
    return target


def evaluate(engine, spec=SPEC):
    """Values of one pixel."""
    pixels = torch.arange(1.0, spec.in_channels + 1, dtype=torch.float64)[None]
    weights = torch.full((spec.num_kernels, spec.num_weights), 0.3, dtype=torch.float64)
    return evs_of(engine, spec, pixels, weights)


class PlainBackend(BackendV2):
    """A target, and nothing that runs."""

    def __init__(self, target):
        super().__init__(name="plain")
        self._given = target

    @property
    def target(self):
        return self._given

    @property
    def max_circuits(self):
        return None

    @classmethod
    def _default_options(cls):
        return Options()

    def run(self, run_input, **options):
        raise AssertionError("nothing may be sent")


def check_sampled(backend, generator, case=CASE, bias=0.0, **options):
    """Values of 4096 shots: five standard errors of at most 1/64 for each of at most 24 values.

    A false alarm has a probability of 24 * 6e-7 = 1.4e-5 over all seeds.
    """
    engine = EstimatorEngine.from_backend(backend, seed=11, **options)
    pixels = torch.randn(4, case.in_channels, generator=generator, dtype=torch.float64)
    weights = weights_of(case, generator)
    found = evs_of(engine, case.spec(), pixels, weights)
    exact = evs_of(ExactEngine(), case.spec(), pixels, weights)
    assert float((found - exact).abs().max()) < 5 / 64 + bias
    assert 0 < engine.last_report.max_std <= 1.01 / 64
    return engine


GENERIC = {
    "ring": {"coupling_map": CouplingMap.from_ring(6).get_edges()},
    "grid": {"coupling_map": CouplingMap.from_grid(2, 3).get_edges()},
    "all to all": {"coupling_map": None},
    "one way": {"coupling_map": [(0, 1), (2, 1), (2, 3), (4, 3), (4, 5)]},
    "ecr": {"basis_gates": ["ecr", "rz", "sx", "x", "id"]},
    "cz": {"basis_gates": ["cz", "rz", "sx", "x"]},
    "rxx": {"basis_gates": ["rzz", "rx", "ry", "rz"]},
    "u": {"basis_gates": ["cx", "u"]},
}


class TestBackendsOfEveryKind:
    # Qiskit's own, of a backend without error data that runs.
    @pytest.mark.filterwarnings("ignore:Qiskit backend .* has no QubitProperties")
    @pytest.mark.parametrize(
        ("num_qubits", "kind"),
        [
            *zip(itertools.cycle([2, 4]), GENERIC, strict=False),
            *thorough(*zip(itertools.cycle([4, 2]), GENERIC, strict=False)),
        ],
    )
    def test_generic(self, kind, num_qubits, generator):
        backend = GenericBackendV2(6, seed=4, noise_info=False, **GENERIC[kind])
        case = {2: CASE, 4: Case(11, 4, 4, "strongly_entangling", 2)}[num_qubits]
        engine = check_sampled(backend, generator, case)
        report = engine.last_report
        assert len(set(report.patch)) == num_qubits
        assert sorted(report.layout) == sorted(report.patch)
        sent = engine.prepare(case.spec()).template.circuit
        assert sent.num_qubits == 6
        assert is_isa(sent, backend.target)

    def test_one_qubit(self, generator):
        backend = GenericBackendV2(1, ["rz", "sx", "x"], seed=4)
        check_sampled(backend, generator, Case(2, 2, 1), bias=0.05)

    def test_a_vendor(self, generator):
        backend = FakeVendorBackend(max_circuits=3)
        engine = check_sampled(backend, generator, Case(7, 3, 3, "figure1", 1), shots=4096)
        assert [run[:2] for run in backend.runs] == [(3, 4096), (1, 4096)]
        assert engine.last_report.backend == "fake_vendor"
        assert engine.last_report.predicted_qpu_seconds is None
        assert engine.last_report.about["calibration_time"] is None

    def test_noise_of_a_device_that_samples_itself(self, generator):
        """A tenth: what two layers on fake_manila lose at most."""
        for backend in (AerSimulator.from_backend(FakeManilaV2()), GenericBackendV2(5, seed=2)):
            check_sampled(backend, generator, bias=0.2)

    def test_a_fake_device_as_an_object(self, generator):
        engine = check_sampled(FakeManilaV2(), generator, bias=0.2)
        assert engine.last_report.about["mode"] == "local"
        assert engine.prepare(SPEC).template.circuit.num_qubits == 2

    def test_a_simulator_with_its_noise(self, generator):
        noise = NoiseModel()
        noise.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.1, 0.9]]))
        pixels = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        weights = weights_of(CASE, generator)
        exact = evs_of(ExactEngine(), SPEC, pixels, weights)
        for backend, options in [
            (AerSimulator(noise_model=noise), {}),
            ("aer", {"noise_model": noise}),
        ]:
            engine = EstimatorEngine.from_backend(backend, **options)
            found = evs_of(engine, SPEC, pixels, weights)
            torch.testing.assert_close(found, 0.8 * exact, rtol=0, atol=1e-12)
        found = evs_of(EstimatorEngine.from_backend(AerSimulator()), SPEC, pixels, weights)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


class TestWhatCannotCarryTheCircuit:
    @pytest.mark.parametrize("as_noise", [False, True])
    def test_too_small(self, as_noise):
        backend = GenericBackendV2(3, seed=1)
        options = {"backend": "aer", "noise_model": backend} if as_noise else {"backend": backend}
        engine = EstimatorEngine.from_backend(**options)
        with pytest.raises(BackendError, match="circuit has 4 qubits; the backend has 3"):
            engine.prepare(Case(9, 4, 4).spec())
        with pytest.raises(BackendError, match="circuit has 7 qubits; the backend has 5"):
            EstimatorEngine.from_backend("fake_manila").prepare(Case(65, 7, 7).spec())

    def test_two_islands(self):
        islands = [(0, 1), (1, 2), (3, 4), (4, 5)]
        backend = PlainBackend(target_with(6, islands))
        engine = EstimatorEngine.from_backend(backend)
        with pytest.raises(BackendError, match="no 4 connected healthy qubits: 6 of its 6 qubits"):
            engine.prepare(Case(9, 4, 4).spec())
        placed = engine.prepare(Case(5, 3, 3).spec()).placement.patch.qubits
        assert set(placed) in ({0, 1, 2}, {3, 4, 5})

    def test_no_target(self):
        message = r"plain tells nothing of its gates \(its target is None\)"
        with pytest.raises(BackendError, match=message):
            EstimatorEngine.from_backend(PlainBackend(None))
        engine = EstimatorEngine.from_backend("aer", noise_model=PlainBackend(None))
        with pytest.raises(BackendError, match=message):
            engine.prepare(SPEC)

    def test_no_gates_for_it(self):
        target = Target(num_qubits=3)
        for gate in (SXGate(), Measure()):
            target.add_instruction(gate, {(q,): None for q in range(3)})
        target.add_instruction(CZGate(), {(0, 1): None, (1, 2): None})
        engine = EstimatorEngine.from_backend(PlainBackend(target))
        with pytest.raises(BackendError, match="cannot be translated into the backend's gates"):
            engine.prepare(SPEC)

    def test_a_prepared_circuit_that_computes_something_else_is_refused(self, monkeypatch):
        wrong = [SparsePauliOp("IZ"), SparsePauliOp("IZ")]
        monkeypatch.setattr(destinations, "embed_observables", lambda *a: wrong)
        engine = EstimatorEngine.from_backend("fake_manila")
        with pytest.raises(EngineError, match="does not compute the same as the exact engine"):
            engine.prepare(SPEC)


class TestOnAPatch:
    @pytest.mark.parametrize("backend", [FakeManilaV2(), FakeTorino()], ids=["manila", "torino"])
    def test_only_the_patch_is_simulated(self, backend):
        prepared = destinations.simulated(template_of(), backend)
        noise = destinations.noise_on(prepared, backend)
        assert prepared.template.circuit.num_qubits == 2
        assert set(noise.noise_qubits) <= {0, 1}
        assert prepared.template.parameters == template_of().parameters
        assert set(prepared.template.circuit.parameters) == set(template_of().parameters)
        assert 0 < prepared.times.total() < 1e-3
        # Feature q is read from the wire where qubit q ends.
        for q, observable in enumerate(prepared.template.observables):
            (label,) = observable.paulis.to_labels()
            assert label[::-1].index("Z") == prepared.placement.final[q]

    def test_in_the_full_width(self):
        backend = FakeTorino()
        prepared = destinations.embedded(template_of(), backend)
        circuit = prepared.template.circuit
        assert circuit.num_qubits == 133
        assert is_isa(circuit, backend.target)
        used = {circuit.find_bit(q).index for each in circuit.data for q in each.qubits}
        assert used == set(prepared.placement.patch.qubits)
        for q, observable in enumerate(prepared.template.observables):
            (label,) = observable.paulis.to_labels()
            assert label.count("Z") == 1
            assert label[::-1].index("Z") == prepared.placement.layout[q]
        patch = destinations.simulated(template_of(), backend).placement.patch
        assert prepared.placement.patch == patch

    def test_the_same_every_time(self):
        (first,), (second,) = (
            destinations.placed_on(template_of(), FakeTorino()) for _ in range(2)
        )
        assert first.patch == second.patch
        assert first.circuit == second.circuit

    @pytest.mark.slow
    def test_patches_of_a_packing(self):
        def fidelities(**packing):
            placed = destinations.placed_on(
                template_of(),
                FakeTorino(),
                packing=destinations.Packing(num_patches=None, **packing),
            )
            return [each.patch.fidelity for each in placed]

        usual, strict = fidelities(), fidelities(min_fidelity_ratio=0.98)
        assert 1 < len(strict) < len(usual)
        assert min(strict) >= 0.97 * max(strict) > 0.97 * 0.97 * max(usual)
        assert 1 < len(fidelities(gap=1)) < len(usual)

    def test_faulty_qubits_are_left_alone(self):
        free = destinations.embedded(template_of(), FakeManilaV2()).placement.patch.qubits
        service = recording()
        backend = service.backend("ibm_manila")
        told = backend.properties()

        class Told:
            last_update_date = told.last_update_date

            def faulty_qubits(self):
                return list(free)

            def faulty_gates(self):
                return []

        backend.properties = Told
        placed = destinations.embedded(template_of(), backend).placement.patch.qubits
        assert not set(placed) & set(free)


class TestNoiseModels:
    def test_the_circuit_is_translated_to_the_models_gates(self):
        noise = NoiseModel(basis_gates=["ecr", "rz", "sx", "x"])
        noise.add_all_qubit_quantum_error(depolarizing_error(0.05, 2), ["ecr"])
        prepared = destinations.simulated(template_of(), noise)
        assert destinations.noise_on(prepared, noise) is noise
        assert set(prepared.template.circuit.count_ops()) <= {"ecr", "rz", "sx", "x"}
        assert prepared.template.observables == template_of().observables

    def test_one_without_effect_is_refused(self):
        noise = NoiseModel()
        noise.add_all_qubit_quantum_error(depolarizing_error(0.05, 3), ["ccx"])
        engine = EstimatorEngine.from_backend("aer", noise_model=noise)
        with pytest.raises(EngineError, match="noise model has errors on ccx, of which the circui"):
            evaluate(engine)

    # Its places are those of two qubits: a warning comes before the error.
    @pytest.mark.filterwarnings("ignore:2 of 2 'measure'")
    def test_a_readout_error_of_two_qubits_is_refused(self):
        noise = NoiseModel()
        noise.add_all_qubit_quantum_error(depolarizing_error(0.05, 2), ["cx"])
        noise.add_readout_error(np.full((4, 4), 0.25), [0, 1])
        engine = EstimatorEngine.from_backend("aer", noise_model=noise)
        with pytest.raises(EngineError, match="readout error of several qubits together"):
            evaluate(engine)

    # Qiskit's own, of a backend without error data.
    @pytest.mark.filterwarnings("ignore:Qiskit backend .* has no QubitProperties")
    @pytest.mark.parametrize("options", [{}, {"shots": 100}, {"resilience": 1}], ids=str)
    def test_a_device_that_tells_no_errors_is_refused(self, options):
        """It would be simulated without noise, unnoticed."""
        device = GenericBackendV2(5, seed=1, noise_info=False)
        for backend in (device, FakeVendorBackend()):
            engine = EstimatorEngine.from_backend("aer", noise_model=backend, **options)
            with pytest.raises(EngineError, match=r"tells no errors of qubits .*without noise"):
                evaluate(engine)
            assert engine.total_pubs == 0

    @pytest.mark.filterwarnings("ignore:Qiskit backend .* has no QubitProperties")
    def test_a_snapshot_that_tells_no_errors_has_no_exact_noisy_values(self, monkeypatch):
        class Silent(FakeManilaV2):
            @property
            def target(self):
                silent = Target(num_qubits=5)
                for gate in (RZGate(Parameter("t")), SXGate(), Measure()):
                    silent.add_instruction(gate, {(q,): None for q in range(5)})
                edges = {(q, q + 1): None for q in range(4)}
                silent.add_instruction(CZGate(), edges)
                return silent

        engine = EstimatorEngine.from_backend(Silent(), precision=0)
        with pytest.raises(EngineError, match="tells no errors of qubits"):
            evaluate(engine)

    def test_the_noise_of_a_simulator(self, generator):
        noise = NoiseModel()
        noise.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.1, 0.9]]))
        own, simulators = (
            evaluate(EstimatorEngine.from_backend("aer", noise_model=model))
            for model in (noise, AerSimulator(noise_model=noise))
        )
        torch.testing.assert_close(own, simulators, rtol=0, atol=1e-12)
        device, copy = (
            evaluate(EstimatorEngine.from_backend("aer", noise_model=model))
            for model in (FakeManilaV2(), AerSimulator.from_backend(FakeManilaV2()))
        )
        torch.testing.assert_close(device, copy, rtol=0, atol=1e-12)
        assert not torch.allclose(own, device, atol=1e-3)

    def test_a_real_device_lends_its_noise(self, generator):
        backend = recording().backend("ibm_manila")
        pixels = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        weights = weights_of(CASE, generator)
        real, fake = (
            evs_of(EstimatorEngine.from_backend("aer", noise_model=device), SPEC, pixels, weights)
            for device in (backend, FakeManilaV2())
        )
        torch.testing.assert_close(real, fake, rtol=0, atol=1e-12)

    def test_none(self):
        prepared = destinations.simulated(template_of(), None)
        assert destinations.noise_on(prepared, None) is None
        assert prepared.placement is prepared.times is None


def test_given_estimator_gets_the_template_as_it_is():
    spy = Spy()
    destination = destinations.given_estimator(spy)
    template = template_of()
    prepared = destination.prepare(template)
    assert prepared.template is template
    assert destination.connect(prepared) is spy
    assert not destination.is_transpiled
    assert destination.default_shots is destination.configure is None
    assert destination.cost(prepared, 100) == JobCost(shots_per_row=100)
    destination.close()


PLAIN_GATES = ["ry", "rz", "rx", "sx", "x", "cx", "cz"]


def model_on(gate, size=1, basis=PLAIN_GATES):
    model = NoiseModel(basis_gates=basis)
    model.add_all_qubit_quantum_error(depolarizing_error(0.05, size), [gate])
    return model


GIVEN = {
    "of qiskit": lambda: BackendEstimatorV2(backend=FakeTorino()),
    "of a vendor": lambda: BackendEstimatorV2(backend=FakeVendorBackend()),
    "of IBM": lambda: IBMEstimator(mode=FakeTorino()),
    "of IBM in a batch": lambda: IBMEstimator(mode=Batch(FakeManilaV2())),
    "of IBM, old": lambda: IBMLegacyEstimator(mode=FakeTorino()),
    "of Aer": lambda: AerEstimatorV2.from_backend(FakeManilaV2()),
}


class TestGivenEstimators:
    @pytest.mark.filterwarnings("ignore:The EstimatorV2 class is deprecated")
    @pytest.mark.parametrize("kind", GIVEN)
    def test_one_that_cannot_run_the_plain_circuit_is_refused(self, kind):
        engine = EstimatorEngine(GIVEN[kind]())
        with pytest.raises(
            NotISAError, match=r"which cannot run .* as it is. Use EstimatorEngine.from_backend"
        ):
            evaluate(engine)
        assert engine.total_pubs == 0

    @pytest.mark.parametrize("on", ["u3", "ecr"])
    def test_one_whose_noise_does_not_act_is_refused(self, on):
        noise = model_on(on, 2 if on == "ecr" else 1)
        for estimator in (
            AerEstimatorV2(options={"backend_options": {"noise_model": noise}}),
            BackendEstimatorV2(backend=AerSimulator(noise_model=noise)),
            IBMEstimator(mode=AerSimulator(noise_model=noise)),
        ):
            engine = EstimatorEngine(estimator)
            with pytest.raises(EngineError, match=f"noise model has errors on {on}, of which"):
                evaluate(engine)
            assert engine.total_pubs == 0

    def test_one_whose_noise_is_for_other_gates_is_refused(self):
        """Aer would run ry, which the model does not know, without noise."""
        simulator = AerSimulator(noise_model=model_on("cx", 2, basis=["cx", "rz", "sx"]))
        with pytest.raises(NotISAError, match="is then transpiled for it"):
            evaluate(EstimatorEngine(BackendEstimatorV2(backend=simulator)))
        evaluate(EstimatorEngine.from_backend(simulator))  # as the message says

    @pytest.mark.parametrize("noise", [None, model_on("cx", 2)], ids=["noiseless", "noisy"])
    def test_one_that_can_is_taken(self, noise):
        """100 000 shots; 2 values within five standard errors, and a weak noise on few gates."""
        exact = evaluate(ExactEngine())
        for estimator in (
            AerEstimatorV2(options={"backend_options": {"noise_model": noise}}),
            BackendEstimatorV2(backend=AerSimulator(noise_model=noise)),
            IBMEstimator(mode=AerSimulator(noise_model=noise)),
        ):
            found = evaluate(EstimatorEngine(estimator, shots=100_000))
            bias = 0 if noise is None else 0.3
            assert float((found - exact).abs().max()) < 5 / 316 + bias
            if noise is not None:
                assert not torch.allclose(found, exact, atol=5 / 316)


class TestChosenQubits:
    def test_are_used(self):
        qubits = (4, 3)
        service = recording()
        for backend, options in [
            ("fake_manila", {}),
            ("fake_manila", {"precision": 0}),
            ("aer", {"noise_model": "fake_manila"}),
            ("aer", {"noise_model": FakeManilaV2(), "resilience": 1, "shots": 64}),
            (GenericBackendV2(5, seed=1, coupling_map=CouplingMap.from_line(5).get_edges()), {}),
            ("ibm_manila", {"service": service}),
        ]:
            engine = EstimatorEngine.from_backend(backend, qubits=qubits, **options)
            prepared = engine.prepare(SPEC)
            assert sorted(prepared.placement.patch.qubits) == sorted(qubits)
            evaluate(engine)
            assert sorted(engine.last_report.patch) == sorted(qubits)
        (job,) = service.jobs_posted
        circuit = job.program.items[0].circuit
        for each in circuit.data:
            if each.operation.num_qubits == 2 and each.operation.name != "barrier":
                used = {circuit.find_bit(q).index for q in each.qubits}
                assert used == set(qubits)

    def test_change_the_noise(self):
        first, second = (
            evaluate(EstimatorEngine.from_backend("fake_manila", precision=0, qubits=qubits))
            for qubits in ((0, 1), (3, 4))
        )
        assert not torch.allclose(first, second, atol=1e-4)

    @pytest.mark.parametrize(
        ("qubits", "message"),
        [
            ((0, 2), "not connected"),
            ((0,), "Expected 2 different qubits"),
            ((0, 1, 2), "Expected 2 different qubits"),
            ((1, 1), "Expected 2 different qubits"),
            ((4, 5), "not all on the backend"),
            ((-1, 0), "not all on the backend"),
        ],
    )
    def test_that_will_not_do(self, qubits, message):
        engine = EstimatorEngine.from_backend("fake_manila", qubits=qubits)
        with pytest.raises(BackendError, match=message):
            engine.prepare(SPEC)


class TestCosts:
    def test_of_aer(self):
        """The price is the device's, also where its noise alone is simulated."""
        found = destinations.aer(FakeManilaV2())
        prepared = found.prepare(template_of())
        cost = found.cost(prepared, 100)
        assert (cost.shots_per_row, cost.shots_per_job) == (100, 0)
        assert cost.seconds_per_shot == prepared.times.total()
        assert found.cost(prepared, 0).seconds_per_shot is None
        plain = destinations.aer()
        assert plain.cost(plain.prepare(template_of()), 100).seconds_per_shot is None


def test_calibration_time():
    assert destinations.calibration_time(FakeManilaV2()).endswith("+00:00")
    assert destinations.calibration_time(GenericBackendV2(2)) is None
    assert destinations.calibration_time(PlainBackend(None)) is None
