"""Durable runs with many patches at a time, brickwalls, absorbed tails and reference rows."""

import shutil
from contextlib import suppress
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from cases import evs_of
from durable_runs import RULES, Clock, Script, check_paid_once, images, moved_by_batch, watch
from ledgers import make_rows, planned, rows_of, tiles
from qiskit.primitives import DataBin, PubResult
from qiskit_aer.noise import NoiseModel
from qiskit_ibm_runtime.fake_provider import FakeJakartaV2, FakeManilaV2
from tiers import thorough
from torch import nn

from hardware_runs import durable
from hardware_runs.durable_engine.circuits import circuit_key
from hardware_runs.ledger import FrozenRows, Ledger
from qpc_qiskit import EstimatorEngine, ExactEngine, QuantumPointwiseConv2d, use_engine
from qpc_qiskit.backends import destinations
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.backends.patchwise import PatchwiseEstimator
from qpc_qiskit.engines import LayerCall
from qpc_qiskit.errors import BackendError, EngineError, FitFailed, ResultsPending
from qpc_qiskit.rows.frozen import freeze, thaw
from qpc_qiskit.rows.planning import JobPlan
from qpc_qiskit.rows.pubs import JobLimits, Rows, make_pub, product_pairs
from qpc_qiskit.rows.slots import wide_values
from qpc_qiskit.rows.unpacking import features, unpack

pytestmark = pytest.mark.usefixtures("no_backoff")

SHALLOW = {"encoder": "brickwall", "absorb_tail": True}
PACKED = {**SHALLOW, "num_patches": 2, "mode": "batch", "shots": 256}
TWO, THREE = {**PACKED, "num_references": 5}, {**PACKED, "num_references": 6}


def network(channels=4, width=3, seed=0):
    """Two quantum layers with a ReLU between them."""
    generator = torch.Generator().manual_seed(seed)
    return nn.Sequential(
        QuantumPointwiseConv2d(channels, width, generator=generator),
        nn.ReLU(),
        QuantumPointwiseConv2d(width, 3, generator=generator),
    ).eval()


def single(channels=4, width=3):
    """The first of its layers, for what needs no second one."""
    return network(channels, width)[:1].eval()


def pixels(number, channels=4):
    """(number, channels, 1, 1)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, channels, 1, 1, generator=generator)


class Device:
    """A stand-in's device, and the scripts that run on it."""

    def __init__(self, standin, name, path, given):
        self.standin, self.name, self.path, self.given = standin, name, path, given
        self.clock = Clock(standin)

    def script(self, model=None, **given):
        """A script of its own process: a new backend, a new network."""
        backend = self.standin.service().backend(self.name)
        given = {"rules": RULES, **self.given, **given}
        return Script(self.path, backend, self.clock, model or network(), **given)

    @property
    def jobs(self):
        return self.standin.records()["jobs"]


@pytest.fixture
def device(start, empty_ledger, tmp_path):
    """device(name, given..., rules=...) -> a stand-in with noise."""

    def device(name="ibm_lagos", given=TWO, **rules):
        standin = start(**{"noisy": True, **rules})
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite"
        return Device(standin, name, shutil.copy(empty_ledger, path), given)

    return device


@pytest.mark.parametrize(
    ("name", "model", "x", "given", "noisy"),
    [
        ("ibm_manila", network, pixels(2), TWO, True),
        pytest.param(
            "ibm_jakarta", lambda: network(8, 5), pixels(2, 8), THREE, True, marks=pytest.mark.slow
        ),
        *thorough(("ibm_lagos", network, pixels(2), {**TWO, "calibrate": False}, False)),
    ],
    ids=["n2", "n3", "raw"],
)
def test_equals_a_direct_run(device, name, model, x, given, noisy):
    """Begun image by image, gone on with all at once; on another stand-in, by the engine alone."""
    first = device(name, given, queue_seconds=20, noisy=noisy)
    with pytest.raises(ResultsPending):
        first.script(model()).once(x, 1)
    assert len(first.jobs) == len(x)
    values = first.script(model()).finish(x, len(x))
    assert len(first.jobs) == len(x) + 1
    check_paid_once(first.script(model()), first.standin)

    second = device(name, given, noisy=noisy)
    backend = second.standin.service().backend(name)
    layer, relu, last = moved_by_batch(model())
    with EstimatorEngine.from_backend(backend, **given) as engine, torch.no_grad():
        layer.engine = last.engine = engine
        hidden = torch.cat([layer(image[None]) for image in x])
        report = engine.last_report
        expected = last(relu(hidden))
    assert torch.equal(values, expected)
    assert sorted(j["program_sha256"] for j in first.jobs) == sorted(
        j["program_sha256"] for j in second.jobs
    )
    assert len(report.patches) == 2
    rows = layer.spec.num_kernels
    assert report.num_executions == -(-rows // 2) + given["num_references"]
    assert [each["mode"] for each in first.standin.records()["sessions"]] == ["batch"]


@pytest.mark.slow
def test_replay_sends_nothing(device):
    x = pixels(2)
    place = device(noisy=False)
    values = place.script().finish(x)
    jobs = place.jobs
    for size in (1, 2):
        assert torch.equal(place.script().once(x, size), values)
    assert place.jobs == jobs


def test_replay_without_the_device(device):
    x = pixels(2)
    place = device(noisy=False)
    script = place.script(single())
    script.backend = "ibm_lagos"
    values = script.finish(x)
    place.standin.stop()
    assert torch.equal(script.once(x, 2), values)
    with pytest.raises(BackendError, match="No access to ibm_lagos"):
        script.once(pixels(3), 3)


@pytest.mark.slow
def test_split_into_jobs(device):
    """Each has its own reference rows; as a direct run with the same limits."""
    limits = {"limits": JobLimits(max_rows=6)}
    x = pixels(2)
    place = device("ibm_lagos", TWO | limits, noisy=False)
    values = place.script().finish(x, 2)
    ledger, run_id = place.script().ledger()
    chunks = ledger.state(run_id).chunks(layer="0")
    rows = 2 * network()[0].spec.num_kernels
    assert len(chunks) == -(-rows // 2)
    assert {chunk.num_rows for chunk in chunks} == {1 + 5}
    other = device("ibm_lagos", TWO | limits, noisy=False)
    backend = other.standin.service().backend("ibm_lagos")
    model = moved_by_batch(network())
    with (
        EstimatorEngine.from_backend(backend, **TWO, **limits) as engine,
        torch.no_grad(),
        use_engine(model, engine),
    ):
        assert torch.equal(model(x), values)
    assert len(other.jobs) == len(place.jobs)


# What is kept.


def wide_text(prepared, values):
    """The circuit that is sent, with numbers in it; parameters have ids of their process."""
    template = prepared.template
    bound = template.circuit.assign_parameters(dict(zip(template.parameters, values, strict=True)))
    return bound, template.observables


def test_frozen_circuits_are_those_that_were_prepared(device, rng):
    place = device(noisy=False)
    script = place.script()
    with pytest.raises(ResultsPending):
        script.once(pixels(1))
    ledger, run_id = script.ledger()
    revision = ledger.state(run_id).revisions[-1]
    thawed = thaw(ledger.blob(run_id, revision.number, *revision.blobs))
    given = {name: value for name, value in TWO.items() if name != "mode"}
    with EstimatorEngine.from_backend(script.backend, **given) as engine:
        prepared = engine.prepare(network()[0].spec)
    values = rng.uniform(0, 6, len(prepared.template.parameters))
    for found in (thawed, thaw(freeze(thawed))):
        assert found.num_patches == 2
        assert found.width == 7
        for one, other in zip(found.placements, prepared.placements, strict=True):
            assert (one.patch, one.final) == (other.patch, other.final)
        assert found.times == prepared.times
        assert wide_text(found, values) == wide_text(prepared, values)
        names = [p.name for p in found.template.parameters]
        assert names == [p.name for p in prepared.template.parameters]
        for one, other in zip(found.inversions, prepared.inversions, strict=True):
            for name, array in vars(one).items():
                np.testing.assert_array_equal(array, getattr(other, name))


def test_frozen_rows_are_the_plan(device):
    """From another process' ledger: slots, known answers and angles, bit by bit."""
    x = pixels(3)
    place = device(noisy=False)
    script = place.script()
    with pytest.raises(ResultsPending):
        script.once(x, 3)
    ledger, run_id = Ledger(script.path), script.ledger()[1]
    (block,) = ledger.state(run_id).blocks("0")
    layer = network()[0]
    given = {name: value for name, value in TWO.items() if name != "mode"}
    with EstimatorEngine.from_backend(script.backend, **given) as engine:
        (weights,) = layer.parameters()
        plan = engine.plan(LayerCall(layer.spec, x[:, :, 0, 0], weights.detach()))
    rows = rows_of(ledger, block)
    assert len(rows.exact) == 5
    assert rows.slots.dtype == np.int64
    for name in ("slots", "exact", "which"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(plan, name))
    for name in ("encoder_angles", "ansatz_angles", "pairs"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(plan.rows, name))
    assert [(c.row_start, c.row_stop) for c in block.chunks] == [
        (p.start, p.stop) for p in plan.parts
    ]


def packed_rows(**changed):
    """6 rows and 2 reference rows on 2 patches: 5 executions."""
    rows = make_rows(num_pixels=6)
    more = np.stack([np.arange(2), np.zeros(2, int)], axis=1)
    slots = np.array([[0, 1], [6, 7], [3, 2], [7, 6], [4, 5]])
    pairs = np.concatenate([rows.pairs, more])
    rows = replace(rows, pairs=pairs, slots=slots, exact=np.full((2, 2), 0.5))
    return replace(rows, **changed)


GOOD = packed_rows().slots


def with_slot(value, at=(0, 0)):
    slots = GOOD.copy()
    slots[at] = value
    return slots


class TestLedger:
    @pytest.fixture
    def ledger(self, tmp_path):
        with Ledger(tmp_path / "runs.sqlite") as ledger:
            yield ledger

    def freeze(self, ledger, rows, num=5):
        run, _ = planned(ledger)
        plans = tiles(num)
        block, _ = ledger.freeze_block(run.id, "features.0", 4, 6, rows, plans, now=3.0)
        return run, block

    @pytest.mark.parametrize("spare", [-1, 6])
    def test_keeps_slots_and_known_answers(self, ledger, tmp_path, spare):
        rows = packed_rows()
        if spare != 6:
            rows = replace(rows, slots=np.concatenate([GOOD, [[-1, -1]]]))
        run, block = self.freeze(ledger, rows, len(rows.slots))
        with Ledger(tmp_path / "runs.sqlite") as other:
            (found,) = other.state(run.id).blocks("features.0", 4)
            frozen = rows_of(other, found)
        assert found.chunks == block.chunks
        for each in fields(FrozenRows):
            kept, given = getattr(frozen, each.name), getattr(rows, each.name)
            np.testing.assert_array_equal(kept, given)
            assert getattr(kept, "dtype", None) == getattr(given, "dtype", None)

    @pytest.mark.parametrize(
        ("slots", "message"),
        [
            (with_slot(8), "An index in slots is outside the 8 rows"),
            (with_slot(-2), "An index in slots is outside the 8 rows"),
            (GOOD[:, 0], r"Expected slots of .*int64.* with 2 dimensions; got int64"),
            (GOOD.astype(float), r"Expected slots of .*int64.*; got float64"),
            (with_slot(1), "Expected each of 6 rows once in slots"),  # row 0 nowhere
            (with_slot(-1), "Expected each of 6 rows once in slots"),
            (with_slot(6), "Expected each of 6 rows once in slots"),
            (with_slot(0, (1, 1)), "Expected each of 6 rows once in slots"),  # and twice
        ],
    )
    def test_refuses_wrong_slots(self, ledger, slots, message):
        with pytest.raises(ValueError, match=message):
            self.freeze(ledger, packed_rows(slots=slots))
        run = ledger.get_run("digits")
        assert ledger.state(run.id).blocks("features.0", 4) == ()

    def test_refuses_jobs_that_do_not_tile_the_executions(self, ledger):
        with pytest.raises(ValueError, match="chunks that tile 5 executions"):
            self.freeze(ledger, packed_rows(), 8)

    @pytest.mark.parametrize(
        ("number", "message"),
        [(1, "each of 7 rows once in slots"), (8, "besides 8 reference rows")],
    )
    def test_refuses_answers_that_are_no_rows(self, ledger, number, message):
        with pytest.raises(ValueError, match=message):
            self.freeze(ledger, packed_rows(exact=np.full((number, 2), 0.5)))


@pytest.mark.parametrize(
    "changed",
    [
        {"num_patches": 1},
        {"encoder": "multiplexor"},
        {"absorb_tail": False},
        {"num_references": 4},
        {"calibrate": False},
    ],
    ids=str,
)
def test_other_choices_are_another_run(path, changed):
    given = {**TWO, "mode": "job", "precision": 0, "shots": None}
    Script(path, "fake_lagos", model=single(), **given).engine()
    other = Script(path, "fake_lagos", model=single(), **{**given, **changed})
    with pytest.raises(EngineError, match=r"begun with other settings \(engine_options\)"):
        other.engine()


# What the values are.


@pytest.mark.parametrize(
    ("name", "fake", "channels", "given"),
    [
        ("ibm_manila", FakeManilaV2, 4, TWO),
        pytest.param("ibm_jakarta", FakeJakartaV2, 8, THREE, marks=pytest.mark.slow),
    ],
)
def test_values_are_exact_but_for_shots_and_what_calibration_leaves(
    device, name, fake, channels, given
):
    """The first layer's values: five standard errors from what the frozen executions give under
    the device's noise without shots, in the whole width, and that near the exact values."""
    x = pixels(4, channels)
    model = single(channels, 4)
    spec = model[0].spec
    place = device(name, {**given, "shots": 2000})
    place.script(model).finish(x, 4)
    ledger, run_id = place.script(model).ledger()
    (block,) = ledger.state(run_id).blocks("0")
    rows = rows_of(ledger, block)
    (result,) = ledger.results(ledger.state(run_id).all_chunks)
    prepared = thaw(ledger.blob(run_id, result.chunk.revision, circuit_key(spec)))
    plan = JobPlan(
        rows=Rows(rows.encoder_angles, rows.ansatz_angles, rows.pairs),
        num_rows=rows.num_rows,
        which=rows.which,
        slots=rows.slots,
        parts=(slice(0, len(rows.slots)),),
        seconds=None,
        exact=rows.exact,
    )
    noise = NoiseModel.from_backend(fake())
    wide = wide_values(plan.rows, plan.slots)
    job = AerEstimator(noise).run([make_pub(prepared.template, wide, 0.0)])
    evs = job.result()[0].data.evs.T
    without_shots = unpack(plan, *features(prepared, evs, np.zeros_like(evs), None))
    sampled = unpack(plan, *features(prepared, result.evs, result.stds, result.shots))
    pulls = (sampled.evs - without_shots.evs) / sampled.stds
    assert np.abs(pulls).max() < 5
    assert 0.3 < np.sqrt((pulls**2).mean()) < 2
    (weights,) = model[0].parameters()
    exact = evs_of(ExactEngine(), spec, x[:, :, 0, 0].double(), weights.detach().double())
    pairs = product_pairs(4, spec.num_kernels)
    errors = without_shots.evs[plan.which] - exact.numpy()[pairs[:, 0], pairs[:, 1]]
    raw = unpack(plan, *features(prepared, evs, np.zeros_like(evs), None), applies=False)
    before = raw.evs[plan.which] - exact.numpy()[pairs[:, 0], pairs[:, 1]]
    assert np.abs(errors).mean() < np.abs(before).mean() / 1.5
    assert np.abs(errors).max() < 0.15


def test_local_run_equals_a_direct_one(path):
    """Without shots; each patch by itself, since a copy of the device is simulated here."""
    given = {**SHALLOW, "num_patches": 3, "gap": 1, "num_references": 4, "precision": 0}
    x = images(2)
    model = network()
    script = Script(path, "fake_guadalupe", model=model, **given)
    values = script.once(x, 2)
    assert torch.equal(script.once(x, 1), values)
    with (
        EstimatorEngine.from_backend("fake_guadalupe", **given) as engine,
        torch.no_grad(),
        use_engine(model, engine),
    ):
        torch.testing.assert_close(model(x), values, rtol=0, atol=1e-6)


def test_a_patch_that_dies(device, monkeypatch):
    """What is not sent yet moves to as many patches elsewhere; what was sent is kept."""
    rules = replace(RULES, max_in_flight=1)
    given = {**PACKED, "num_references": 2, "shots": 1024, "rules": rules}
    place = device("ibm_jakarta", given, noisy=False)
    model = nn.Sequential(
        QuantumPointwiseConv2d(2, 2, generator=torch.Generator().manual_seed(0))
    ).eval()
    x = pixels(3, 2)
    with pytest.raises(ResultsPending):
        place.script(model).once(x, 1)
    assert len(place.jobs) == 1
    ledger, run_id = place.script(model).ledger()

    def patches(number):
        (name,) = ledger.state(run_id).revisions[number - 1].blobs
        blob = ledger.blob(run_id, number, name)
        return [placement.patch.qubits for placement in thaw(blob).placements]

    before = patches(ledger.state(run_id).chunks()[0].revision)
    lost = before[1][0]
    bad = frozenset({lost}), frozenset()
    monkeypatch.setattr(destinations, "faulty", lambda backend: bad)
    place.standin.recalibrate()
    values = place.script(model).finish(x)
    attempts = ledger.state(run_id).attempts()
    revisions = [each.revision for each in attempts]
    assert revisions[0] != revisions[1] == revisions[2]
    after = patches(revisions[1])
    assert len(after) == len(before) == 2
    assert all(lost not in patch for patch in after)
    check_paid_once(place.script(model), place.standin)
    with torch.no_grad():  # 1024 shots, calibrated by references of as many
        torch.testing.assert_close(values, model(x), atol=0.3, rtol=0)


def patches(ledger, run_id, revision):
    """Qubits of the patches of the first layer's circuit in a revision."""
    key = circuit_key(ledger.state(run_id).layers[0].spec)
    circuit = thaw(ledger.blob(run_id, revision, key))
    return [placement.patch.qubits for placement in circuit.placements]


def executed(ledger, run_id, layer):
    """Rows that were run, by what the results and their slots say; and how often each."""
    counts = {}
    for block in ledger.state(run_id).blocks(layer):
        rows = rows_of(ledger, block)
        num_rows = rows.num_rows
        for chunk in block.chunks:
            slots = rows.slots[chunk.row_start : chunk.row_stop]
            for row in slots[(slots >= 0) & (slots < num_rows)]:
                counts[block.id, int(row)] = counts.get((block.id, int(row)), 0) + 1
        assert {row for of, row in counts if of == block.id} == set(range(num_rows))
    return counts


@pytest.mark.parametrize(
    "wanted", [2, *thorough(None)], ids=["as many as asked", "as many as there are"]
)
def test_a_patch_is_lost(device, monkeypatch, wanted):
    """Two were asked for and one is left: its rows are dealt anew, and the run ends as it would."""
    rules = replace(RULES, max_in_flight=1)
    place = device("ibm_lagos", {**TWO, "num_patches": wanted, "rules": rules}, noisy=False)
    x = pixels(3)
    with pytest.raises(ResultsPending):
        place.script(single()).once(x, 1)
    ledger, run_id = place.script().ledger()
    first = ledger.state(run_id).chunks()[0]
    assert len(patches(ledger, run_id, first.revision)) == 2
    bad = frozenset({5}), frozenset()  # what is left is a star: any two pairs share its middle
    with monkeypatch.context() as patch:
        patch.setattr(destinations, "faulty", lambda backend: bad)
        script = place.script(single())
        values = script.finish(x)
        assert torch.equal(place.script(single()).finish(x, 3), values)
    check_paid_once(place.script(), place.standin)
    chunks = ledger.state(run_id).chunks(layer="0")
    found = [patches(ledger, run_id, chunk.revision) for chunk in chunks]
    assert [len(each) for each in found] == [2, 1, 1]
    assert all(5 not in patch for each in found[1:] for patch in each)
    assert set(executed(ledger, run_id, "0").values()) == {1}
    replaced = set(ledger.state(run_id).all_chunks) - set(ledger.state(run_id).chunks())
    assert replaced
    assert {chunk.state for chunk in replaced} == {"unsent"}
    with torch.no_grad():  # noiseless, 256 shots, calibrated by references of as many
        torch.testing.assert_close(values, script.model(x), atol=0.5, rtol=0)
    if wanted:  # with none of the asked ones left to choose, the survivor went on
        told = [each.reason for each in ledger.state(run_id).revisions]
        assert any("without 1 of 2 patches" in reason for reason in told)
        assert any("Expected 2 disjoint patches" in reason for reason in told)


class Died(BaseException):
    """A process that ends."""


@pytest.mark.parametrize(
    "deaths",
    [
        {1, 2, 3},
        *(pytest.param(each, marks=pytest.mark.slow) for each in ({1}, {2}, {3}, {1, 3, 5})),
    ],
    ids=str,
)
@pytest.mark.slow
def test_dying_while_rows_are_dealt_anew(device, monkeypatch, deaths):
    """After a step of it: the next process goes on, and the values are the same."""
    rules = replace(RULES, max_in_flight=1)
    x = pixels(3)
    steps = ("add_circuits", "deal_anew", "move_unsent_chunks")

    def run(deaths):
        place = device("ibm_lagos", {**TWO, "rules": rules}, noisy=False)
        with pytest.raises(ResultsPending):
            place.script(single()).once(x, 1)
        count = 0

        def die(name):
            nonlocal count
            count += 1
            if count in deaths:
                raise Died(name)

        bad = frozenset({5}), frozenset()
        with monkeypatch.context() as patch:
            patch.setattr(destinations, "faulty", lambda backend: bad)
            for _ in range(10):
                script = place.script(single())
                with Ledger(place.path) as ledger, suppress(Died):
                    watch(ledger, steps, die)
                    values = script.finish(x, ledger=ledger)
                    break
        check_paid_once(script, place.standin)
        ledger, run_id = script.ledger()
        assert set(executed(ledger, run_id, "0").values()) == {1}
        return values, count

    values, count = run(())
    assert count == 3  # one revision, and two blocks with rows that were not sent
    again, number = run(deaths)
    assert torch.equal(again, values)
    assert number == count  # nothing is done twice


def test_no_patch_is_left(device, monkeypatch):
    """Told, and nothing is sent; the rest goes on when they are back."""
    rules = replace(RULES, max_in_flight=1)
    place = device("ibm_lagos", {**TWO, "rules": rules}, noisy=False)
    x = pixels(2)
    with pytest.raises(ResultsPending):
        place.script(single()).once(x, 1)
    bad = frozenset(range(7)), frozenset()
    with monkeypatch.context() as patch:
        patch.setattr(destinations, "faulty", lambda backend: bad)
        with pytest.raises(BackendError, match="no 2 connected healthy qubits"):
            place.script(single()).finish(x)
    assert len(place.jobs) == 1
    assert place.script(single()).finish(x).shape == (2, 3, 1, 1)
    check_paid_once(place.script(), place.standin)


@pytest.fixture
def spoilt(monkeypatch):
    """spoilt(patch qubits) -> from now on, values of that patch on this machine mean little."""
    spoilt = set()
    run_pub = PatchwiseEstimator._run_pub

    def _run_pub(self, pub):
        data = dict(run_pub(self, pub).data)
        width = len(data["evs"]) // self._prepared.num_patches
        for j, placement in enumerate(self._prepared.placements):
            if placement.patch.qubits in spoilt:
                data["evs"][j * width : (j + 1) * width] *= 0.02
        return PubResult(DataBin(**data, shape=data["evs"].shape))

    monkeypatch.setattr(PatchwiseEstimator, "_run_pub", _run_pub)
    return spoilt.add


def local(path, **given):
    """An engine on this machine, of three patches with the noise of a device."""
    given = {
        "noise_model": FakeJakartaV2(),
        "num_patches": 2,
        "num_references": 12,
        "shots": 4096,
        "seed": 3,
        "limits": JobLimits(max_rows=16),
        **given,
    }
    return durable(path, "run", "aer", wait=True, **given)


def test_a_bad_patch_is_dropped(path, spoilt):
    """Rows that were not run yet leave it; what it measured stays, and is told."""
    x, model = pixels(6), network()
    with local(path) as engine:
        prepared = engine._estimator.prepare(model[0].spec)
    spoilt(prepared.placements[1].patch.qubits)
    with local(path) as engine, torch.no_grad(), use_engine(model, engine):
        values = torch.cat(engine.map(model, x.split(3)))
    with Ledger(path) as ledger:
        run_id = ledger.get_run("run").id
        chunks = ledger.state(run_id).chunks(layer="0")
        found = [patches(ledger, run_id, chunk.revision) for chunk in chunks]
        good = [prepared.placements[0].patch.qubits]
        assert found[0] == [placement.patch.qubits for placement in prepared.placements]
        assert found[1:] == [good] * len(found[1:])
        assert len(found) > 2
        assert set(executed(ledger, run_id, "0").values()) == {1}
        reasons = [each.reason for each in ledger.state(run_id).revisions]
        assert any("without 1 of 2 patches" in reason and "scale" in reason for reason in reasons)
        jobs = len(ledger.state(run_id).attempts())
    assert values.isfinite().all()
    with local(path) as engine, torch.no_grad(), use_engine(model, engine):
        assert torch.equal(torch.cat(engine.map(model, x.split(2))), values)
    with Ledger(path) as ledger:
        assert len(ledger.state(run_id).attempts()) == jobs


def test_references_disagree_everywhere(path, spoilt):
    """With nothing better at hand the run goes on with the patches that it has, and says so."""
    x, model = pixels(4), network()
    with local(path) as engine:
        prepared = engine._estimator.prepare(model[0].spec)
    for placement in prepared.placements:
        spoilt(placement.patch.qubits)
    with local(path) as engine, torch.no_grad(), use_engine(model, engine):
        values = torch.cat(engine.map(model, x.split(2)))
        told = engine.patch_records()
    with Ledger(path) as ledger:
        run_id = ledger.get_run("run").id
        for chunk in ledger.state(run_id).chunks():
            assert len(patches(ledger, run_id, chunk.revision)) == 2
    assert values.isfinite().all()
    of_layer = [each for each in told if each.layer == "0"]
    assert [each.qubits for each in of_layer] == [p.patch.qubits for p in prepared.placements]
    assert all("scale" in problem for each in of_layer for problem in each.problems)
    assert all(each.num_not_calibrated and each.problems for each in of_layer)


def test_an_encoder_that_falls_back(path):
    """One that is too shallow for the second image: frozen rows keep it, further ones do not."""
    model = network(8, 5)
    x = torch.cat([torch.eye(8)[:1, :, None, None], pixels(2, 8)])
    for batch in (1, 3):
        with (
            durable(path, "run", "aer", encoder="brickwall:1", wait=True) as engine,
            torch.no_grad(),
            use_engine(model, engine),
        ):
            values = torch.cat(engine.map(model, x.split(batch)))
        with torch.no_grad():
            torch.testing.assert_close(values, model(x), atol=1e-3, rtol=0)
        with Ledger(path) as ledger:
            run_id = ledger.get_run("run").id
            frozen = ledger.rows(ledger.state(run_id).blocks("0"))
            angles = [rows.encoder_angles.shape[1] for rows in frozen]
            assert len(angles) == 3
            assert angles[0] < angles[1] == angles[2]
            reasons = [each.reason for each in ledger.state(run_id).revisions]
    assert sum("Encoded by brickwall" in reason for reason in reasons) == 1


@pytest.mark.slow
def test_a_bad_patch_and_an_encoder_that_fell_back(device, monkeypatch):
    """Rows of the old encoder stay where they are; nothing keeps the run from its end."""
    rules = replace(RULES, max_in_flight=1)
    place = device("ibm_lagos", {**TWO, "rules": rules}, noisy=False)
    x, calls, plan = pixels(4), [], EstimatorEngine.plan

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 4:  # the fourth image; three are frozen, and the first is sent
            raise FitFailed("One direction cannot be fitted.", 1)
        return plan(self, *arguments)

    monkeypatch.setattr(EstimatorEngine, "plan", failing)
    monkeypatch.setattr(
        "hardware_runs.durable_engine.revising.bad_patches",
        lambda known: {1: "Patch 1, qubit 0: spoilt."} if len(known.scale) == 2 else {},
    )
    with pytest.raises(ResultsPending):
        place.script(single()).once(x, 1)
    values = place.script(single()).finish(x)
    assert torch.equal(place.script(single()).once(x, 4), values)
    check_paid_once(place.script(), place.standin)
    ledger, run_id = place.script().ledger()
    assert set(executed(ledger, run_id, "0").values()) == {1}
    frozen = ledger.rows(ledger.state(run_id).blocks("0"))
    angles = [rows.encoder_angles.shape[1] for rows in frozen]
    assert angles[0] == angles[1] == angles[2] < angles[3]
    reasons = [each.reason for each in ledger.state(run_id).revisions]
    assert sum("Encoded by" in reason for reason in reasons) == 1
    assert any("spoilt" in reason for reason in reasons)


def test_new_places_that_are_known_to_be_bad(device, monkeypatch):
    """Where references found them bad: what is left of the old ones is used."""
    place = device("ibm_lagos", TWO, noisy=False)
    script = place.script()
    with script.engine() as engine:
        spec, circuits, estimator = script.model[0].spec, engine._circuits, engine._estimator
        first = circuits.revision_with(spec)
        prepared = circuits.thawed(first, circuit_key(spec))
        one, two = (each.patch.qubits for each in prepared.placements)
        monkeypatch.setattr(circuits, "can_run", lambda revision, *_: revision > first)
        monkeypatch.setattr(estimator, "prepare", lambda spec: prepared.subset([0]))
        second = circuits.revision_with(spec, {one[::-1]: "Patch 0: spoilt."})
        assert [p.patch.qubits for p in circuits.thawed(second, circuit_key(spec)).placements] == [
            two
        ]
        monkeypatch.setattr(estimator, "prepare", lambda spec: prepared)
        monkeypatch.setattr(circuits, "can_run", lambda revision, key: revision > second)
        third = circuits.revision_with(spec, {one[::-1]: "Patch 0: spoilt."})
        assert [p.patch.qubits for p in circuits.thawed(third, circuit_key(spec)).placements] == [
            two
        ]
        reasons = [each.reason for each in engine.ledger.state(engine.run.id).revisions]
        assert "lost, or found bad" in reasons[-2]
        assert "placed anew" in reasons[-1]
        assert "spoilt" in reasons[-1]
