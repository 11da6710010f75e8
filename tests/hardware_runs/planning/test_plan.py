import json
import math

import pytest
import torch
from torch import nn

from hardware_runs.durable_engine.beginning import durable
from hardware_runs.ledger import Ledger
from hardware_runs.planning import comparison
from hardware_runs.planning.comparison import ways
from hardware_runs.planning.plan import make_plan, planning_engine
from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.devices.forecast import SECONDS_PER_JOB, cap_seconds
from qpc_qiskit.engines import LayerCall
from qpc_qiskit.errors import BackendError, BudgetError, EngineError
from qpc_qiskit.options.economy import BEST, PLAIN, Economy


@pytest.fixture
def model(generator):
    return nn.Sequential(
        QuantumPointwiseConv2d(4, 4, generator=generator),
        nn.ReLU(),
        QuantumPointwiseConv2d(4, 3, generator=generator),
    ).eval()


@pytest.fixture
def images(generator):
    return torch.randn(6, 4, 2, 2, generator=generator)


def planned(model, images, backend="fake_manila", batch=4, **options):
    ours = {"shots", "precision", "resilience", "noise_model", "dedupe_grid"}
    engine = planning_engine(
        backend, **{name: options[name] for name in (ours | {"mode"}) & set(options)}
    )
    rest = {name: value for name, value in options.items() if name not in ours}
    return make_plan(model, images.split(batch), engine, **rest)


def test_rows_are_counted_before_and_after_merging(model, images):
    images[5] = images[0] * 3
    plan = planned(model, torch.cat([images, images[:2]]), shots=100)
    first, second = plan.layers
    assert (first.name, second.name) == ("0", "2")
    assert first.num_pixels == second.num_pixels == 8 * 4
    assert first.num_rows == 8 * 4 * 2
    # The second call has image 5 and, once more, image 0, which points the same way.
    assert first.num_executions == 7 * 4 * 2
    assert first.num_jobs == 2
    assert plan.num_rows == first.num_rows + second.num_rows
    assert plan.num_executions == first.num_executions + second.num_executions


@pytest.mark.parametrize("backend", ["fake_manila", "aer"])
def test_no_rows_are_merged_if_asked_for(model, images, backend):
    plan = planned(model, images[[0, 0, 0, 0]], backend, shots=100, dedupe_grid=None)
    assert plan.num_executions == plan.num_rows
    assert plan.assumptions[0] == "Every pixel is run on its own, as asked for (--no-dedupe)."
    assert planned(model, images[[0, 0, 0, 0]], backend, shots=100).num_executions < plan.num_rows


def test_a_precision_is_so_many_shots(model, images):
    """Exact values are none that a device gives: then the snapshot itself is planned for."""
    assert planned(model, images, precision=0.05).to_dict() == (
        planned(model, images, shots=400).to_dict()
    )
    assert planned(model, images, precision=0.05).shots == 400
    exact = planned(model, images, precision=0)
    assert (exact.backend, exact.shots) == ("aer", None)


def test_caps_are_those_of_the_dispatcher(model, images):
    plan = planned(model, images, shots=500, batch=6, margin=2.0)
    for layer in plan.layers:
        assert layer.num_jobs == 1
        assert layer.reserved_seconds == cap_seconds(layer.qpu_seconds, 2.0)


def test_the_formula(model, images):
    plan = planned(model, images, shots=500, rate=2.0, max_qpu_seconds=1000)
    for layer in plan.layers:
        each = layer.rep_delay_seconds + layer.reset_seconds + layer.circuit_seconds
        assert layer.seconds_per_shot == pytest.approx(each)
        expected = SECONDS_PER_JOB * layer.num_jobs + layer.num_executions * 500 * each
        assert layer.qpu_seconds == pytest.approx(expected)
        assert layer.reserved_seconds >= math.ceil(1.5 * expected)
    assert plan.cost == pytest.approx(2 * plan.qpu_seconds)
    assert plan.is_within_budget
    plan.check_budget()


def test_mitigation_costs_more(model, images):
    plain, trex, zne = (planned(model, images, shots=128, resilience=r) for r in (0, 1, 2))
    assert plain.layers[0].shots_per_execution == trex.layers[0].shots_per_execution == 128
    assert (plain.layers[0].shots_per_job, trex.layers[0].shots_per_job) == (0, 128)
    assert zne.layers[0].shots_per_execution == 3 * 128
    assert plain.qpu_seconds < trex.qpu_seconds < zne.qpu_seconds
    assert any("128 shots to calibrate readout" in sentence for sentence in trex.assumptions)
    assert any("nothing is executed besides" in sentence for sentence in plain.assumptions)


def test_what_the_prediction_stands_on(model, images):
    told = "\n".join(
        planned(model, images, "fake_fez", shots=64, mode="session", rate=1).assumptions
    )
    for words in (
        "2 s and, for every shot", "250 us", "calibration of 2025-02-26", "1.5 times its forecast",
        "grid of 2^-20", "Rows of 2 follow from exact values", "billed by the clock",
        "priced at 1, as given", "fake_fez stands for the device", "None of this was verified on a",
        "At most 5 jobs",
    ):  # fmt: skip
        assert words in told


def test_the_plan_is_for_the_device_not_its_simulation(model, images):
    """156 qubits a shot, and jobs as large as the service takes them."""
    assert planning_engine("fake_fez").prepare(model[0].spec).template.circuit.num_qubits == 156
    assert planned(model, torch.randn(70, 4, 4, 4), batch=70, shots=64).layers[0].num_jobs == 1


def test_what_if(model, images):
    plan = planned(model, images, shots=64, rate=0.5, batch_size=24)
    found = {(w.num_images, w.shots, w.pooling): w for w in plan.what_if}
    assert set(found) == {(n, s, p) for n in (1, 6, 24) for s in (16, 64, 256) for p in (1, 2)}
    same = found[6, 64, 1]
    assert same.num_executions == pytest.approx(plan.num_executions, abs=4)
    assert found[6, 64, 2].num_executions == pytest.approx(plan.num_executions / 4, abs=4)
    assert found[6, 256, 1].qpu_seconds > same.qpu_seconds > found[6, 16, 1].qpu_seconds
    assert same.cost == pytest.approx(same.qpu_seconds / 2)
    assert found[24, 64, 1].num_jobs == 2  # one call of 24 images for each layer


def test_no_pooling_where_there_is_one_position(model, images):
    plan = planned(model, images[:, :, :1, :1], shots=64)
    assert {w.pooling for w in plan.what_if} == {1}


def test_aer_has_no_price(model, images):
    plan = planned(model, images, "aer", rate=1.0)
    assert (plan.shots, plan.qpu_seconds, plan.cost, plan.is_within_budget) == (None,) * 4
    assert plan.what_if == ()
    assert plan.reserved_seconds == 0
    with pytest.raises(BudgetError, match=r"what the run takes on aer .* is not known"):
        planned(model, images, "aer", max_qpu_seconds=5).check_budget()


def test_more_than_the_budget(model, images):
    plan = planned(model, images, shots=64, max_qpu_seconds=3)
    assert plan.is_within_budget is False
    with pytest.raises(BudgetError, match=r"about 9\.\d s .* and the budget is 3 s"):
        plan.check_budget()


def test_a_plan_is_plain_values(model, images):
    told = planned(model, images, shots=64).to_dict()
    assert json.loads(json.dumps(told))["num_jobs"] == 4
    assert told["layers"][0]["num_rows"] == 48


def test_nothing_to_plan(model, images):
    with pytest.raises(EngineError, match="expected at least one image"):
        planned(model, images[:0])
    with pytest.raises(BackendError, match="Unknown backend 'fake_trino'"):
        planning_engine("fake_trino")
    with pytest.raises(ValueError, match="no quantum pointwise convolution"):
        planned(nn.Flatten(), images)


def test_the_run_sends_what_was_planned(model, images, tmp_path):
    """First layer only: values of a simulated device differ, and with them later rows."""
    plan = planned(model, images, shots=32)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        engine = durable(ledger, "run", "fake_manila", shots=32, seed=1)
        with engine, torch.no_grad(), use_engine(model, engine):
            engine.map(model, images.split(4))
        sent = ledger.state(engine.run.id).chunks(layer="0")
    assert sum(chunk.num_rows for chunk in sent) == plan.layers[0].num_executions
    assert len(sent) == plan.layers[0].num_jobs
    forecast = sum(chunk.predicted_seconds for chunk in sent)
    assert forecast == pytest.approx(plan.layers[0].qpu_seconds)


# patches, short circuits, reference rows

SHORT = Economy(encoder="brickwall", absorb_tail=True, num_patches=None, num_references=4)


def economical(model, images, economy, backend="fake_manila", compare=False, shots=64, **options):
    def open_engine(each):
        return planning_engine(backend, shots=shots, **each.for_engine())

    return make_plan(
        model,
        images.split(4),
        open_engine(economy),
        economy=economy,
        compare_with=open_engine if compare else None,
        **options,
    )


@pytest.mark.parametrize("economy", [SHORT, Economy(num_patches=2), Economy(num_references=5)])
def test_the_numbers_are_those_of_the_engine(model, images, economy):
    """A plan encodes no pixel; what it counts is what the engine that encodes them would send."""
    images[3] = 2 * images[0]
    found = economical(model, images, economy).layers[0]
    engine = planning_engine("fake_manila", shots=64, **economy.for_engine())
    layer = model[0]
    pixels = [batch.movedim(1, -1).reshape(-1, 4).double() for batch in images.split(4)]
    plans = [engine.plan(LayerCall(layer.spec, each, layer.weight.double())) for each in pixels]
    assert found.num_unique_rows == sum(plan.num_rows for plan in plans) == 5 * 4 * 2
    assert found.num_executions == sum(len(plan.slots) for plan in plans)
    assert found.num_jobs == sum(len(plan.parts) for plan in plans) == 2
    assert found.qpu_seconds == pytest.approx(sum(plan.total_seconds for plan in plans))


def test_rows_share_executions(model, images):
    """Five qubits in a line hold two patches of two."""
    plain = economical(model, images, PLAIN).layers[0]
    packed = economical(model, images, Economy(num_patches=None, num_references=6)).layers[0]
    assert (plain.num_unique_rows, plain.num_executions, plain.num_references) == (48, 48, 0)
    assert (packed.num_unique_rows, packed.num_executions) == (48, 48 / 2 + 2 * 6)
    assert len(packed.patches) == len(packed.fidelities) == 2
    assert not set(packed.patches[0]) & set(packed.patches[1])
    assert packed.patch == packed.patches[0]
    assert packed.predicted_fidelity == packed.fidelities[0] >= packed.fidelities[1]
    assert packed.reserved_seconds >= math.ceil(1.5 * packed.qpu_seconds)


def test_how_circuits_are_kept_short(model, images):
    plain = economical(model, images, PLAIN).layers[0]
    short = economical(model, images, SHORT).layers[0]
    assert (plain.encoder, plain.num_absorbed, plain.inverts_readout) == (
        "multiplexor", None, False,
    )  # fmt: skip
    assert (short.encoder, short.num_absorbed, short.num_absorbed_two_qubit) == ("brickwall", 4, 2)
    assert short.inverts_readout
    assert short.two_qubit_depth < plain.two_qubit_depth


def test_no_tail_is_found(generator, images):
    layer = QuantumPointwiseConv2d(4, 4, ansatz="circuit_centric", generator=generator)
    model = nn.Sequential(layer).eval()
    plan = economical(model, images, Economy(absorb_tail=True), compare=True)
    assert plan.layers[0].num_absorbed == 0
    assert [choice.name for choice in plan.choices] == [
        "as asked", "plain", "packed", "packed, brickwall", "packed, brickwall, references",
        "recommended",
    ]  # fmt: skip
    assert plan.choices[-1].economy == BEST.for_qubits(2)


def test_choices(model, images):
    plan = economical(model, images, SHORT.changed(num_references=0), compare=True, rate=2.0)
    found = {choice.name: choice for choice in plan.choices}
    plain, packed, short, calibrated, best = plan.choices
    assert list(found) == [
        "plain", "packed", "packed, brickwall, tail", "packed, brickwall, tail, references",
        "recommended",
    ]  # fmt: skip
    assert best.economy == BEST.for_qubits(2)
    assert [choice.is_asked for choice in plan.choices] == [False, False, True, False, False]
    assert plain.num_patches == (1, 1)
    assert packed.num_patches == (2, 2)
    assert short.num_executions == plan.num_executions
    # Summed in another order.
    assert short.qpu_seconds == pytest.approx(plan.qpu_seconds, rel=1e-12)
    assert plain.num_executions == 2 * packed.num_executions == 2 * short.num_executions
    assert calibrated.num_executions == short.num_executions + 4 * plan.num_jobs
    assert plain.qpu_seconds > packed.qpu_seconds
    assert short.num_two_qubit_gates[0] < packed.num_two_qubit_gates[0]
    for choice in plan.choices:
        assert choice.cost == pytest.approx(2 * choice.qpu_seconds)
        assert choice.problem is None
        assert all(low <= high for low, high in choice.fidelity)
        # each is what the run itself would be planned as
        alone = economical(model, images, choice.economy)
        assert alone.num_executions == choice.num_executions
        assert alone.qpu_seconds == pytest.approx(choice.qpu_seconds)


def test_choices_at_equal_error(generator, images):
    """So many shots that one over the predicted fidelity, squared, is averaged down to plain's."""
    model = nn.Sequential(
        QuantumPointwiseConv2d(4, 4, generator=generator),
        QuantumPointwiseConv2d(4, 2, ansatz="figure1", num_layers=1, generator=generator),
    ).eval()
    plan = economical(model, images, PLAIN, compare=True, rate=2.0)
    plain = plan.choices[0]
    assert (plain.equal_error_shots, plain.equal_error_seconds) == (64, plain.qpu_seconds)
    assert len({choice.equal_error_shots for choice in plan.choices}) > 1
    for choice in plan.choices:
        alone = economical(model, images, choice.economy, shots=choice.equal_error_shots)
        assert choice.equal_error_seconds == pytest.approx(alone.qpu_seconds)
        needed = [
            64 * before.fidelities[0] ** 2 * sum(f**-2 for f in layer.fidelities)
            / len(layer.fidelities)
            for before, layer in zip(plan.layers, alone.layers, strict=True)
        ]  # fmt: skip
        assert choice.equal_error_shots == math.ceil(max(needed) - 1e-9)
        if choice.economy.num_patches is None:
            assert needed[0] != pytest.approx(needed[1])


def test_equal_error_that_is_not_known(model, images):
    def exact(economy):
        return planning_engine("fake_manila", precision=0, **economy.for_engine())

    plan = make_plan(model, [images], exact(PLAIN), compare_with=exact)
    assert {(c.equal_error_shots, c.equal_error_seconds) for c in plan.choices} == {(None, None)}

    def without_plain(economy):
        patches = 3 if economy == PLAIN else economy.num_patches
        return planning_engine(
            "fake_manila", shots=64, **economy.changed(num_patches=patches).for_engine()
        )

    asked = Economy(num_patches=2)
    plan = make_plan(model, [images], without_plain(asked), economy=asked,
                     compare_with=without_plain)  # fmt: skip
    assert plan.choices[0].problem is not None
    assert plan.choices[1].equal_error_shots is None


def test_so_many_shots_that_no_job_takes_them(model, images, monkeypatch):
    monkeypatch.setattr(comparison, "shots_for_equal_error", lambda shots, own, plain: 10**9)
    plan = economical(model, images, PLAIN, compare=True)
    assert {(c.equal_error_shots, c.equal_error_seconds) for c in plan.choices} == {(10**9, None)}
    monkeypatch.setattr(comparison, "variance_after_calibration", lambda fidelities: math.inf)
    plan = economical(model, images, PLAIN, compare=True)
    assert {c.equal_error_shots for c in plan.choices} == {None}


def test_what_cannot_be_chosen_is_told(model, images):
    """Three patches do not fit with another shape of circuit, say: the others are told."""

    def open_engine(economy):
        patches = 3 if economy.encoder == "brickwall" else economy.num_patches
        return planning_engine(
            "fake_manila", shots=64, **economy.changed(num_patches=patches).for_engine()
        )

    plan = make_plan(
        model, [images], open_engine(PLAIN), compare_with=open_engine
    )  # fmt: skip
    problems = [choice.problem for choice in plan.choices]
    assert problems[:2] == [None, None]
    assert all("Expected 3 disjoint patches" in problem for problem in problems[2:4])
    assert problems[4] is None  # of two qubits the multiplexor is best
    assert plan.choices[2].num_executions == 0


def test_steps_that_have_no_effect_are_left_out(generator):
    wide = QuantumPointwiseConv2d(200, 8, generator=generator).spec
    asked = Economy(num_patches=5, gap=2)
    found = ways(asked, [wide])
    assert list(found) == ["plain", "packed", "packed, tail", "packed, tail, references"]
    assert found["packed"] == asked
    assert found["packed, tail, references"].num_references == 16


def test_nothing_is_compared_without_a_device(model, images):
    assert economical(model, images, PLAIN, "aer", compare=True).choices == ()


def test_what_packing_and_calibration_assume(model, images):
    plan = economical(model, images, SHORT)
    told = "\n".join(plan.assumptions)
    for words in (
        "Rows run on up to 2 patches at a time, with no gap",
        "crosstalk between them is neither in the prediction nor in a simulation",
        "Every job runs 4 reference rows with known answers on every patch: 16 of the "
        f"{plan.num_executions} executions",
        "a line, scale and offset, for each job, patch and qubit. Such a linear error model",
        "Angles of the brickwall encoder are fitted on this machine",
        "Parities are freed of readout errors",
    ):
        assert words in told
    economy = SHORT.changed(num_patches=1, calibrate=False, absorb_tail=False)
    told = "\n".join(economical(model, images, economy).assumptions)
    assert "Values stay as measured all the same, as asked for (--no-calibrate)." in told
    assert "patches at a time" not in told
    assert "Parities" not in told


def test_what_if_of_a_packed_run(model, images):
    plan = economical(model, images, Economy(num_patches=2, num_references=4), batch_size=24)
    found = {(w.num_images, w.shots, w.pooling): w for w in plan.what_if}
    for pooling, scale in ((1, 4), (2, 1)):  # one call of 24 images, two patches, 4 references
        rows = [math.ceil(scale * layer.num_unique_rows) for layer in plan.layers]
        expected = sum(math.ceil(each / 2) + 4 for each in rows)
        assert found[24, 64, pooling].num_executions == expected


def test_a_plan_of_patches_is_plain_values(model, images):
    told = json.loads(json.dumps(economical(model, images, SHORT, compare=True).to_dict()))
    assert told["economy"]["patches"] == "all"
    assert told["choices"][0]["economy"]["patches"] == 1
    assert len(told["layers"][0]["patches"]) == 2


def test_a_packed_run_sends_what_was_planned(model, images, tmp_path):
    plan = economical(model, images, SHORT)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        engine = durable(ledger, "run", "fake_manila", shots=64, seed=1, **SHORT.for_engine())
        with engine, torch.no_grad(), use_engine(model, engine):
            engine.map(model, images.split(4))
        sent = ledger.state(engine.run.id).chunks(layer="0")
    assert sum(chunk.num_rows for chunk in sent) == plan.layers[0].num_executions
    forecast = sum(chunk.predicted_seconds for chunk in sent)
    assert forecast == pytest.approx(plan.layers[0].qpu_seconds)
