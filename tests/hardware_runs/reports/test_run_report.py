"""Reports of durable runs: whole ones and those of which something is missing."""

import csv
import json
import math
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from durable_runs import RULES, START, Clock, Script, images
from torch import nn
from webpages import Page, self_contained

from hardware_runs import durable
from hardware_runs.checkpoints import checkpoint_runs, driving
from hardware_runs.checkpoints.cancelling import cancel
from hardware_runs.checkpoints.checkpoint_runs import Task, Work
from hardware_runs.durable_engine.beginning import digest_of
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.ledger import JOB_TIMES, Ledger
from hardware_runs.reports import figures as report_figures
from hardware_runs.reports import page as report_page
from hardware_runs.reports.features import agreement
from hardware_runs.reports.page import write_report
from hardware_runs.reports.replay import RunReader, replay
from hardware_runs.reports.report import examine, find_work
from hardware_runs.reports.scores import NoCopy, _noise_of_copy
from hardware_runs.standin import Fault
from noise_models.builders import compose, depolarizing
from noise_models.words import parse_noise
from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.backends import destinations
from qpc_qiskit.backends.service import _times
from qpc_qiskit.errors import CheckpointError, JobFailed, LedgerError, ResultsPending
from qpc_qiskit.nets import ImageClassifier, NetConfig
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.records import DataSource
from qpc_qiskit.rows.pubs import JobLimits
from qpc_qiskit.training.evaluation import accuracy_interval, predict, score

pytestmark = pytest.mark.usefixtures("no_backoff")

PIXELS = {"layers.1": 4, "layers.3": 4}
"""Of an image."""
NOW = 1_800_100_000.0
KEYS = {
    "format", "run", "state", "ledger", "made", "warnings", "notes", "num_images", "num_complete",
    "data", "engines", "class_names", "confusion", "images", "layers", "patches", "jobs", "usage",
    "status", "versions_begun", "versions",
}  # fmt: skip
"""As documented."""


def make_work(num_images=3, batch_size=1, second=True):
    """A network of one or two quantum layers of two qubits, and images for it."""
    generator = torch.Generator().manual_seed(5)
    config = NetConfig(in_channels=1, image_size=4, num_classes=3, width=4)
    conv = nn.Conv2d(1, 4, 3)
    linear = nn.Linear(8 if second else 16, 3)
    with torch.no_grad():
        for p in (*conv.parameters(), *linear.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator))
    middle = [QuantumPointwiseConv2d(4, 4, num_layers=1, generator=generator), nn.ReLU()]
    if second:
        middle.append(QuantumPointwiseConv2d(4, 2, num_layers=1, generator=generator))
    layers = nn.Sequential(conv, *middle, nn.Flatten(), linear)
    names = list(PIXELS)[: 1 + second]
    task = Task(
        checkpoint="/nowhere/model", checkpoint_sha256="c", data=DataSource().model_dump(),
        data_sha256="d", num_images=num_images, batch_size=batch_size, loss="cross-entropy",
        pixels={name: PIXELS[name] * num_images for name in names}, is_training_data=True,
    )  # fmt: skip
    pictures = torch.rand(num_images, 1, 4, 4, generator=generator)
    labels = torch.arange(num_images) % 3
    return Work(task, ImageClassifier(config, layers).eval(), pictures, labels)


def report_of(path, work=None, name="run", **given):
    with Ledger(path, create=False) as ledger:
        return examine(ledger, ledger.get_run(name), where=str(path), now=NOW, work=work, **given)


def check_page(examined, folder):
    """`check_files` without figures, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "draw_figures", lambda examined, folder: [])
        folder.mkdir(exist_ok=True)
        return check_files(examined, folder)


def timeline(examined, folder):
    """Kinds of spans, and seconds, as drawn."""
    folder.mkdir()
    (drawn,) = report_figures._timeline(examined.report, folder)
    rows = list(csv.reader(drawn.path.with_suffix(".csv").read_text().splitlines()))
    return [(kind, float(start), float(stop)) for _, kind, start, stop in rows[1:]]


def check_files(examined, folder):
    """The page stands alone, each figure is in it, and its data lie beside; the page's text."""
    written = write_report(examined, folder)
    html = written.page.read_text()
    page = Page(html)
    assert self_contained(page)
    assert len(page.images) == len(written.figures) == len(page.links)
    assert all(source.startswith("data:image/png;base64,iVBOR") for _, source in page.images)
    assert not re.search("https?:", html)
    for path in written.figures:
        rows = list(csv.reader(path.with_suffix(".csv").read_text().splitlines()))
        assert len(rows) > 1
        assert path.with_suffix(".svg").read_text().startswith("<?xml")
    told = json.loads(written.data.read_text(), parse_constant=pytest.fail)
    assert told == examined.report.to_dict()
    assert told.keys() == KEYS
    assert [each.strip() for each in page.warnings] == told["warnings"]
    return page.text


# A whole run: two patches with the noise of a device, calibrated.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(path, work, result of `qpc run collect`, logits, report) of a run on a snapshot."""
    path = tmp_path_factory.mktemp("whole") / "runs.sqlite"
    work = make_work()
    options = EngineOptions(
        backend="fake_manila", shots=200, seed=1, num_patches=2, num_references=4, dedupe_grid=None
    )  # rows are then as many as pixels and kernels
    with Ledger(path) as ledger:
        engine = checkpoint_runs.begin(ledger, "run", work, options, "fake_manila")
        with engine:
            logits = driving.advance_until_done(engine, work)
            result = driving.report(engine, work, logits)
    return path, work, result, logits, report_of(path, work)


def test_a_whole_run(whole):
    """As good as the command that collected it says; the values are those that it got."""
    path, work, result, logits, examined = whole
    report = examined.report
    assert report.warnings == ()
    assert (report.num_images, report.num_complete) == (3, 3)
    engines = {each.engine: each for each in report.engines}
    assert list(engines) == ["exact", "aer", "noisy", "measured"]
    measured, exact = engines["measured"], engines["exact"]
    assert measured.accuracy == result["accuracy"]
    assert measured.accuracy_interval == tuple(result["accuracy_interval"])
    assert measured.loss == pytest.approx(result["loss"])
    assert measured.agreement == result["agreement"]
    assert measured.max_logit_difference == pytest.approx(result["max_logit_difference"])
    assert exact.accuracy == result["exact_accuracy"]
    assert exact.max_logit_difference == 0
    assert engines["aer"].max_logit_difference < 1e-4
    assert engines["noisy"].max_logit_difference > 1e-3
    assert "snapshot fake_manila (calibrated on 20" in engines["noisy"].what
    assert "200 shots" in engines["noisy"].what
    assert {each.num_images for each in report.engines} == {3}
    with Ledger(path) as ledger:
        replayed = replay(work, RunReader(KnownRun(ledger, ledger.get_run("run"))))
    assert torch.equal(replayed.logits, logits)
    assert np.array(report.confusion["measured"]).sum() == 3
    assert np.trace(np.array(report.confusion["measured"])) == measured.num_correct


@pytest.mark.parametrize("name", PIXELS)
def test_features_against_an_independent_reckoning(whole, name):
    """Exact values of what came into a layer, and the values that came out of it."""
    path, work, _, _, examined = whole
    seen = {}
    layer = work.network.get_submodule(name)
    hook = layer.register_forward_hook(
        lambda module, given, out: seen.setdefault("calls", []).append((given[0], out))
    )
    with Ledger(path) as ledger:
        engine = checkpoint_runs.reopen(ledger, ledger.get_run("run"))
        with engine, torch.no_grad(), use_engine(work.network, engine):
            engine.map(work.network, work.batches())
    hook.remove()
    with torch.no_grad():
        errors = torch.cat([(out - layer(given)).flatten() for given, out in seen["calls"]])
    found = {each.progress.layer: each for each in examined.report.layers}[name]
    assert found.as_used.num_values == errors.numel() == found.num_rows * found.num_qubits
    assert found.as_used.rms_error == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-4)
    assert found.as_used.bias == pytest.approx(float(errors.mean()), rel=1e-3, abs=1e-5)
    # Noise shrinks values; calibration mends that.
    assert found.as_measured.scale < found.as_used.scale
    assert found.as_used.expected_rms > 0


def test_patches_of_a_whole_run(whole):
    *_, result, _, examined = whole
    report = examined.report
    told = {(p["layer"], tuple(p["qubits"])): p for p in result["patches"]}
    found = [patch.references for patch in report.patches]
    assert {(p.layer, p.qubits) for p in found} == told.keys()
    for layer in report.layers:
        here = [p for p in report.patches if p.references.layer == layer.progress.layer]
        assert len(here) == 2
        assert sum(p.num_rows for p in here) == layer.num_rows
        total = sum(p.num_rows * p.rms_error**2 for p in here) / layer.num_rows
        assert math.sqrt(total) == pytest.approx(layer.as_used.rms_error)
        assert here[0].predicted_fidelity >= here[1].predicted_fidelity > 0.5
    for patch in report.patches:
        references = patch.references
        record = told[references.layer, references.qubits]
        assert references.scale == record["scale"]
        assert (patch.num_jobs, patch.state) == (record["num_jobs"], "in use")
        assert patch.rms_error_std > 0


@pytest.mark.slow
def test_files_of_a_whole_run(whole, tmp_path):
    *_, examined = whole
    words = check_files(examined, tmp_path / "report")
    names = sorted(path.name for path in (tmp_path / "report" / "figures").glob("*.png"))
    assert names == [
        "accuracy.png", "confusion-exact.png", "confusion-measured.png", "features.png",
        "images.png", "patches-layers-1.png", "patches-layers-3.png", "timeline.png",
    ]  # fmt: skip
    assert "Run run on fake_manila" in words
    assert "no QPU time was used" in words
    assert examined.report.versions_begun["torch"] == examined.report.versions["torch"]
    assert (tmp_path / "report" / "report.json").stat().st_size < 100_000


def test_nothing_is_written_to_the_ledger(whole):
    path, work, *_ = whole
    before = path.read_bytes()
    report_of(path, work, num_simulated=0)
    assert path.read_bytes() == before


def test_fewer_images_for_simulations(whole):
    """Every figure says of how many images it is."""
    path, work, *_ = whole
    engines = {e.engine: e for e in report_of(path, work, num_simulated=2).report.engines}
    assert {name: e.num_images for name, e in engines.items()} == {
        "exact": 3, "aer": 2, "noisy": 2, "measured": 3,
    }  # fmt: skip
    low, high = engines["aer"].accuracy_interval
    assert (low, high) == accuracy_interval(engines["aer"].accuracy, 2)
    none = report_of(path, work, num_simulated=0).report
    assert [each.engine for each in none.engines] == ["exact", "measured"]
    assert any("were not asked for" in note for note in none.notes)


def test_without_the_network(whole, tmp_path):
    """The ledger alone knows features, patches and jobs, exact values of its inputs included."""
    path, *_, examined = whole
    found = report_of(path, why_no_work="They were moved.")
    report = found.report
    assert report.warnings == ("They were moved.",)
    assert (report.engines, report.images, report.num_complete) == ((), (), None)
    for one, other in zip(report.layers, examined.report.layers, strict=True):
        assert one.as_used.rms_error == pytest.approx(other.as_used.rms_error, rel=1e-5)
    places = [patch.references.qubits for patch in report.patches]
    assert places == [patch.references.qubits for patch in examined.report.patches]
    assert "They were moved." in check_page(found, tmp_path)
    with Ledger(path) as ledger:
        run = ledger.get_run("run")
        nothing, why = find_work(run)
        assert nothing is None
        assert "/nowhere/model" in why
        assert "--model and --data-dir tell where they are now" in why
        with pytest.raises(CheckpointError, match="elsewhere"):
            find_work(run, model=tmp_path / "elsewhere")


# On the stand-in: times, and what may be missing.


def device_run(start, path, work, *faults, name="run", **rules):
    """begin() -> an engine of a run of a stand-in's device, each time as in a new process."""
    standin = start(**rules)
    for fault in faults:
        standin.add_fault(fault)
    clock = Clock(standin)
    backend = standin.service().backend("ibm_manila")

    def begin(ledger, **given):
        return durable(
            ledger, name, backend, shots=64, max_qpu_seconds=100, rules=RULES, clock=clock,
            about=asdict(work.task), **given,
        )  # fmt: skip

    return standin, clock, begin


def advance(begin, path, work, **given):
    with Ledger(path) as ledger, begin(ledger, **given) as engine:
        return driving.advance(engine, work)[0]


def advance_until_it_fails(begin, clock, path, work, **given):
    for _ in range(3):
        advance(begin, path, work, **given)
        clock.advance(900)


def test_times_of_jobs_and_usage(start, tmp_path, path):
    """By the service's clock, kept with results when they are collected."""
    work = make_work(1, second=False)
    standin, clock, begin = device_run(start, path, work, queue_seconds=90, run_seconds=7)
    assert advance(begin, path, work) is None
    clock.advance(900)
    assert advance(begin, path, work) is not None
    examined = report_of(path, work, num_simulated=0)
    (job,) = examined.report.jobs
    (told,) = standin.records()["jobs"]
    attempt = job.attempt
    assert attempt.job_id == told["job_id"]
    assert job.queue_seconds == pytest.approx(90)
    assert job.run_seconds == pytest.approx(7)
    assert job.times.created == pytest.approx(attempt.posted_at)
    assert attempt.finished_at == attempt.posted_at + 900
    assert attempt.usage_seconds == pytest.approx(told["usage_seconds"])
    usage, budget = examined.report.usage, examined.report.status.budget
    assert (budget.used_seconds, usage.num_unknown) == (attempt.usage_seconds, 0)
    assert examined.report.status.usage_over_forecast == pytest.approx(1, rel=0.01)
    assert not any("not known" in each for each in examined.report.notes)
    assert "90.0 s" in check_page(examined, tmp_path / "report")
    assert timeline(examined, tmp_path / "figures") == [
        ("queued", START, START + 90),
        ("running", START + 90, START + 97),
        ("ended, not collected yet", START + 97, START + 900),
    ]
    (drawn,) = report_figures._usage(examined.report, tmp_path / "figures")
    rows = list(csv.reader(drawn.path.with_suffix(".csv").read_text().splitlines()))
    assert [row[0] for row in rows[1:]] == ["forecast", "used", "cap"]
    assert float(rows[2][2]) == attempt.usage_seconds
    iso = examined.report.to_dict()["jobs"][0]["created_at"]
    assert iso == "2027-01-15T08:00:00+00:00"


def test_times_that_are_not_told(start, tmp_path, path):
    """As of a ledger of an older program: not known, and never made up."""
    work = make_work(1, second=False)
    _, clock, begin = device_run(start, path, work, queue_seconds=90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qpc_qiskit.backends.service._times", lambda told: _times(None))
        advance(begin, path, work)
        clock.advance(900)
        advance(begin, path, work)
    examined = report_of(path, work, num_simulated=0)
    (job,) = examined.report.jobs
    assert (job.queue_seconds, job.run_seconds, job.times.created) == (None, None, None)
    assert "When it ran is not known of 1 job" in examined.report.notes[-1]
    assert timeline(examined, tmp_path / "figures") == [
        ("at the service (details not known)", START, START + 900)
    ]
    with Ledger(path) as ledger:
        (result,) = ledger.results(ledger.state(ledger.get_run("run").id).all_chunks)
    assert JOB_TIMES not in result.extras


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, (None, None, None)),
        ({"created": "2027-01-15T08:00:00Z", "running": None}, (1_800_000_000.0, None, None)),
        ({"created": "2027-01-15T08:00:00", "finished": 7}, (1_800_000_000.0, None, None)),
        ({"running": "soon"}, (None, None, None)),
    ],
)
def test_reading_the_times_of_a_job(told, expected):
    found = _times(told)
    assert (found.created, found.running, found.finished) == expected


def test_a_run_that_is_not_finished(start, tmp_path, path):
    work = make_work(2)
    _, clock, begin = device_run(start, path, work, queue_seconds=90)
    advance(begin, path, work)
    examined = report_of(path, work)
    report = examined.report
    assert report.status.state == "pending"
    assert (report.num_complete, report.engines, report.confusion) == (0, (), {})
    assert [each.as_used for each in report.layers] == [None]
    told = " ".join(report.warnings)
    assert "of 2 jobs known so far 0 are done, 2 under way and 0 not sent" in told
    assert f"`qpc run collect run --ledger {path}` goes on" in told
    assert "layers.3 was reached by 0 of 8 pixels" in told
    assert "Everything was measured for 0 of 2 images." in told
    check_page(examined, tmp_path / "report")
    clock.advance(900)
    advance(begin, path, work)  # the second layer is sent
    report = report_of(path, work).report
    assert report.num_complete == 0
    assert report.layers[0].as_used.num_values == 2 * 4 * 4
    assert report.engines == ()


def test_before_anything_is_sent(tmp_path, path):
    work = make_work(2)
    with Ledger(path) as ledger:
        options = EngineOptions(backend="aer")
        checkpoint_runs.begin(ledger, "run", work, options, "aer")
    examined = report_of(path, work)
    assert examined.report.warnings[0].startswith("Nothing was frozen or sent yet")
    check_page(examined, tmp_path / "report")


def test_a_job_that_failed_for_good(start, tmp_path, path):
    """Of the images that it had a part in nothing is said; the others are told as they are."""
    work = make_work(3, second=False)
    fault = Fault("failed", skip=1, factor=1.0, message="out of helium, token=abcdefgh12345678")
    _, clock, begin = device_run(start, path, work, fault)
    with pytest.raises(JobFailed, match="out of helium"):
        advance_until_it_fails(begin, clock, path, work)
    examined = report_of(path, work, num_simulated=0)
    report = examined.report
    assert report.status.state == "failed"
    assert (report.num_images, report.num_complete) == (3, 2)
    assert {each.num_images for each in report.engines} == {2}
    assert {each.image for each in report.images} == {0, 2}
    expected = score(predict(work.network, work.images[[0, 2]], 2), work.labels[[0, 2]])
    assert report.engines[0].loss == pytest.approx(expected.loss)
    told = " ".join(report.warnings)
    assert "1 of 3 jobs failed for good" in told
    assert "out of helium" in told
    assert "Everything was measured for 2 of 3 images." in told
    assert np.array(report.confusion["measured"]).sum() == 2
    words = check_page(examined, tmp_path / "report")
    assert "abcdefgh12345678" not in words + (tmp_path / "report/report.json").read_text()
    with Ledger(path) as ledger:
        replayed = replay(work, RunReader(KnownRun(ledger, ledger.get_run("run"))))
    assert replayed.is_complete.tolist() == [True, False, True]
    assert replayed.logits.isnan().all(1).tolist() == [False, True, False]


def test_a_part_of_a_batch_is_missing(start, path):
    """One call of the network, several jobs: images are complete or not, each on its own."""
    work = make_work(3, batch_size=3, second=False)
    fault = Fault("failed", skip=1, factor=1.0)
    _, clock, begin = device_run(start, path, work, fault)
    limits = {"limits": JobLimits(max_rows=8)}  # rows of kernel 0 come first
    with pytest.raises(JobFailed, match="was told to fail"):
        advance_until_it_fails(begin, clock, path, work, **limits)
    report = report_of(path, work, num_simulated=0).report
    assert report.num_complete == 1
    assert report.layers[0].num_rows == 16  # two of three jobs
    assert {each.num_images for each in report.engines} == {1}


def test_a_cancelled_run(start, path):
    work = make_work(2, second=False)
    _, _, begin = device_run(start, path, work, queue_seconds=90)
    advance(begin, path, work)
    with Ledger(path) as ledger:
        cancel(ledger, ledger.get_run("run"))
    report = report_of(path, work).report
    assert report.status.state == "cancelled"
    first = report.warnings[0]
    assert first.startswith("The run was cancelled")
    command = f"qpc run resume run --ledger {path} --again"
    assert f"with 0 of 2 jobs done. `{command}` takes that back" in first
    assert {job.attempt.state for job in report.jobs} <= {"cancelled", "posted"}
    assert report.engines == ()


def test_no_token_in_a_report(start, tmp_path, path, monkeypatch):
    """Neither that of the environment, nor what looks like one in what others wrote."""
    work = make_work(1, second=False)
    _, clock, begin = device_run(start, path, work)
    for _ in range(2):
        advance(begin, path, work)
        clock.advance(900)
    secret = "s3cr3t-of-nobody-0123456789"
    monkeypatch.setenv("QISKIT_IBM_TOKEN", secret)
    with Ledger(path) as ledger:
        run = ledger.get_run("run")
        ledger.cancel_run(run.id, reason=f"because of {secret} and apikey: {secret[::-1]}", now=NOW)
        revision = ledger.state(run.id).revisions[-1]
        ledger.add_revision(
            run.id, reason=f"token={secret}", content=revision.content, max_qpu_seconds=100,
            now=NOW, blobs={n: ledger.blob(run.id, revision.number, n) for n in revision.blobs},
        )  # fmt: skip
        where = f"postgresql://me:{secret}@nowhere/ledger"
        examined = examine(ledger, ledger.get_run("run"), where=where, now=NOW, work=work)
    check_page(examined, tmp_path / "report")
    assert "because of ***" in examined.report.status.cancel_reason
    for file in (tmp_path / "report").rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes()
            assert secret[::-1].encode() not in file.read_bytes()


# Runs of a script of its own, and patches that were dropped.


def test_a_script_of_its_own(tmp_path, path):
    """Noisy, on Aer; there is no network, and the rest is there."""
    model = make_work(second=False).network.layers[1]
    noise = compose(depolarizing(0.05)).build()
    x = images(2)
    with (
        durable(path, "own", "aer", noise_model=noise) as engine,
        torch.no_grad(),
        use_engine(model, engine),
    ):
        values = torch.cat(engine.map(model, x.split(1)))
    with Ledger(path) as ledger:
        work, why = find_work(ledger.get_run("own"))
        with pytest.raises(LedgerError, match="by a script of its own"):
            find_work(ledger.get_run("own"), model=tmp_path)
    examined = report_of(path, work, name="own", why_no_work=why)
    report = examined.report
    assert report.warnings == (why,)
    assert "there is no accuracy, no confusion matrix and no image" in why
    assert any(note.startswith("Whether more was to come is not known") for note in report.notes)
    (layer,) = report.layers
    with torch.no_grad():
        errors = values - model(x)
    assert layer.as_used.rms_error == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-4)
    assert layer.as_used.scale < 0.9
    assert "not known" in check_page(examined, tmp_path / "report")


def test_exact_values_behind_an_absorbed_tail(path):
    """Weights of gates that were not run are not in the frozen angles, and do not matter."""
    model = make_work(second=False).network.layers[1]
    with (
        durable(path, "own", "aer", absorb_tail=True) as engine,
        torch.no_grad(),
        use_engine(model, engine),
    ):
        engine.map(model, images(3).split(1))
    (layer,) = report_of(path, name="own").report.layers
    assert layer.as_used.num_values == 3 * 2 * 2
    assert layer.as_used.rms_error < 1e-7


def test_patches_that_were_dropped(start, tmp_path, path, monkeypatch):
    """Rows that were not sent are dealt to the other patch; both are told, and nothing is lost."""
    rules = replace(RULES, max_in_flight=1)
    given = {"num_patches": 2, "num_references": 4, "shots": 256, "rules": rules}
    standin = start()
    model = make_work(second=False).network.layers[1:2].eval()

    def script():
        backend = standin.service().backend("ibm_lagos")
        return Script(path, backend, Clock(standin), model, **given)

    x = images(3)
    with pytest.raises(ResultsPending):
        script().once(x)
    bad = frozenset({5}), frozenset()  # what is left is a star: any two pairs share its middle
    monkeypatch.setattr(destinations, "faulty", lambda backend: bad)
    script().finish(x)
    examined = report_of(path)
    report = examined.report
    told = " ".join(report.warnings)
    assert "2 jobs were never sent: the rows were dealt to other jobs (revision" in told
    assert "without 1 of 2 patches" in told
    states = {patch.references.qubits: patch.state for patch in report.patches}
    assert sorted(states.values()) == ["dropped", "in use"]
    (lost,) = (qubits for qubits, state in states.items() if state == "dropped")
    assert 5 in lost
    assert sum(patch.num_rows for patch in report.patches) == report.layers[0].num_rows == 3 * 2
    assert {job.attempt.state for job in report.jobs} == {"done"}
    assert "dropped" in check_page(examined, tmp_path / "report")


# Numbers.


def test_agreement_on_made_up_values(rng):
    exact = rng.uniform(-1, 1, (50, 2))
    found = agreement(exact, 0.8 * exact + 0.1, np.full((50, 2), 0.3))
    assert (found.scale, found.offset) == pytest.approx((0.8, 0.1))
    assert found.bias == pytest.approx(float((0.1 - 0.2 * exact).mean()))
    assert found.expected_rms == pytest.approx(0.3)
    assert found.num_values == 100
    half = np.where(np.arange(100).reshape(50, 2) < 50, exact, np.nan)
    assert agreement(half, exact).num_values == 50
    assert agreement(half, exact).rms_error == 0
    assert agreement(half, exact).expected_rms is None
    assert agreement(np.full((2, 2), np.nan), exact[:2]) is None


# What simulations there are.


def settings_of(**given):
    return SimpleNamespace(settings={"engine_options": {}, **given})


def test_noise_of_the_copy(tmp_path):
    device, what = _noise_of_copy(settings_of(backend="ibm_manila"))
    assert device.name == "fake_manila"
    assert what.startswith("snapshot fake_manila (calibrated on 20")
    path = tmp_path / "mine.toml"
    compose(depolarizing(0.02), name="mine").save(path)
    told = {"noise_model": digest_of(parse_noise(str(path)))}
    run = settings_of(backend="aer", engine_options=told, about={"noise": str(path)})
    assert _noise_of_copy(run)[1] == f"noise {path}"
    compose(depolarizing(0.03), name="mine").save(path)
    with pytest.raises(NoCopy, match=r"mine\.toml is not what it was then"):
        _noise_of_copy(run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "ibm_nowhere"}, "no snapshot of ibm_nowhere comes with IBM's client"),
        ({"backend": "aer"}, "the run was on Aer without noise"),
        (
            {"backend": "aer", "engine_options": {"noise_model": "sha256:12"}},
            "one that only the run's script has",
        ),
    ],
)
def test_no_noisy_copy(given, message):
    with pytest.raises(NoCopy, match=message):
        _noise_of_copy(settings_of(**given))


def test_a_layer_that_is_used_twice(path):
    """Positions are counted for each use, whatever the batch size."""
    work = make_work(3, batch_size=2, second=False)
    layer = work.network.layers[1]
    layers = nn.Sequential(
        work.network.layers[0], layer, nn.ReLU(), layer, *work.network.layers[3:]
    )
    network = ImageClassifier(work.network.config, layers).eval()
    task = replace(work.task, pixels={"layers.1": 24})
    work = Work(task, network, work.images, work.labels)
    with Ledger(path) as ledger:
        options = EngineOptions(backend="aer", shots=50, seed=1)
        with checkpoint_runs.begin(ledger, "run", work, options, "aer") as engine:
            logits = driving.advance_until_done(engine, work)
        reader = RunReader(KnownRun(ledger, ledger.get_run("run")))
        assert [each.name for each in reader.layers] == ["layers.1", "layers.1#2"]
        replayed = replay(work, reader)
    assert torch.equal(replayed.logits, logits)
    report = report_of(path, work, num_simulated=0).report
    assert report.num_complete == 3
    assert not any("was reached by" in each for each in report.warnings)
