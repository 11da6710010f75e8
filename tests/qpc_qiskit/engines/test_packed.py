"""Brickwalls, absorbed tails, many patches at a time and reference rows, in one engine."""

import json
import math
import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from cases import Case, evs_of, jacobian_of, pixels_of, vjp_of
from conformance import grad_of, weights_of
from fakes import FakeVendorBackend
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.transpiler import CouplingMap
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, ReadoutError
from qiskit_ibm_runtime.fake_provider import FakeFez, FakeJakartaV2, FakeLagosV2, FakeTorino
from references import case_features
from tiers import thorough

from qpc_qiskit import EstimatorEngine, ExactEngine, make_spec
from qpc_qiskit.backends import jobs
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.backends.destinations import ONE_PATCH, Packing, aer, embedded, simulated
from qpc_qiskit.backends.patchwise import PatchwiseEstimator
from qpc_qiskit.circuits.brickwall import error_bound
from qpc_qiskit.circuits.directions import canonical_directions
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.devices.isa import check_isa
from qpc_qiskit.engines import LayerCall
from qpc_qiskit.errors import BackendError, EngineError, FitFailed
from qpc_qiskit.rows.frozen import freeze, thaw
from qpc_qiskit.rows.pubs import JobLimits, make_pub, make_template
from qpc_qiskit.rows.slots import gather
from qpc_qiskit.rows.unpacking import features

SHALLOW = {"encoder": "brickwall", "absorb_tail": True}
ENCODINGS = [
    {},
    {"encoder": "brickwall"},
    {"absorb_tail": True},
    SHALLOW,
]


def named(options):
    return "-".join(str(value) for value in options.values()) or "plain"


encodings = pytest.mark.parametrize("options", ENCODINGS, ids=named)


def data_of(case, generator, count=5):
    pixels = torch.randn(count, case.in_channels, generator=generator, dtype=torch.float64)
    return pixels, weights_of(case, generator)


def bound_of(engine):
    """How far values may be from exact ones: what the engine's fits have left, and rounding."""
    left = engine.last_report.max_encoding_error
    assert left < 5e-4
    return left + 1e-9


# Without noise all is equal.

NOISELESS = [
    Case(1, 2, 1),
    Case(2, 3, 1, "circuit_centric", 2),
    Case(4, 5, 2),
    Case(5, 7, 3),
    Case(8, 4, 3, "figure1", 2),
    Case(6, 4, 3, "circuit_centric", 1),
    Case(13, 6, 4, "figure1", 3),
    Case(16, 6, 4, "strongly_entangling", 2),
    Case(19, 12, 5, "strongly_entangling", 1),
    Case(2, 2, 1, "user1"),
    Case(3, 3, 2, "user2"),
    Case(8, 4, 3, "user3"),
]
DTYPES = [torch.float32, torch.float64]


class TestWithoutNoise:
    @pytest.mark.parametrize(
        ("options", "dtype"),
        [*((each, torch.float64) for each in ENCODINGS), (SHALLOW, torch.float32)],
        ids=lambda value: named(value) if isinstance(value, dict) else str(value),
    )
    @pytest.mark.parametrize("case", NOISELESS, ids=str)
    def test_values_equal_the_reference(self, case, dtype, options, generator):
        """Pixels that are zero, sparse, equal, huge and tiny among them."""
        pixels = pixels_of(case.in_channels, generator, dtype)
        weights = weights_of(case, generator, dtype)
        engine = EstimatorEngine(**options)
        found = evs_of(engine, case.spec(), pixels, weights)
        assert found.dtype == dtype
        expected = case_features(
            case, pixels.double().numpy(), weights.double().numpy(), torch.finfo(dtype).tiny
        )
        atol = bound_of(engine) + (1e-6 if dtype == torch.float32 else 0)
        np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=atol)

    def test_the_engine_tells_what_a_brickwall_leaves(self, generator):
        """Each pixel within its own bound: the exact ones are not let off."""
        case = Case(16, 6, 4)
        pixels, weights = data_of(case, generator, 20)
        engine = EstimatorEngine(encoder="brickwall")
        values = evs_of(engine, case.spec(), pixels, weights)
        errors = (values - evs_of(ExactEngine(), case.spec(), pixels, weights)).abs().numpy()
        encoded = make_encoder("brickwall", 4).encode(canonical_directions(pixels))
        assert (errors <= error_bound(encoded.infidelity).numpy()[:, None, None] + 1e-9).all()
        assert errors.max() > 1e-12  # or it was the multiplexor
        assert errors.max() <= engine.last_report.max_encoding_error < 5e-4
        assert engine.last_report.encoder == "brickwall"

    @encodings
    def test_equal_pixels_are_run_once(self, options, generator):
        case = Case(5, 7, 3)  # K = 3
        pixels, weights = data_of(case, generator, 3)
        zeros = torch.zeros(2, 5, dtype=torch.float64)
        many = torch.cat([pixels, -2.5 * pixels, pixels[:1], zeros])
        engine = EstimatorEngine(**options)
        found = evs_of(engine, case.spec(), many, weights)
        assert engine.last_report.num_executions == (3 + 1) * 3
        torch.testing.assert_close(found[3:6], found[:3], rtol=0, atol=0)
        expected = evs_of(ExactEngine(), case.spec(), many, weights).numpy()
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=bound_of(engine))

    @encodings
    def test_no_pixels(self, options):
        case = Case(5, 7, 3)
        spec = case.spec()
        weights = torch.zeros(spec.num_kernels, spec.num_weights)
        engine = EstimatorEngine(**options, num_references=6)
        assert evs_of(engine, spec, torch.zeros(0, 5), weights).shape == (0, 3, 3)
        assert engine.last_report.num_executions == 0

    @encodings
    def test_references_of_a_perfect_device_change_nothing(self, options, generator):
        case = Case(5, 7, 3)
        pixels, weights = data_of(case, generator)
        plain = EstimatorEngine(**options)
        referred = EstimatorEngine(**options, num_references=7)
        values = evs_of(plain, case.spec(), pixels, weights).numpy()
        found = evs_of(referred, case.spec(), pixels, weights).numpy()
        assert referred.last_report.num_executions == 5 * 3 + 7
        assert referred.last_report.num_rows == 5 * 3
        # A brickwall's references are off by its bound, and so are scale and offset.
        atol = 1e-9 if options.get("encoder") != "brickwall" else 5e-4
        np.testing.assert_allclose(found, values, rtol=0, atol=atol)


READOUTS = [(0.02, 0.07), (0.1, 0.01), (0.03, 0.03)]


def misread():
    """Qubits that do nothing wrong but read: P(1|0) and P(0|1) of each."""
    noise = NoiseModel()
    for qubit, (one, zero) in enumerate(READOUTS):
        noise.add_readout_error(ReadoutError([[1 - one, one], [zero, 1 - zero]]), [qubit])
    return noise


@pytest.mark.parametrize("is_misread", [False, True])
def test_a_tail_with_flips(is_misread, generator):
    """Parities with minus signs."""
    circuit = QuantumCircuit(3)
    for qubit, angle in enumerate(ParameterVector("angle", 3)):
        circuit.ry(angle, qubit)
    circuit.cx(0, 1)
    circuit.x([0, 2])
    circuit.cx(1, 2)
    circuit.swap(0, 2)
    spec = make_spec(8, 3, ansatz=circuit)
    pixels = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    weights = torch.randn(spec.num_kernels, 3, generator=generator, dtype=torch.float64)
    options = {"noise_model": misread()} if is_misread else {}
    engine = EstimatorEngine.from_backend("aer", absorb_tail=True, **options)
    found = evs_of(engine, spec, pixels, weights)
    assert engine.prepare(spec).template.circuit.num_nonlocal_gates() == 4  # the encoder's
    exact = evs_of(ExactEngine(), spec, pixels, weights)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


GRADIENTS = [
    Case(2, 3, 1, "circuit_centric", 2),
    Case(3, 5, 2),
    Case(5, 4, 3, "figure1", 2),
    Case(5, 4, 3, "strongly_entangling", 2),
    Case(3, 3, 2, "user2"),
    Case(8, 4, 3, "user3"),
]


class TestGradients:
    @pytest.mark.parametrize("case", GRADIENTS, ids=str)
    def test_equal_those_of_the_exact_engine(self, case, generator):
        spec = case.spec()
        pixels, weights = data_of(case, generator, 3)
        grad = grad_of(case, 3, generator)
        engine, exact = EstimatorEngine(absorb_tail=True), ExactEngine()
        for found, expected in zip(
            vjp_of(engine, spec, pixels, weights, grad),
            vjp_of(exact, spec, pixels, weights, grad),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        for found, expected in zip(
            jacobian_of(engine, spec, pixels, weights),
            jacobian_of(exact, spec, pixels, weights),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)

    def test_weights_that_left_the_circuit(self, generator):
        """The last rz of every qubit only turns phases: of it nothing depends, exactly."""
        case = Case(5, 4, 3, "strongly_entangling", 2)
        spec = case.spec()
        engine = EstimatorEngine(absorb_tail=True)
        left = engine.prepare(spec).parts[0].columns
        gone = sorted(set(range(spec.ansatz.num_angles)) - set(left))
        assert gone == [9 + 2, 9 + 5, 9 + 8]  # 3n angles of a block, the third of each qubit
        pixels, weights = data_of(case, generator, 3)
        _, by_weights = jacobian_of(engine, spec, pixels, weights)
        assert (by_weights[..., gone] == 0).all()
        others = [i for i in range(spec.num_weights) if i not in gone]
        assert (by_weights[..., others].abs().amax(dim=(0, 1, 2)) > 1e-3).all()

    def test_with_a_brickwall(self, generator):
        """Derivatives by pixels are linear in values of other directions, each within its bound."""
        case = Case(3, 5, 2)
        pixels, weights = data_of(case, generator, 3)
        grad = grad_of(case, 3, generator)
        found = vjp_of(EstimatorEngine(**SHALLOW), case.spec(), pixels, weights, grad)
        exact = vjp_of(ExactEngine(), case.spec(), pixels, weights, grad)
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-2)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_backward_through_a_layer(self, dtype, generator):
        layer = Case(5, 4, 3, "figure1", 2).layer(generator, dtype)
        images = torch.randn(2, 5, 1, 2, generator=generator, dtype=dtype)
        found = []
        for engine in ("exact", EstimatorEngine(absorb_tail=True, num_references=6)):
            layer.engine = engine
            layer.zero_grad()
            leaf = images.clone().requires_grad_()
            layer(leaf).square().sum().backward()
            found.append((leaf.grad, *(p.grad for p in layer.parameters())))
        atol = 1e-4 if dtype == torch.float32 else 1e-8
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=atol)


# Packed is unpacked.


@cache
def device(name):
    return {"jakarta": FakeJakartaV2, "lagos": FakeLagosV2, "torino": FakeTorino, "fez": FakeFez}[
        name
    ]()


def exact_noise(name, **options):
    return EstimatorEngine.from_backend(device(name), precision=0, **options)


def patches_of(plan):
    """(M,) the patch on which each row ran."""
    return gather(np.zeros((*plan.slots.shape, 1)), plan.slots, plan.num_rows).patch


def on_each_patch(engine, case, pixels, weights, **options):
    """(J, N*K, n): values of an engine that knows one of the patches only."""
    prepared = engine.prepare(case.spec())
    found = []
    for j in range(prepared.num_patches):
        alone = exact_noise(engine.destination.about["noise"].removeprefix("fake_"), **options)
        alone.adopt(case.spec(), prepared.only(j))
        values = evs_of(alone, case.spec(), pixels, weights)
        assert alone.last_report.num_executions == len(pixels) * case.spec().num_kernels
        found.append(values.transpose(0, 1).flatten(0, 1).numpy())  # rows are kernel by kernel
    return np.stack(found)


PACKED = [
    ("lagos", Case(3, 5, 2), {"num_patches": 2, "absorb_tail": True}),
    ("torino", Case(2, 2, 1), {"num_patches": 7, "gap": 1}),
    *thorough(
        ("jakarta", Case(5, 5, 3, "figure1"), {"num_patches": 2, **SHALLOW}),
        ("jakarta", Case(5, 7, 3), {"num_patches": 2}),
        ("torino", Case(4, 3, 2), {"num_patches": 4, "encoder": "brickwall"}),
        ("torino", Case(5, 4, 3, "user3"), {"num_patches": 3, "gap": 2, "absorb_tail": True}),
    ),
]


class TestPackedIsUnpacked:
    @pytest.mark.parametrize(("name", "case", "options"), PACKED, ids=str)
    def test_rows_have_the_values_of_their_patch(self, name, case, options, generator):
        spec = case.spec()
        pixels, weights = data_of(case, generator)
        engine = exact_noise(name, **options)
        given = {k: v for k, v in options.items() if k not in ("num_patches", "gap")}
        alone = on_each_patch(engine, case, pixels, weights, **given)
        num_patches, num_rows = options["num_patches"], 5 * spec.num_kernels
        assert len(alone) == num_patches
        assert np.ptp(alone, axis=0).max() > 1e-3  # patches do differ
        prepared = engine.prepare(spec)
        for limits in (None, JobLimits(max_rows=2)):
            engine = exact_noise(name, **options, limits=limits)
            engine.adopt(spec, prepared)
            found = evs_of(engine, spec, pixels, weights).transpose(0, 1).flatten(0, 1).numpy()
            patch = patches_of(engine.plan(LayerCall(spec, pixels, weights)))
            assert len(set(patch)) == min(num_patches, num_rows)
            np.testing.assert_allclose(found, alone[patch, np.arange(num_rows)], rtol=0, atol=1e-9)
            executions = math.ceil(num_rows / num_patches)
            assert engine.last_report.num_executions == executions
            max_rows = executions if limits is None else limits.max_rows
            assert engine.last_report.num_pubs == math.ceil(executions / max_rows)

    @pytest.mark.parametrize(("name", "num_patches"), [("jakarta", 2), *thorough(("torino", 4))])
    def test_pinned_engines_say_the_same(self, name, num_patches, generator):
        """Nothing of the packed engine is used here but where its patches are."""
        case = Case(3, 5, 2)
        spec = case.spec()
        pixels, weights = data_of(case, generator)
        engine = exact_noise(name, num_patches=num_patches)
        found = evs_of(engine, spec, pixels, weights).transpose(0, 1).flatten(0, 1).numpy()
        patch = patches_of(engine.plan(LayerCall(spec, pixels, weights)))
        for j, placement in enumerate(engine.prepare(spec).placements):
            pinned = exact_noise(name, qubits=placement.patch.qubits)
            values = evs_of(pinned, spec, pixels, weights).transpose(0, 1).flatten(0, 1).numpy()
            assert pinned.last_report.patch == placement.patch.qubits
            np.testing.assert_allclose(found[patch == j], values[patch == j], rtol=0, atol=1e-9)

    def test_rows_that_are_fewer_than_patches(self, generator):
        case = Case(4, 2, 2)
        pixels, weights = data_of(case, generator, 1)
        engine = exact_noise("lagos", num_patches=2)
        found = evs_of(engine, case.spec(), pixels, weights)[0].numpy()
        alone = on_each_patch(engine, case, pixels, weights)
        assert engine.last_report.num_executions == 1
        np.testing.assert_allclose(found[0], alone[0, 0], rtol=0, atol=1e-9)

    @pytest.mark.parametrize(("references", "max_rows"), [(6, None), (9, 12)])
    def test_number_of_executions(self, references, max_rows, generator):
        case = Case(5, 7, 3)  # K = 3
        pixels, weights = data_of(case, generator, 7)
        limits = None if max_rows is None else JobLimits(max_rows=max_rows)
        engine = exact_noise("jakarta", num_patches=2, num_references=references, limits=limits)
        evs_of(engine, case.spec(), pixels, weights)
        report = engine.last_report
        asked = math.ceil(7 * 3 / 2)
        num_jobs = 1 if max_rows is None else math.ceil(asked / (max_rows - references))
        assert report.num_rows == 21
        assert report.num_pubs == num_jobs
        assert report.num_executions == engine.total_executions == asked + num_jobs * references
        forecast = engine.forecast(case.spec(), 7)
        assert (forecast.num_executions, forecast.num_jobs) == (report.num_executions, num_jobs)

    @pytest.mark.parametrize(
        ("kind", "options"), [("generic", {**SHALLOW, "gap": 1}), ("vendor", {})]
    )
    @pytest.mark.filterwarnings("ignore:.*has no QubitProperties:UserWarning")
    def test_the_whole_circuit_through_backend_estimator(self, kind, options, generator):
        """12 qubits in one circuit, on a device without errors; 45 values within five standard
        errors."""
        case = Case(5, 7, 3)
        pixels, weights = data_of(case, generator)
        line = CouplingMap.from_line(12)
        backend = (
            GenericBackendV2(12, coupling_map=line, noise_info=False, seed=1)
            if kind == "generic"
            else FakeVendorBackend(3, 4)
        )
        engine = EstimatorEngine.from_backend(backend, shots=2000, seed=3, num_patches=2, **options)
        found = evs_of(engine, case.spec(), pixels, weights)
        prepared = engine.prepare(case.spec())
        assert prepared.template.circuit.num_qubits == 12
        assert engine.last_report.num_executions == 8
        exact = evs_of(ExactEngine(), case.spec(), pixels, weights)
        stds = ((1 - exact**2).clamp(min=0.01) / 2000).sqrt()
        assert ((found - exact).abs() < 5 * stds + 5e-4).all()

    @pytest.mark.parametrize("backend", ["fake_jakarta", "aer"])
    def test_shots_of_patches_are_their_own(self, backend, generator):
        """The same patch twice, the same row on both: not the same shots."""
        case = Case(3, 2, 2)
        pixels, weights = data_of(case, generator, 1)
        options = {"noise_model": "fake_jakarta"} if backend == "aer" else {}
        engine = EstimatorEngine.from_backend(
            backend, shots=1000, seed=1, dedupe_grid=None, num_patches=2, **options
        )
        prepared = engine.prepare(case.spec())
        one = prepared.only(0)
        engine.adopt(
            case.spec(), replace(prepared, parts=one.parts * 2, placements=one.placements * 2)
        )
        values = evs_of(engine, case.spec(), pixels.expand(2, 3), weights)
        assert engine.last_report.num_executions == 1
        assert (values[0] != values[1]).all()

    def test_costs_and_times(self):
        """A shot takes as long as on the slowest patch, and as many rows as there are patches."""
        spec = Case(5, 7, 3).spec()  # K = 3
        plain = EstimatorEngine.from_backend("fake_jakarta", shots=1000)
        packed = EstimatorEngine.from_backend("fake_jakarta", shots=1000, num_patches=2)
        times = []
        for placement in packed.prepare(spec).placements:
            alone = EstimatorEngine.from_backend(
                "fake_jakarta", shots=1000, qubits=placement.patch.qubits
            )
            times.append(alone.prepare(spec).times)
        found = packed.prepare(spec).times
        assert found.circuit == max(each.circuit for each in times)
        assert found.circuit > min(each.circuit for each in times)
        assert found.reset == max(each.reset for each in times)
        one, two = plain.forecast(spec, 60), packed.forecast(spec, 60)
        assert (one.num_executions, two.num_executions) == (180, 90)
        per_shot = found.total()
        assert two.qpu_seconds == pytest.approx(2 * two.num_jobs + 90 * 1000 * per_shot)
        assert two.qpu_seconds < one.qpu_seconds

    def test_gradients(self, generator):
        """A device without errors, exact values of it: all that can differ is the order."""
        case = Case(3, 5, 2)
        pixels, weights = data_of(case, generator, 2)
        grad = grad_of(case, 2, generator)
        packed = exact_noise("jakarta", num_patches=2)
        for j in range(2):  # both parts on the same patch: no row can tell where it ran
            prepared = packed.prepare(case.spec())
            one = prepared.only(j)
            both = replace(prepared, parts=one.parts * 2, placements=one.placements * 2)
            packed.adopt(case.spec(), both)
            alone = exact_noise("jakarta")
            alone.adopt(case.spec(), one)
            for found, expected in zip(
                vjp_of(packed, case.spec(), pixels, weights, grad),
                vjp_of(alone, case.spec(), pixels, weights, grad),
                strict=True,
            ):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
            packed.forget(case.spec())


# The circuit of all patches.


def template_of(case, encoding):
    encoder = make_encoder(encoding.get("encoder", "multiplexor"), case.num_qubits)
    absorbs = encoding.get("absorb_tail", False)
    return make_template(encoder, case.spec().ansatz, absorbs_tail=absorbs)


def wide(case, backend, encoding, **packing):
    """In the backend's full width; features are what is measured, readout errors and all."""
    template = template_of(case, encoding)
    return embedded(template, backend, packing=Packing(**packing), inverts=False)


def planned(case, pixels, weights, prepared, encoding):
    """Executions of the wide circuit, as an engine makes them."""
    engine = EstimatorEngine(**encoding)
    engine.adopt(case.spec(), prepared)
    return engine.plan(LayerCall(case.spec(), pixels, weights))


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("lagos", {}), *thorough(("jakarta", SHALLOW))],
)
@pytest.mark.slow
def test_patches_are_independent(name, encoding, generator):
    """What PatchwiseEstimator takes for granted, with IBM's noise model of the whole device.

    One side: the density matrix of all 7 qubits under the model of the whole device. Other side:
    two density matrices of 3 qubits, under the model that is built for each patch. Readout
    errors of the single qubits act on the outcomes' probabilities on both sides.
    """
    case = Case(5, 7, 3)
    pixels, weights = data_of(case, generator, 3)
    prepared = wide(case, device(name), encoding, num_patches=2)
    plan = planned(case, pixels, weights, prepared, encoding)
    assert plan.slots.shape == (5, 2)
    model = NoiseModel.from_backend(device(name))
    job = AerEstimator(model).run([make_pub(prepared.template, plan.values(), 0.0)])
    whole = job.result()[0].data.evs
    assert whole.shape == (6, 5)
    patchwise = patch_by_patch_of(name, case, encoding, plan.values())
    np.testing.assert_allclose(patchwise, whole, rtol=0, atol=1e-7)
    job = AerEstimator().run([make_pub(prepared.template, plan.values(), 0.0)])
    assert np.abs(job.result()[0].data.evs - whole).max() > 0.1  # noise there was


def patch_by_patch_of(name, case, encoding, values):
    """(J*n, W) of executions, from a simulation of each patch by itself."""
    destination = aer(device(name))
    template = template_of(case, encoding)
    prepared = simulated(template, device(name), packing=Packing(num_patches=2), inverts=False)
    estimator = destination.connect(prepared)
    assert isinstance(estimator, PatchwiseEstimator)
    return estimator.run([make_pub(prepared.template, values, 0.0)]).result()[0].data.evs


@pytest.mark.parametrize("name", ["lagos", *thorough("jakarta")])
def test_inverted_readout_of_the_whole_circuit(name, generator):
    """What a device's calibration tells of its readout is undone: gate errors alone are left."""
    case = Case(5, 7, 3)
    pixels, weights = data_of(case, generator, 3)
    two = Packing(num_patches=2)
    prepared = embedded(template_of(case, SHALLOW), device(name), packing=two)
    assert len(prepared.inversions) == 2
    plan = planned(case, pixels, weights, prepared, SHALLOW)
    good = NoiseModel.from_backend(device(name), readout_error=False)
    noise = NoiseModel.from_backend(device(name), readout_error=False)
    told = device(name).properties()
    for qubit in range(7):
        wrong = (
            told.qubit_property(qubit, "prob_meas1_prep0")[0],
            told.qubit_property(qubit, "prob_meas0_prep1")[0],
        )
        assert wrong[0] != wrong[1]
        matrix = [[1 - wrong[0], wrong[0]], [wrong[1], 1 - wrong[1]]]
        noise.add_readout_error(ReadoutError(matrix), [qubit])

    def run(model, prepared):
        job = AerEstimator(model).run([make_pub(prepared.template, plan.values(), 0.0)])
        evs = job.result()[0].data.evs.T
        return features(prepared, evs, np.zeros_like(evs), None)[0]

    plain = wide(case, device(name), SHALLOW, num_patches=2)
    found = run(noise, prepared)
    np.testing.assert_allclose(found, run(good, plain), rtol=0, atol=1e-9)
    assert np.abs(run(noise, plain) - found).max() > 0.01


def test_readout_errors_alone_are_undone_exactly(generator):
    """Parities of a device that does nothing wrong but read."""
    case = Case(5, 7, 3)
    pixels, weights = data_of(case, generator)
    noise = misread()
    engine = EstimatorEngine.from_backend("aer", noise_model=noise, absorb_tail=True)
    found = evs_of(engine, case.spec(), pixels, weights)
    exact = evs_of(ExactEngine(), case.spec(), pixels, weights)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
    raw = EstimatorEngine.from_backend("aer", noise_model=noise)
    assert (evs_of(raw, case.spec(), pixels, weights) - exact).abs().max() > 0.01


def measured(prepared, values, simulator, shots):
    """(J*n,) of one execution of a wide circuit, from counts; no estimator is asked."""
    template = prepared.template
    circuit = template.circuit.assign_parameters(
        dict(zip(template.parameters, values, strict=True))
    )
    used = sorted(q for each in prepared.placements for q in each.patch.qubits)
    circuit.add_register(ClassicalRegister(len(used), "outcome"))
    circuit.measure(used, range(len(used)))
    counts = simulator.run(circuit, shots=shots).result().get_counts()
    bits = np.array([[int(b) for b in reversed(text)] for text in counts])
    weights = np.array(list(counts.values())) / shots
    found = []
    for observable in template.observables:
        ((label, qubits, coefficient),) = observable.to_sparse_list()
        assert set(label) == {"Z"}
        parity = bits[:, [used.index(q) for q in qubits]].sum(axis=1)
        found.append(coefficient.real * float(weights @ (-1.0) ** parity))
    return np.array(found)


def test_counts_of_a_noisy_device_agree(generator):
    """Aer's own measurement, with its own readout errors, of one execution; 6 values within five
    standard errors."""
    case = Case(5, 7, 3)
    pixels, weights = data_of(case, generator, 2)
    prepared = wide(case, device("lagos"), SHALLOW, num_patches=2)
    row = planned(case, pixels, weights, prepared, SHALLOW).values()[0]
    noise = NoiseModel.from_backend(device("lagos"))
    simulator = AerSimulator(method="density_matrix", noise_model=noise, seed_simulator=1)
    found = measured(prepared, row, simulator, 100_000)
    expected = patch_by_patch_of("lagos", case, SHALLOW, row[None])[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 / math.sqrt(100_000))


@pytest.mark.parametrize(
    ("name", "case", "num_patches"),
    [("torino", Case(5, 6, 3), 5), *thorough(("fez", Case(64, 12, 6), 13))],  # K = 2
    ids=str,
)
def test_many_patches_at_once(name, case, num_patches, generator):
    """The whole circuit, up to 78 qubits of a device, from counts of a matrix product state.

    156 values within five standard errors: one run in ten thousand has one beyond.
    """
    n = case.num_qubits
    pixels, weights = data_of(case, generator, num_patches)
    prepared = wide(case, device(name), SHALLOW, num_patches=num_patches)
    assert prepared.template.circuit.num_qubits == device(name).num_qubits
    assert len(prepared.template.observables) == num_patches * n
    plan = planned(case, pixels, weights, prepared, SHALLOW)
    assert plan.slots.shape == (2, num_patches)
    shots = 2000
    simulator = AerSimulator(method="matrix_product_state", seed_simulator=2)
    found = np.stack([measured(prepared, row, simulator, shots) for row in plan.values()])
    sorted_ = gather(found.reshape(2, num_patches, n), plan.slots, plan.num_rows)
    values = sorted_.values.reshape(2, num_patches, n).swapaxes(0, 1)
    exact = evs_of(ExactEngine(), case.spec(), pixels, weights).numpy()
    stds = np.sqrt(np.maximum(1 - exact**2, 0.01) / shots)
    assert (np.abs(values - exact) < 5 * stds + 5e-4).all()


class TestPatches:
    @pytest.mark.parametrize(
        ("name", "num_qubits", "packing", "encoding"),
        [
            ("jakarta", 3, {"num_patches": 2}, SHALLOW),
            ("torino", 4, {"num_patches": 8, "gap": 1}, {}),
            ("torino", 3, {"num_patches": 6, "gap": 2}, SHALLOW),
            ("fez", 2, {"num_patches": None, "gap": 1}, {}),
        ],
    )
    def test_are_disjoint_connected_and_native(self, name, num_qubits, packing, encoding):
        case = Case(2**num_qubits, 2, num_qubits, "strongly_entangling", 1)
        prepared = wide(case, device(name), encoding, **packing)
        target = device(name).target
        check_isa(prepared.template.circuit, target)
        assert prepared.num_patches == len(prepared.placements)
        assert prepared.num_patches == (packing["num_patches"] or prepared.num_patches) > 1
        edges = {frozenset(pair) for pair in target.build_coupling_map().get_edges()}
        near = {q: {r for e in edges if q in e for r in e} for q in range(target.num_qubits)}
        patches = [set(each.patch.qubits) for each in prepared.placements]
        blocked = set()
        for patch in patches:
            assert len(patch) == num_qubits
            assert not patch & blocked
            reached = {min(patch)}
            for _ in range(num_qubits):
                reached |= set().union(*(near[q] & patch for q in reached))
            assert reached == patch
            for _ in range(packing.get("gap", 0)):
                patch = patch.union(*(near[q] for q in patch))
            blocked |= patch
        circuit = prepared.template.circuit
        touched = {circuit.find_bit(q).index for each in circuit.data for q in each.qubits}
        assert touched == set().union(*patches)
        for instruction in circuit.data:  # no gate joins two patches
            qubits = {circuit.find_bit(q).index for q in instruction.qubits}
            assert any(qubits <= patch for patch in patches)

    def test_one_is_the_best(self, generator):
        """As before there was packing."""
        prepared = exact_noise("torino").prepare(Case(5, 7, 3).spec())
        assert prepared.num_patches == 1
        assert prepared.template is prepared.parts[0]
        packed = exact_noise("torino", num_patches=3).prepare(Case(5, 7, 3).spec())
        assert packed.placement == packed.placements[0]
        fidelities = [each.patch.fidelity for each in packed.placements]
        assert fidelities == sorted(fidelities, reverse=True)


# Calibration.


def errors_on(name, case, generator, **options):
    """Errors (N, K, n) of raw and of calibrated values of the same run."""
    pixels, weights = data_of(case, generator, 12)
    exact = evs_of(ExactEngine(), case.spec(), pixels, weights)
    found = []
    for calibrate in (False, True):
        engine = exact_noise(
            name, num_references=2 * case.num_qubits, calibrate=calibrate, **options
        )
        found.append((evs_of(engine, case.spec(), pixels, weights) - exact).numpy())
    return found


class TestCalibration:
    @pytest.mark.parametrize(
        ("encoding", "num_patches", "factor"),
        [({}, 1, 5.0), (SHALLOW, 1, 3.5), *thorough(({}, 3, 5.0), (SHALLOW, 3, 3.5))],
    )
    def test_takes_most_of_the_error(self, num_patches, encoding, factor, generator):
        """Measured: 9 and 11 times, and 7 for parities, whose readout is inverted before."""
        raw, calibrated = errors_on(
            "torino", Case(8, 6, 3), generator, num_patches=num_patches, **encoding
        )
        ratio = np.abs(raw).mean() / np.abs(calibrated).mean()
        assert ratio > factor

    def test_is_reported(self, generator):
        case = Case(5, 7, 3)
        pixels, weights = data_of(case, generator)
        options = {"num_patches": 2, "num_references": 6, "limits": JobLimits(max_rows=10)}
        engine = exact_noise("jakarta", **options)
        evs_of(engine, case.spec(), pixels, weights)
        report = engine.last_report
        placements = engine.prepare(case.spec()).placements
        assert report.patches == tuple(each.patch.qubits for each in placements)
        assert report.num_references == 6
        assert report.calibration.applied
        assert np.shape(report.calibration.scale) == (report.num_pubs, 2, 3) == (2, 2, 3)
        assert 0.2 < np.min(report.calibration.scale) < np.max(report.calibration.scale) < 1
        assert np.abs(report.calibration.offset).max() < 0.2
        assert json.loads(json.dumps(report.to_dict()))["num_references"] == 6
        plain = exact_noise("jakarta", num_patches=2)
        evs_of(plain, case.spec(), pixels, weights)
        assert plain.last_report.calibration is None

    def test_can_be_left_out(self, generator):
        case = Case(5, 7, 3)
        pixels, weights = data_of(case, generator)
        spec = case.spec()
        options = {"num_patches": 2, "num_references": 6, "calibrate": False}
        engine = exact_noise("jakarta", **options)
        raw = evs_of(engine, spec, pixels, weights).transpose(0, 1).flatten(0, 1).numpy()
        alone = on_each_patch(engine, case, pixels, weights)
        patch = patches_of(engine.plan(LayerCall(spec, pixels, weights)))
        np.testing.assert_allclose(raw, alone[patch, np.arange(15)], rtol=0, atol=1e-9)
        calibrated = exact_noise("jakarta", **{**options, "calibrate": True})
        assert (
            np.abs(
                evs_of(calibrated, spec, pixels, weights).numpy()
                - raw.reshape(3, 5, 3).swapaxes(0, 1)
            ).max()
            > 0.01
        )

    def test_calibration_costs_precision(self, generator):
        """What the line is not sure of is in the standard errors."""
        case = Case(4, 2, 2)
        pixels, weights = data_of(case, generator, 6)
        options = {"num_patches": 2, "num_references": 8, "shots": 400, "seed": 5, **SHALLOW}
        stds = []
        for calibrate in (True, False):
            engine = EstimatorEngine.from_backend(
                "aer", noise_model=device("jakarta"), calibrate=calibrate, **options
            )
            evs_of(engine, case.spec(), pixels, weights)
            stds.append(engine.last_report.stds[0])
        assert (stds[0] > stds[1]).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("encoding", [{}, SHALLOW], ids=named)
    def test_standard_errors_are_those_of_the_calibrated_values(self, encoding, generator):
        """Pulls against exact noisy, calibrated values, in 30 runs of 400 shots.

        They are not independent: all rows of a patch share its line. Parities are those of readouts
        that were inverted.
        """
        case = Case(4, 2, 2)
        pixels, weights = data_of(case, generator, 6)
        options = {"num_patches": 2, "num_references": 8, **encoding}
        truth = evs_of(exact_noise("jakarta", **options), case.spec(), pixels, weights).numpy()
        pulls = []
        engine = EstimatorEngine.from_backend(
            "aer", noise_model=device("jakarta"), shots=400, seed=5, **options
        )
        for _ in range(30):
            values = evs_of(engine, case.spec(), pixels, weights).numpy()
            (stds,) = engine.last_report.stds
            pulls.append((values - truth) / stds.numpy())
        pulls = np.array(pulls)
        spread = pulls.std(axis=0)
        assert 0.9 < np.sqrt((pulls**2).mean()) < 1.15
        assert np.abs(spread - 1).max() < 5 / math.sqrt(2 * 30)


# What cannot be.


def refused(error, message, backend="fake_jakarta", case=Case(5, 7, 3), **options):  # noqa: B008
    """Refused before anything is run, at the latest when the circuit is prepared."""
    with pytest.raises(error, match=message):
        EstimatorEngine.from_backend(backend, **options).prepare(case.spec())


class TestFallbacks:
    """A direction that an encoder cannot prepare; brickwalls that are too shallow have many."""

    CASE = Case(8, 4, 3)

    def engine(self, encoder, **options):
        return EstimatorEngine(encoder=encoder, **options)

    def test_a_deeper_one_takes_over(self, generator):
        pixels, weights = data_of(self.CASE, generator)
        spec = self.CASE.spec()
        engine = self.engine("brickwall:1")
        exact = evs_of(ExactEngine(), spec, pixels, weights)
        assert engine.encoder(spec) == "brickwall:1"
        found = evs_of(engine, spec, pixels, weights)
        assert (found - exact).abs().max() <= bound_of(engine)
        assert engine.encoder(spec) == engine.last_report.encoder == "brickwall"
        assert engine.last_report.num_fallbacks == len(pixels)
        assert engine.last_report.to_dict()["num_fallbacks"] == len(pixels)
        assert engine.total_executions == engine.last_report.num_rows  # none of the first try
        evs_of(engine, spec, pixels, weights)
        assert engine.last_report.encoder == "brickwall"
        assert engine.last_report.num_fallbacks == 0  # it has moved before

    def test_the_multiplexor_at_last(self, generator, monkeypatch):
        monkeypatch.setattr("qpc_qiskit.circuits.brickwall.FAILURE", -1.0)
        tried = []
        pixels, weights = data_of(self.CASE, generator)
        engine = self.engine("brickwall", num_references=6)
        fall_back = engine.fall_back
        engine.fall_back = lambda spec: (tried.append(engine.encoder(spec)), fall_back(spec))[1]
        found = evs_of(engine, self.CASE.spec(), pixels, weights)
        exact = evs_of(ExactEngine(), self.CASE.spec(), pixels, weights)
        np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=0, atol=1e-9)
        assert tried == ["brickwall", "brickwall:5"]
        assert engine.last_report.encoder == "multiplexor"
        assert engine.last_report.max_encoding_error == 0
        assert engine.last_report.num_fallbacks == len(pixels) + 6  # reference rows are rows
        assert not engine.fall_back(self.CASE.spec())
        assert engine.encoder(self.CASE.spec()) == "multiplexor"

    def test_encoders_of_as_many_angles_are_told_apart(self, generator):
        """Of three qubits, brickwall:2 has seven angles as the multiplexor has."""
        pixels, weights = data_of(self.CASE, generator)
        spec = self.CASE.spec()
        first = self.engine("brickwall:2")
        while first.encoder(spec) != "multiplexor":
            assert first.fall_back(spec)
        frozen = thaw(freeze(first.prepare(spec)))
        second = self.engine("brickwall:2")
        second.adopt(spec, frozen)
        assert second.encoder(spec) == "multiplexor"
        sparse = torch.eye(8, dtype=pixels.dtype)[:3]
        exact = evs_of(ExactEngine(), spec, sparse, weights)
        found = evs_of(second, spec, sparse, weights)
        np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=0, atol=1e-6)

    def test_other_layers_stay(self, generator):
        engine, other = self.engine("brickwall:3"), Case(16, 4, 4)
        for case in (self.CASE, other):
            evs_of(engine, case.spec(), *data_of(case, generator))
        assert engine.encoder(self.CASE.spec()) == "brickwall"  # three layers suffice
        assert engine.encoder(other.spec()) == "brickwall"  # five do
        assert engine.last_report.num_fallbacks == 5
        one = Case(2, 2, 1)  # one rotation, whatever the depth
        evs_of(engine, one.spec(), *data_of(one, generator))
        assert engine.last_report.num_fallbacks == 0

    def test_gradients_fall_back(self, generator):
        pixels, weights = data_of(self.CASE, generator, 2)
        spec, engine = self.CASE.spec(), self.engine("brickwall:1")
        grad = grad_of(self.CASE, 2, generator)
        found = vjp_of(engine, spec, pixels, weights, grad)
        expected = vjp_of(ExactEngine(), spec, pixels, weights, grad)
        assert engine.encoder(spec) == "brickwall"
        assert engine.last_report.num_fallbacks > 0
        for own, exact in zip(found, expected, strict=True):
            np.testing.assert_allclose(own.numpy(), exact.numpy(), rtol=0, atol=1e-2)

    def test_on_a_device(self, generator):
        """The circuit of the deeper one is placed and checked, and connected anew."""
        pixels, weights = data_of(self.CASE, generator, 3)
        options = {"precision": 0, "num_patches": 2}
        values = []
        for encoder in ("brickwall:1", "brickwall"):
            engine = EstimatorEngine.from_backend(FakeLagosV2(), encoder=encoder, **options)
            values.append(evs_of(engine, self.CASE.spec(), pixels, weights))
            gates = engine.last_report.num_two_qubit_gates
        assert torch.equal(*values)
        assert gates == engine.last_report.num_two_qubit_gates

    def test_plans_fail_until_told_to_fall_back(self, generator):
        """What a durable run does, whose circuits are frozen."""
        pixels, weights = data_of(self.CASE, generator)
        spec, engine = self.CASE.spec(), self.engine("brickwall:1")
        first = engine.prepare(spec)
        with pytest.raises(FitFailed, match="Begin anew with encoder='brickwall:3' or encoder='mu"):
            engine.plan(LayerCall(spec, pixels, weights))
        assert engine.prepare(spec) is first
        assert engine.fall_back(spec)
        second = engine.prepare(spec)
        plan = engine.plan(LayerCall(spec, pixels, weights))
        assert plan.encoder == "brickwall"
        assert plan.rows.num_columns == len(second.parts[0].parameters)
        engine.forget(spec)  # to be placed anew
        assert engine.encoder(spec) == "brickwall"

        again = self.engine("brickwall:1")
        again.adopt(spec, second)
        assert again.encoder(spec) == "brickwall"
        assert torch.equal(
            evs_of(again, spec, pixels, weights),
            evs_of(self.engine("brickwall"), spec, pixels, weights),
        )
        again.adopt(spec, first)
        assert again.encoder(spec) == "brickwall:1"
        exact = self.engine("multiplexor")
        again.adopt(spec, exact.prepare(spec))
        assert again.encoder(spec) == "multiplexor"
        with pytest.raises(EngineError, match=r"is multiplexor on 3 qubits, .* takes 9 "):
            exact.adopt(spec, second)

    def test_fits_are_told(self, generator):
        pixels, weights = data_of(self.CASE, generator)
        engine, told = self.engine("brickwall"), []
        evs_of(engine, self.CASE.spec(), pixels[:1], weights)
        engine.on_fit = lambda *numbers: told.append(numbers)
        evs_of(engine, self.CASE.spec(), pixels, weights)
        assert told[-1] == (len(pixels) - 1, len(pixels) - 1)  # the first is known

    def test_copies(self, generator):
        engine = self.engine("brickwall:1")
        engine.on_fit = lambda done, total: None
        evs_of(engine, self.CASE.spec(), *data_of(self.CASE, generator))
        copied = pickle.loads(pickle.dumps(engine))
        assert copied.on_fit is None
        assert copied.encoder(self.CASE.spec()) == "brickwall:1"


class TestBadInput:
    @pytest.mark.parametrize("number", [0, -1, 1.0, 1.5, "2", True])
    def test_numbers_of_patches(self, number):
        with pytest.raises(ValueError, match="num_patches must be a positive integer"):
            EstimatorEngine.from_backend("fake_jakarta", num_patches=number)

    def test_more_patches_than_fit(self):
        refused(
            BackendError,
            "Expected 3 disjoint patches for the 3 qubits .* found 2 .* Ask for at most 2",
            num_patches=3,
        )
        refused(BackendError, "found 1 with gap=4 .* gap", num_patches=2, gap=4)

    @pytest.mark.parametrize("packing", [{"num_patches": 2}, {"num_patches": None}])
    def test_aer_has_no_patches(self, packing):
        refused(ValueError, "num_patches has no effect on aer", "aer", **packing)
        noise = NoiseModel.from_backend(device("lagos"))
        refused(ValueError, "num_patches has no effect on aer", "aer", noise_model=noise, **packing)

    def test_an_estimator_of_ones_own_has_none(self):
        with pytest.raises(TypeError, match="num_patches"):
            EstimatorEngine(AerEstimator(), num_patches=2)

    @pytest.mark.parametrize("packing", [{"num_patches": 2}, {"gap": 1}, {"num_patches": None}])
    def test_chosen_qubits_are_one_patch(self, packing):
        refused(ValueError, "qubits are those of one patch", qubits=(0, 1, 2), **packing)

    @pytest.mark.parametrize("number", [1, 2, None])
    @pytest.mark.parametrize("gap", [-1, 1.5, True])
    def test_gaps(self, gap, number):
        with pytest.raises(ValueError, match="gap must be a number of qubits, 0 or more"):
            EstimatorEngine.from_backend("fake_jakarta", num_patches=number, gap=gap)

    @pytest.mark.parametrize("backend", ["aer", "fake_jakarta"])
    def test_a_gap_of_one_patch(self, backend):
        refused(ValueError, "gap has no effect on one patch", backend, gap=1)

    @pytest.mark.parametrize("encoder", ["angle", "", None])
    def test_unknown_encoders(self, encoder):
        with pytest.raises(ValueError, match=r"Unknown encoder .* multiplexor, brickwall"):
            EstimatorEngine(encoder=encoder)

    def test_brickwalls_are_narrow(self):
        case = Case(130, 8, 8)
        with pytest.raises(ValueError, match=r"takes 1 to 7 qubits, got 8\. Use the multiplexor"):
            EstimatorEngine(encoder="brickwall").prepare(case.spec())

    def test_too_few_references(self, generator):
        case = Case(5, 7, 3)
        pixels, weights = data_of(case, generator, 1)
        engine = EstimatorEngine(num_references=5)
        for call in (
            lambda: engine.prepare(case.spec()),
            lambda: engine.forecast(case.spec(), 3),
            lambda: evs_of(engine, case.spec(), pixels, weights),
        ):
            with pytest.raises(ValueError, match="num_references must be at least 6 for 3 qubits"):
                call()
        assert engine.total_executions == 0

    @pytest.mark.parametrize("number", [-1, -6, 6.0, 2.5, "8", None, True])
    def test_numbers_of_references(self, number):
        with pytest.raises(ValueError, match="num_references must be a positive integer"):
            EstimatorEngine(num_references=number)

    def test_what_is_no_truth_value(self):
        for name in ("absorb_tail", "calibrate"):
            with pytest.raises(TypeError, match=f"{name} must be True or False, got 'yes'"):
                EstimatorEngine(num_references=8, **{name: "yes"})
        with pytest.raises(ValueError, match="calibrate=False has no effect without"):
            EstimatorEngine(calibrate=False)

    def test_shifts_of_what_left_the_circuit_are_not_run(self, generator):
        """Each kernel's last n rotations: all their shifts are one row, that of no shift."""
        case = Case(5, 7, 3)
        pixels, weights = data_of(case, generator, 1)
        counts = []
        for absorbs in (False, True):
            engine = EstimatorEngine(absorb_tail=absorbs)
            vjp_of(
                engine, case.spec(), pixels, weights, torch.ones(1, 3, 3).double(), (False, True)
            )
            counts.append(engine.total_executions)
        left = len(engine.prepare(case.spec()).parts[0].columns)
        shifts = 2 * (case.spec().ansatz.num_angles - left)
        assert shifts == 6
        assert counts[0] - counts[1] == case.spec().num_kernels * (shifts - 1)

    def test_a_job_without_room_for_references(self, generator):
        case = Case(5, 7, 3)
        pixels, weights = data_of(case, generator, 1)
        engine = EstimatorEngine(num_references=6, limits=JobLimits(max_rows=6))
        with pytest.raises(EngineError, match="besides 6 reference rows"):
            evs_of(engine, case.spec(), pixels, weights)


def test_jobs_of_the_wrong_width_are_refused(generator, monkeypatch):
    """An estimator that answers for one patch only."""
    case = Case(5, 7, 3)
    pixels, weights = data_of(case, generator)
    engine = exact_noise("jakarta", num_patches=2)
    prepared = engine.prepare(case.spec())
    alone = engine.destination.connect(prepared.only(0))

    def send(destination, estimator, template, rows, precision, settings):
        return alone.run([make_pub(prepared.parts[0], rows[:, : rows.shape[1] // 2], precision)])

    monkeypatch.setattr(jobs, "send", send)
    with pytest.raises(EngineError, match="expected shape"):
        evs_of(engine, case.spec(), pixels, weights)


def test_one_patch_is_the_default():
    assert Packing() == ONE_PATCH
