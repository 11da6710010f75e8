import json
import math

import pytest
import torch
from torch import nn

from hardware_runs.dispatch import cap_seconds
from hardware_runs.engine import durable
from hardware_runs.ledger import Ledger
from hardware_runs.plan import make_plan, planning_engine
from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.errors import BackendError, BudgetError, EngineError
from qpc_qiskit.execution.forecast import SECONDS_PER_JOB


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
        sent = ledger.chunks(engine.run.id, layer="0")
    assert sum(chunk.num_rows for chunk in sent) == plan.layers[0].num_executions
    assert len(sent) == plan.layers[0].num_jobs
    forecast = sum(chunk.predicted_seconds for chunk in sent)
    assert forecast == pytest.approx(plan.layers[0].qpu_seconds)
