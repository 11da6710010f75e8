"""`qpc run` and the batch script against the stand-in (real client), a snapshot and aer."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import write_checkpoint
from ledgers import planned
from tiers import thorough
from torch import nn
from typer.testing import CliRunner
from urllib3.util.retry import Retry

import qpc_qiskit
from hardware_runs import durable
from hardware_runs.checkpoints import checkpoint_runs, driving
from hardware_runs.checkpoints.runlog import log_path, run_log, without_secrets
from hardware_runs.durable_engine.known import KnownRun
from hardware_runs.durable_engine.problems import Problems
from hardware_runs.ledger import AttemptState, Ledger
from hardware_runs.standin import Fault, Remote, Rules, Standin
from hardware_runs.standin.service import TOKEN
from noise_models.words import parse_noise
from qpc_cli.app import app
from qpc_cli.submit import app as script
from qpc_qiskit import QuantumPointwiseConv2d, use_engine
from qpc_qiskit.backends.service import IBMJobs
from qpc_qiskit.common import progress
from qpc_qiskit.errors import BackendError, ResultsPending
from qpc_qiskit.nets import ImageClassifier, NetConfig, build_net
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.records import DataSource
from qpc_qiskit.training.checkpoint import make_record, save

HOURS = 7200

pytestmark = pytest.mark.usefixtures("quick_runs")


def call(app, *arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


def qpc(*arguments, exit_code=0):
    return call(app, *arguments, exit_code=exit_code)


def run(*arguments, exit_code=0):
    return qpc("run", *arguments, exit_code=exit_code)


def answer(*arguments, exit_code=0):
    return json.loads(run(*arguments, "--json", exit_code=exit_code).stdout)


def failing(*arguments, exit_code):
    """The last line that a failing command says."""
    result = run(*arguments, exit_code=exit_code)
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("qpc: ")
    return last


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "digits")


@pytest.fixture
def model(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "model"))


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    path = tmp_path / "runs" / "ledger.sqlite"
    monkeypatch.setenv("QPC_LEDGER", str(path))
    return path


@pytest.fixture
def standin():
    with Standin(Rules(noisy=False, queue_seconds=HOURS)) as found:
        yield found
    assert found.errors == []


PLAIN = "--economy=plain"
ON_IBM = ("--backend=ibm_manila", "--images=4", "--shots=64", "--run=first", PLAIN)
ALLOWED = (*ON_IBM, "--max-qpu-seconds=60")
NOISY = ("--backend=aer", "--images=2", "--noise=depolarizing:0.01")
ON_FAKE = (
    "--backend=fake_manila", "--images=3", "--shots=64", "--run=first", "--seed=1", PLAIN
)  # fmt: skip
BEGUN = (*NOISY, "--seed=1", "--run=noisy")


@pytest.fixture(scope="module")
def runs_that_ended(trained, tmp_path_factory):
    """A ledger of run `first`, which was begun by ON_FAKE, and `noisy`, by BEGUN; not to be used.

    `finished` is a copy.
    """
    path = tmp_path_factory.mktemp("ended") / "ledger.sqlite"
    run("submit", trained, *ON_FAKE, f"--ledger={path}")
    run("submit", trained, *BEGUN, "--shots=64", f"--ledger={path}")
    return path


@pytest.fixture
def finished(runs_that_ended, ledger):
    ledger.parent.mkdir()
    shutil.copy(runs_that_ended, ledger)


# plan


def test_plan(model):
    text = run(
        "plan", model, "--backend=fake_manila", "--images=8", "--shots=1024", "--rate=2", PLAIN
    ).stdout
    assert text.startswith("fake_manila: 8 images, ")
    assert "circuit executions of 256 rows, 1,024 shots each, in 1 job; about " in text
    assert "layers.pointwise: on qubits " in text
    assert "- None of this was verified on a device." in text
    assert "What if (scaled from this plan):" in text
    assert "2x2 pooled" in text


def test_plan_with_json(model):
    arguments = ("plan", model, "--backend=fake_manila", "--images=4", "--shots=64", PLAIN)
    found = answer(*arguments, "--max-qpu-seconds=1", "--resilience=1", "--mode=batch")
    assert (found["num_rows"], found["num_jobs"], found["mode"]) == (128, 1, "batch")
    assert found["is_within_budget"] is False
    assert found["cost"] is None
    assert "MORE THAN the budget of 1 s" in run(*arguments, "--max-qpu-seconds=1").stdout


SHORT = (
    "--no-dedupe", "--encoder=brickwall", "--absorb-tail", "--patches=2", "--references=auto",
)  # fmt: skip


def test_plan_of_patches(model):
    arguments = ("--backend=fake_manila", "--images=4", "--shots=64", PLAIN, *SHORT)
    text = run("plan", model, *arguments, "--rate=2").stdout
    assert text.startswith("fake_manila: 4 images, 68 circuit executions of 128 rows, 64 shots")
    assert "layers.pointwise: on 2 patches, best on " in text
    assert "128 rows in 68 executions on 2 patches, 4 reference rows each job" in text
    assert "brickwall encoder; tail absorbed: 4 gates of the ansatz (2 on two qubits)" in text
    choices = [line for line in text.splitlines() if line[:2] in ("* ", "  ")]
    assert [line.split("  ")[0] for line in choices if line[0] == "*"] == [
        "* packed, brickwall, tail, references"
    ]
    assert sum(line.startswith("  p") for line in choices) == 3
    (heading,) = (line for line in text.splitlines() if line.startswith("choice"))
    assert "QPU time  equal-error shots  QPU time so  dollars" in heading
    assert "the standard error that the plain way's have with the shots asked for" in text
    found = answer("plan", model, *arguments)
    plain, *others = (choice["equal_error_shots"] for choice in found["choices"])
    assert plain == 64
    assert all(shots != 64 for shots in others)
    assert all(f"  {shots:,}  " in text for shots in others)
    assert [choice["is_asked"] for choice in found["choices"]] == [False, False, False, True]
    assert found["choices"][-1]["num_executions"] == found["num_executions"] == 68
    assert found["economy"]["references"] == 4


def test_nothing_is_compared_if_asked_for(model):
    arguments = ("plan", model, "--backend=fake_manila", "--images=4", "--shots=64", PLAIN)
    assert "Choices" in run(*arguments).stdout
    assert "Choices" not in run(*arguments, "--no-compare").stdout
    assert answer(*arguments, "--no-compare")["choices"] == []


def test_a_tail_that_is_not_there(tmp_path):
    """Every gate of the ansatz changes what is measured."""
    folder = write_checkpoint(tmp_path / "model", ansatz="circuit_centric")
    text = run("plan", folder, "--backend=fake_manila", "--images=1", PLAIN, "--absorb-tail",
               "--no-compare").stdout  # fmt: skip
    assert "tail to absorb: none found, so --absorb-tail has no effect" in text


def test_plan_on_aer(model):
    text = run("plan", model, "--backend=aer", "--images=2").stdout
    assert "exact values" in text
    assert "aer is a simulator: it has no QPU time and no price." in text
    assert "What if" not in text


def test_plan_for_a_device_sends_nothing(model, standin):
    found = answer(
        "plan", model, "--backend=ibm_manila", "--images=4", "--shots=64", "--rate=1", PLAIN
    )
    assert found["cost"] == found["qpu_seconds"] > 2
    assert standin.records()["jobs"] == []


# submit, status, collect


def test_from_submit_to_score(model, ledger, standin):
    result = run("submit", model, *ALLOWED, exit_code=75)
    assert result.stderr.startswith("ibm_manila: 4 images, ")
    assert "(within the budget of 60 s)" in result.stderr
    assert "first: results are pending; 0 jobs done, 1 under way, 0 still to be" in result.stdout
    assert "Go on with: qpc run collect first" in result.stdout

    text = run("status", "first").stdout
    assert text.startswith("first: pending; ibm_manila, mode job, begun ")
    found = answer("status", "first")
    (layer,), (job,) = found["layers"], found["jobs"]
    assert (layer["num_pixels"], layer["num_pixels_expected"]) == (64, 64)
    assert layer["num_chunks"] == {"unsent": 0, "open": 1, "done": 0, "failed": 0}
    (posted,) = standin.records()["jobs"]
    assert (job["job_id"], job["state"], job["attempt"]) == (posted["job_id"], "posted", 1)
    assert found["reserved_seconds"] == job["reserved_seconds"] >= 1.5 * job["predicted_seconds"]

    assert answer("collect", "first", exit_code=75)["jobs_open"] == 1
    standin.advance(HOURS)
    found = answer("collect", "first")
    assert (found["state"], found["images"], found["jobs"]) == ("done", 4, 1)
    assert found["shots"] == 64
    assert found["used_qpu_seconds"] == pytest.approx(found["predicted_qpu_seconds"], rel=0.01)
    text = run("collect", "first").stdout  # from the ledger alone
    assert text.startswith("first on ibm_manila: accuracy ")
    assert "% of the predictions agree" in text
    assert "s of QPU time" in text
    assert len(standin.records()["jobs"]) == 1
    status = run("status", "first").stdout
    assert status.startswith("first: done; ")
    assert "jobs used 1.00 times their forecast" in status


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(qpc_qiskit.__file__).parents[1])}


def test_the_same_line_again_sends_nothing_twice(model, ledger, standin):
    run("submit", model, *ALLOWED, exit_code=75)
    again = run("submit", model, *ALLOWED, exit_code=75)
    assert again.stderr == ""
    assert len(standin.records()["jobs"]) == 1


def test_waiting_tells_what_is_wrong(model, ledger, standin, monkeypatch):
    """An access that has ended looks like no queue: it is said and logged, once."""
    run("submit", model, *ALLOWED, exit_code=75)
    standin.add_fault(Fault("status", status=500, route="GET /jobs/*", times=None))
    looks = []

    def sleep(seconds, check):
        looks.append(seconds)
        if len(looks) == 4:
            standin.clear_faults()
            standin.advance(HOURS)

    monkeypatch.setattr(driving, "_sleep", sleep)
    monkeypatch.setattr(Retry, "sleep", lambda self, response=None: None)
    result = run("collect", "first", "--wait")
    told = [line for line in result.stderr.splitlines() if line.startswith("first: layers.")]
    (job,) = standin.records()["jobs"]
    (line,) = told
    assert line.startswith(f"first: layers.pointwise: 0 of 1 jobs done; job {job['job_id']}: ")
    assert "500" in line
    lines = [json.loads(text) for text in log_path(ledger, "first").read_text().splitlines()]
    (waiting,) = [line for line in lines if line["event"] == "waiting"]
    assert waiting["progress"] == "layers.pointwise: 0 of 1 jobs done"
    (warning,) = [line for line in lines if line["level"] == "warning"]
    assert job["job_id"] in warning["event"]
    assert "500" in warning["event"]


def test_the_same_problem_is_told_once(tmp_path, monkeypatch):
    """Texts of the client name objects by their address, another one each time."""
    texts = iter([f"<Connection object at 0x7f{n:010x}>: refused" for n in range(9)])
    problems = Problems("x")

    def step():
        problems.note("job 1", next(texts))
        return False

    passes = iter([(None, ""), (torch.zeros(1), "")])
    monkeypatch.setattr(driving, "advance", lambda engine, work: next(passes))
    with Ledger(tmp_path / "ledger.sqlite") as book, run_log(tmp_path / "log", "x"):
        found, _ = planned(book)  # one chunk waits
        dispatcher = SimpleNamespace(step=step, problems=problems)
        known = KnownRun(book, found)
        engine = SimpleNamespace(known=known, dispatcher=dispatcher)
        told, polls = [], []

        def sleep(seconds):
            polls.append(seconds)
            if len(polls) == 5:
                dispatcher.step = lambda: True

        driving.advance_until_done(engine, None, sleep=sleep, on_poll=told.append)
    waiting = "features.0: 0 of 2 jobs done"
    assert told == [waiting, *[f"{waiting}; job 1: <Connection object at 0x...>: refused"] * 4]
    assert len((tmp_path / "log").read_text().splitlines()) == 2


@pytest.mark.parametrize("mode", ["batch", "session"])
def test_wait_in_a_batch_and_a_session(model, ledger, standin, mode, monkeypatch):
    monkeypatch.setattr(driving, "_sleep", lambda seconds, check: standin.advance(HOURS))
    found = answer(
        "submit", model, *ON_IBM, "--max-qpu-seconds=60", f"--mode={mode}", "--batch-size=2",
        "--wait",
    )  # fmt: skip
    assert (found["state"], found["jobs"]) == ("done", 2)
    (session,) = standin.records()["sessions"]
    assert {job["session_id"] for job in standin.records()["jobs"]} == {session["session_id"]}


def test_on_a_snapshot_and_on_aer(model, ledger):
    found = answer("submit", model, *ON_FAKE)
    assert (found["state"], found["backend"], found["used_qpu_seconds"]) == (
        "done", "fake_manila", 0,
    )  # fmt: skip
    assert answer("collect", "first") == found
    exact = answer("submit", model, "--backend=aer", "--images=3", "--run=second")
    assert exact["max_logit_difference"] < 1e-4
    assert exact["shots"] is None
    assert exact["agreement"] == 1
    listed = answer("list")
    assert [(r["run"], r["state"]) for r in listed["runs"]] == [
        ("first", "done"), ("second", "done"),
    ]  # fmt: skip
    lines = run("list").stdout.splitlines()
    assert lines[1].split()[:4] == ["first", "done", "fake_manila", "job"]


def test_evaluate_and_run_agree(model, ledger):
    ran = answer("submit", model, "--backend=aer", "--images=5", "--run=aer")
    result = qpc("evaluate", model, "--images=5", "--json")
    evaluated = json.loads(result.stdout)
    assert ran["accuracy"] == evaluated["accuracy"]
    assert ran["loss"] == pytest.approx(evaluated["loss"], rel=1e-5)


def test_other_data_are_told(model, ledger):
    text = run("submit", model, "--backend=aer", "--images=2", "--data=digits", "--run=x").stdout
    assert "not the data that the network was trained and tested on" in text


def test_later_layers_continue_by_themselves(tmp_path, standin):
    """Two quantum layers: the second is sent when the first has come back."""
    config = NetConfig(in_channels=1, image_size=4, num_classes=3, width=4)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            QuantumPointwiseConv2d(4, 4, num_layers=1, generator=generator),
            nn.ReLU(),
            QuantumPointwiseConv2d(4, 2, num_layers=1, generator=generator),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
    network = ImageClassifier(config, layers).eval()
    images = torch.rand(2, 1, 4, 4, generator=generator)
    task = checkpoint_runs.Task(
        checkpoint="", checkpoint_sha256="", data=DataSource().model_dump(), data_sha256="",
        num_images=2, batch_size=1, loss="cross-entropy", pixels={"layers.1": 8, "layers.3": 8},
        is_training_data=True,
    )  # fmt: skip
    work = checkpoint_runs.Work(task, network, images, torch.tensor([0, 1]))
    options = EngineOptions(backend="ibm_manila", shots=2000, max_qpu_seconds=500)
    told = []
    with Ledger(tmp_path / "ledger.sqlite") as book:
        engine = checkpoint_runs.begin(book, "two", work, options, "ibm_manila")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(driving, "_sleep", lambda seconds, check: standin.advance(HOURS))
            found = driving.finish(engine, work, wait=True, on_poll=told.append)
    assert (found["state"], found["jobs"]) == ("done", 4)
    assert found["max_logit_difference"] < 0.3
    assert told[0] == "layers.1: 0 of 2 jobs done"
    assert told[-1] == "layers.1: 2 of 2 jobs done, layers.3: 0 of 2 jobs done"


# cancel


def test_cancel_and_resume(model, ledger, standin):
    run("submit", model, *ALLOWED, "--mode=batch", exit_code=75)
    text = run("cancel", "first").stdout
    assert text.startswith("first: cancelled; nothing more is sent")
    (job,) = standin.records()["jobs"]
    assert f"cancelled at the service: {job['job_id']}" in text
    assert answer("status", "first")["state"] == "cancelled"
    message = failing("collect", "first", exit_code=1)
    assert "was cancelled. `qpc run resume first --again` lets it be sent again." in message
    assert "was cancelled" in failing("submit", model, *ALLOWED, "--mode=batch", exit_code=1)
    assert len(standin.records()["jobs"]) == 1
    assert answer("resume", "first", "--again", exit_code=75)["jobs_open"] == 1
    standin.advance(HOURS)
    assert answer("resume", "first")["state"] == "done"
    states = [job["state"] for job in answer("status", "first")["jobs"]]
    assert states == ["cancelled", "done"]
    assert len(standin.records()["jobs"]) == 2


def test_what_cannot_be_cancelled_is_kept(model, ledger, standin):
    run("submit", model, *ALLOWED, exit_code=75)
    standin.advance(HOURS)
    found = answer("cancel", "first")
    (job,) = standin.records()["jobs"]
    assert (found["cancelled"], found["not_cancelled"]) == ([], [job["job_id"]])
    assert answer("collect", "first")["state"] == "done"


def test_cancel_what_may_have_been_accepted(model, ledger, standin):
    """The answer to the POST was lost: the job is found by its tag, as soon as it is listed."""
    for fault in (Fault("cut_after"), Fault("lag", seconds=600, times=None)):
        standin.add_fault(fault)
    run("submit", model, *ALLOWED, exit_code=75)
    found = answer("cancel", "first")
    (job,) = standin.records()["jobs"]
    assert found["cancelled"] == []
    assert found["unclear"] == job["tags"]
    text = run("cancel", "first").stdout
    assert f"not found at the service, look again: {job['tags'][0]}" in text
    standin.clear_faults()
    assert answer("cancel", "first")["cancelled"] == [job["job_id"]]
    assert answer("cancel", "first")["cancelled"] == []  # there is nothing left to do


def test_cancel_without_the_service(model, ledger, standin, monkeypatch):
    run("submit", model, *ALLOWED, exit_code=75)
    with monkeypatch.context() as patch:
        patch.setenv("QISKIT_IBM_TOKEN", "wrong" * 9)
        found = answer("cancel", "first", exit_code=1)
    assert "No access to ibm_manila" in found["problem"]
    assert len(found["not_cancelled"]) == 1
    assert len(answer("cancel", "first")["cancelled"]) == 1  # once more


# what goes wrong


def test_a_device_needs_permission(model, ledger, standin):
    message = failing("submit", model, *ON_IBM, exit_code=2)
    assert "a real device needs --max-qpu-seconds, or --yes for any time" in message
    message = failing("submit", model, *ON_IBM, "--max-qpu-seconds=2", exit_code=1)
    assert "are predicted, and the budget is 2 s" in message
    assert standin.records()["jobs"] == []
    assert answer("list")["runs"] == []
    run("submit", model, *ON_IBM, "--yes", exit_code=75)
    assert answer("status", "first")["max_qpu_seconds"] is None
    assert scripted("--model", model, *ON_IBM, "--yes", exit_code=75)["jobs_open"] == 1


def test_a_tight_budget_waits_for_what_is_under_way(model, ledger, standin, monkeypatch):
    """Two jobs of about 4 s with caps of 7 s each: the second waits for the first one's usage."""
    plan = answer("plan", model, "--backend=ibm_manila", "--images=4", "--shots=64",
                  "--batch-size=2", PLAIN)  # fmt: skip
    assert plan["num_jobs"] == 2
    budget = plan["reserved_seconds"] - 1
    assert plan["qpu_seconds"] < budget
    arguments = (*ON_IBM, f"--max-qpu-seconds={budget}", "--batch-size=2")
    found = answer("submit", model, *arguments, exit_code=75)
    assert "would exceed" in found["message"] or "budget" in found["message"]
    assert len(standin.records()["jobs"]) == 1
    monkeypatch.setattr(driving, "_sleep", lambda seconds, check: standin.advance(HOURS))
    assert answer("collect", "first", "--wait")["jobs"] == 2


def test_a_new_budget(model, ledger, standin):
    run("submit", model, *ALLOWED, exit_code=75)
    run("collect", "first", "--max-qpu-seconds=90", exit_code=75)
    assert answer("status", "first")["max_qpu_seconds"] == 90
    run("submit", model, *ALLOWED, exit_code=75)  # the same line again takes nothing back
    assert answer("status", "first")["max_qpu_seconds"] == 90
    for _ in range(2):
        run("collect", "first", "--max-qpu-seconds=60", exit_code=75)
    assert answer("status", "first")["max_qpu_seconds"] == 60
    with Ledger(ledger) as book:
        revisions = book.state(book.get_run("first").id).revisions
    budgets = [r.max_qpu_seconds for r in revisions if r.reason == "another budget"]
    assert budgets == [90, 60]
    message = failing("collect", "first", "--max-qpu-seconds=0", exit_code=2)
    assert "--max-qpu-seconds must be a number above 0; got 0" in message


def test_nothing_is_loaded_for_a_wrong_argument(tmp_path, ledger, monkeypatch):
    """The checkpoint, which is not there, is not looked for."""
    nowhere = tmp_path / "nowhere"
    for command, arguments in [
        ("plan", ["--backend=fake_trino"]),
        ("plan", ["--backend=fake_fez", "--mode=lot"]),
        ("plan", ["--backend=fake_fez", "--data=mnist"]),
        ("plan", ["--backend=fake_fez", PLAIN, "--gap=1"]),
        ("plan", ["--backend=fake_fez", "--economy=good"]),
        ("plan", ["--backend=fake_fez", "--references=few"]),
        ("submit", [*ON_FAKE, "--no-calibrate"]),
        ("submit", [*ON_FAKE, "--encoder=angle"]),
        ("submit", ["--backend=aer", "--run=first", "--patches=2"]),
        ("submit", [*ON_FAKE, "--mode=lot"]),
        ("submit", [*ON_FAKE, "--run=a/b"]),
        ("submit", [*ON_FAKE, "--backend=fake_trino"]),
    ]:
        assert "nowhere" not in failing(command, nowhere, *arguments, exit_code=2)
    for arguments in (
        [*ON_FAKE, "--mode=lot"], [*ON_FAKE, "--run=a/b"], [*ON_FAKE, "--backend=fake_trino"],
    ):  # fmt: skip
        found = scripted("--model", nowhere, *arguments, exit_code=2)
        assert "nowhere" not in found["error"]
    assert "nowhere" in failing("plan", nowhere, "--backend=fake_fez", exit_code=1)


def test_options_that_do_not_go_with_the_network(model, ledger):
    for command, arguments in [
        ("plan", ["--backend=fake_manila", "--references=3"]),
        ("submit", [*ON_FAKE, "--references=3"]),
    ]:
        message = failing(command, model, *arguments, exit_code=2)
        assert "--references must be at least 4, a largest and a smallest value" in message
    message = failing("plan", model, "--backend=fake_manila", "--patches=3", exit_code=2)
    assert message.startswith("qpc: --patches: Expected 3 disjoint patches for the 2 qubits")
    found = scripted("--model", model, *ON_FAKE, "--references=3", exit_code=2)
    assert found["error"].startswith("--references must be at least 4")
    assert answer("list")["runs"] == []


def test_a_name_that_is_taken(model, finished):
    message = failing("submit", model, *ON_FAKE, "--shots=32", "--images=2", exit_code=1)
    assert "(shots: begun with 64, now 32; images: begun with 3, now 2)" in message


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (["--precision=0.25"], "(precision: begun with 0.125, now 0.25)"),
        (["--shots=64", "--noise=fake_manila"], "(noise: begun with depolarizing:0.01, now fake"),
        (["--shots=64", "--no-dedupe"], "(no-dedupe: begun with False, now True)"),
        (["--shots=64", '--options={"precision": "single"}'], "now {'precision': 'single'})"),
        (["--shots=64", "--resilience=1"], "(resilience: begun with 0, now 1)"),
        (["--shots=64", "--seed=2"], "(seed: begun with 1, now 2)"),
    ],
)
def test_every_setting_is_compared(model, finished, changed, match):
    """The last of an option counts."""
    message = failing("submit", model, *BEGUN, *changed, exit_code=1)
    assert match in message


def test_noise_and_options_are_kept(model, ledger, tmp_path):
    file = tmp_path / "options.json"
    file.write_text('{"precision": "double"}')
    planned = (*NOISY, "--shots=64", "--no-dedupe", f"--options=@{file}")
    plan = answer("plan", model, *planned)
    options = (*planned, "--run=first", "--seed=1")
    assert plan["noise"] == "depolarizing:0.01"
    assert plan["num_executions"] == plan["num_rows"]
    assert "Every pixel is run on its own, as asked for (--no-dedupe)." in plan["assumptions"]
    found = answer("submit", model, *options)
    assert (found["state"], found["noise"]) == ("done", "depolarizing:0.01")
    assert found["executions"] == plan["num_executions"]
    assert answer("submit", model, *options) == answer("collect", "first") == found
    assert "first on aer with noise depolarizing:0.01: accuracy " in run("collect", "first").stdout
    status = answer("status", "first")
    told = {name: status[name] for name in ("shots", "noise", "options", "dedupe", "seed")}
    assert told == {
        "shots": 64, "noise": "depolarizing:0.01", "options": {"precision": "double"},
        "dedupe": False, "seed": 1,
    }  # fmt: skip
    text = run("status", "first").stdout
    assert (
        '64 shots each, noise depolarizing:0.01, options {"precision": "double"}, seed 1, equal '
        "directions not merged"
    ) in text


def test_a_packed_run(model, ledger):
    """What saves QPU time is part of the run: kept, told, compared, and taken up again."""
    found = answer("submit", model, *ON_FAKE, *SHORT)
    told = {
        "encoder": "brickwall", "absorb_tail": True, "patches": 2, "gap": 0, "references": 4,
        "calibrate": True,
    }  # fmt: skip
    assert (found["state"], found["economy"]) == ("done", told)
    assert found["executions"] == 3 * 16 * 2 / 2 + 4
    assert answer("submit", model, *ON_FAKE, *SHORT) == answer("collect", "first") == found
    words = "brickwall encoder; absorbed tail; packed on 2 patches; reference rows in every job: 4"
    assert f"in 1 job; {words}\nreference rows: " in run("collect", "first").stdout
    assert answer("status", "first")["economy"] == told
    assert (
        f"64 shots each, seed 1, equal directions not merged; {words}"
        in run("status", "first").stdout
    )
    script_options = ("--model", model, *ON_FAKE, *SHORT)
    assert scripted(*script_options)["economy"] == told
    for changed, match in [
        (SHORT[:-1], "(references: begun with 4, now 0)"),
        ((*SHORT, "--patches=all"), "(patches: begun with 2, now all)"),
        ((*SHORT, "--encoder=multiplexor"), "(encoder: begun with brickwall, now multiplexor)"),
        ((*SHORT, "--gap=1"), "(gap: begun with 0, now 1)"),
        ((*SHORT, "--no-calibrate"), "(no-calibrate: begun with False, now True)"),
        ((*SHORT[:2], *SHORT[3:]), "(absorb-tail: begun with True, now False)"),
    ]:
        assert match in failing("submit", model, *ON_FAKE, *changed, exit_code=1)


def test_what_is_usual_on_a_device(model, ledger):
    """The best that was measured, on a device and its copies; not on aer; parts may be changed."""
    short = ("--images=2", "--shots=64", "--no-dedupe")

    def planned(*options):
        return answer("plan", model, "--no-compare", *options, *short)["economy"]

    told = planned("--backend=fake_lagos")
    assert told == {
        "encoder": "multiplexor", "absorb_tail": False, "patches": "all", "gap": 0,
        "references": 4, "calibrate": True,
    }  # fmt: skip
    raw = planned("--backend=fake_lagos", "--references=0", "--absorb-tail")
    assert raw == told | {"references": 0, "absorb_tail": True}
    assert planned("--backend=fake_lagos", "--no-absorb-tail") == told
    for plain in (("--backend=aer",), ("--backend=fake_lagos", PLAIN)):
        found = planned(*plain)
        assert (found["patches"], found["references"]) == (1, 0)
    raw = planned("--backend=fake_lagos", "--no-calibrate")
    assert raw == told | {"calibrate": False}
    assert "--economy best has no effect on aer" in failing(
        "plan", model, "--backend=aer", "--economy=best", *short, exit_code=2
    )
    script = scripted("--model", model, "--backend=fake_lagos", "--run=first", *short)
    assert script["economy"] == told
    text = run("collect", "first").stdout
    assert "of a value is left on 2 patches, and made up for" in text
    begun = ("submit", model, "--backend=fake_lagos", "--run=second", *short)
    plain = answer(*begun, PLAIN)
    assert answer(*begun) == plain  # begun when something else was usual
    assert "(patches: begun with 1, now all; " in failing(*begun, "--economy=best", exit_code=1)
    evaluated = json.loads(
        qpc("evaluate", model, "--engine=estimator", "--backend=fake_lagos", "--economy=best",
            *short, "--json").stdout
    )  # fmt: skip
    assert evaluated["economy"] == told


def test_fits_are_told(model, ledger, monkeypatch):
    """While a run is submitted and collected, before a spinner; a new process fits no row again."""
    told = []

    begin = progress.Progress.begin

    def tell(bar, text, *others):
        told.append(text)
        begin(bar, text, *others)

    monkeypatch.setattr(progress.Progress, "begin", tell)
    arguments = ("--backend=aer", "--images=2", "--shots=8", "--run=first", "--encoder=brickwall")
    run("submit", model, *arguments)
    fits = [text for text in told if "angles" in text]
    assert fits[0].startswith("Run first: Fitting angles, ")
    assert told.index("Run first: Sending jobs") > told.index(fits[-1])
    told.clear()
    run("collect", "first")
    assert not any("angles" in text for text in told)


def test_evaluate_tells_fits(model, monkeypatch):
    told = []
    monkeypatch.setattr(progress.Progress, "fitting", lambda bar, *numbers: told.append(numbers))
    qpc("evaluate", model, "--engine=estimator", "--encoder=brickwall", "--images=2")
    done, total = told[-1]
    assert done == total > 1


def test_packed_as_evaluate_has_it(model, ledger):
    given = ("--images=2", "--noise=fake_manila", "--patches=all", "--references=auto", "--json")
    ran = answer("submit", model, "--backend=aer", "--run=first", *given)
    evaluated = json.loads(qpc("evaluate", model, "--engine=estimator", *given).stdout)
    assert ran["economy"] == evaluated["economy"]
    assert ran["executions"] == evaluated["totals"]["executions"]
    assert ran["max_logit_difference"] == pytest.approx(evaluated["max_logit_difference"], rel=1e-4)


def test_a_packed_run_on_a_device(model, ledger, standin):
    """The next process takes the circuits, and so the patches, from the ledger."""
    run("submit", model, *ALLOWED, *SHORT, exit_code=75)
    (job,) = standin.records()["jobs"]
    assert job["num_executions"] == 64 * (4 * 16 * 2 / 2 + 4)
    standin.advance(HOURS)
    found = answer("collect", "first")
    assert (found["state"], found["executions"]) == ("done", 68)
    assert found["used_qpu_seconds"] == pytest.approx(found["predicted_qpu_seconds"], rel=0.01)


def test_noise_in_the_next_process(model, ledger):
    """The run was begun, and its process died before anything was sent."""
    ledger.parent.mkdir()
    work = checkpoint_runs.prepare(model, num_images=2)
    with Ledger(ledger) as book:
        options = EngineOptions(backend="aer", noise_model="depolarizing:0.2")
        checkpoint_runs.begin(book, "first", work, options, "aer")
    found = answer("collect", "first")
    assert found["noise"] == "depolarizing:0.2"
    assert found["max_logit_difference"] > 1e-3


def test_noise_of_a_file(model, ledger, tmp_path, monkeypatch):
    """The run goes on in another folder, and not with another content of the file."""
    path = tmp_path / "mine.toml"
    path.write_text(qpc("noise", "show", "depolarizing:0.2").stdout)
    monkeypatch.chdir(tmp_path)
    arguments = ("--backend=aer", "--run=first", "--images=1", "--noise=mine.toml")
    begun = answer("submit", model, *arguments)
    monkeypatch.chdir("/")
    found = answer("collect", "first")
    assert found["noise"] == str(path)
    assert found["max_logit_difference"] == begun["max_logit_difference"] > 1e-3
    path.write_text(qpc("noise", "show", "depolarizing:0.3").stdout)
    message = failing("collect", "first", exit_code=1)
    assert f"The noise {path} is not what run 'first' was begun with." in message
    path.unlink()
    assert "Cannot read" in failing("collect", "first", exit_code=1)


@pytest.mark.parametrize("noise", ["depolarizing:0.2", "fake_manila"])
def test_noise_as_evaluate_has_it(model, ledger, noise):
    given = ("--images=3", f"--noise={noise}", "--json")
    ran = answer("submit", model, "--backend=aer", "--run=first", *given)
    evaluated = json.loads(qpc("evaluate", model, "--engine=estimator", *given).stdout)
    assert ran["shots"] is None
    assert ran["loss"] == pytest.approx(evaluated["loss"], rel=1e-5)
    assert ran["max_logit_difference"] == pytest.approx(evaluated["max_logit_difference"], abs=1e-5)
    assert ran["max_logit_difference"] > 1e-3


def test_a_plan_with_noise_of_a_device(model):
    found = answer("plan", model, "--backend=aer", "--noise=fake_manila", "--images=2",
                   "--precision=0.125")  # fmt: skip
    assert (found["shots"], found["layers"][0]["patch"] is None) == (64, False)
    assert "The QPU time told is what fake_manila itself would take." in found["assumptions"]
    text = run("plan", model, "--backend=aer", "--noise=fake_manila", "--images=2").stdout
    assert text.startswith("aer with noise fake_manila: 2 images, ")


def test_options_reach_the_service(model, ledger, standin):
    options = '{"twirling": {"enable_gates": true}}'
    run("submit", model, *ALLOWED, "--images=1", f"--options={options}", exit_code=75)
    assert answer("status", "first")["options"] == {"twirling": {"enable_gates": True}}
    message = failing("submit", model, *ALLOWED, "--images=1", exit_code=1)
    assert "options: begun with {'twirling': {'enable_gates': True}}, now none" in message
    run("collect", "first", exit_code=75)
    standin.advance(HOURS)
    assert answer("collect", "first")["state"] == "done"


def test_a_run_that_is_done_needs_no_service(model, ledger, standin, monkeypatch):
    run("submit", model, *ALLOWED, exit_code=75)
    standin.advance(HOURS)
    found = answer("collect", "first")
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "wrong" * 9)
    assert answer("collect", "first") == found
    assert answer("submit", model, *ALLOWED) == found


def test_images_that_were_moved(model, ledger, tmp_path, monkeypatch):
    """The folder given now takes the place of the one that was recorded."""
    asked = []

    def load_source(source):
        asked.append(source.data_dir)
        return load(DataSource())

    load = checkpoint_runs.load_source
    monkeypatch.setattr(checkpoint_runs, "load_source", load_source)
    there, now = tmp_path / "there", tmp_path / "now"
    fashion = ("--data=fashion-mnist", f"--data-dir={there}")
    run("submit", model, "--backend=aer", "--images=2", "--run=first", *fashion)
    run("collect", "first")
    run("collect", "first", f"--data-dir={now}")
    assert asked == [str(there), str(there), str(now)]


def test_another_checkpoint(model, ledger, standin, tmp_path):
    run("submit", model, *ALLOWED, exit_code=75)
    moved = model.rename(tmp_path / "elsewhere")
    assert "If it was moved, --model tells where it is now." in failing(
        "collect", "first", exit_code=1
    )
    nowhere = failing("collect", "first", "--model", tmp_path / "nowhere", exit_code=1)
    assert "If it was moved" not in nowhere
    assert "found none" in failing("collect", "first", exit_code=1)
    run("collect", "first", "--model", moved, exit_code=75)
    network, record = checkpoint_runs.load(moved)
    with torch.no_grad():
        network.layers.pointwise.weight += 0.1
    save(model, network, make_record(network, record.data))
    message = failing("collect", "first", exit_code=1)
    assert "Run 'first' was begun with another checkpoint than is in" in message
    assert len(standin.records()["jobs"]) == 1


def test_a_job_that_fails_for_good(model, ledger, standin):
    run("submit", model, *ALLOWED, exit_code=75)
    (job,) = standin.records()["jobs"]
    standin.cancel_job(job["job_id"])
    for _ in range(2):
        message = failing("collect", "first", exit_code=1)
        assert f"job {job['job_id']} failed in attempt 1" in message
    assert "`qpc run resume first --again` pays for another attempt" in message
    assert answer("status", "first")["state"] == "failed"
    assert len(standin.records()["jobs"]) == 1
    run("resume", "first", "--again", exit_code=75)
    standin.advance(HOURS)
    assert answer("collect", "first")["state"] == "done"


@pytest.mark.parametrize("through", ["collect", *thorough("submit", "script")])
def test_results_of_other_jobs_are_fetched_after_a_failure(model, ledger, standin, through):
    """Nobody has to agree to another payment to see what is there."""
    given = (*ALLOWED, "--images=2", "--batch-size=1")
    run("submit", model, *given, exit_code=75)
    first, *others = standin.records()["jobs"]
    standin.cancel_job(first["job_id"])
    assert "failed in attempt 1" in failing("collect", "first", exit_code=1)
    before = {job["state"] for job in answer("status", "first")["jobs"]}
    assert before == {"failed", "posted"}
    standin.advance(HOURS)
    message = {
        "collect": lambda: failing("collect", "first", exit_code=1),
        "submit": lambda: failing("submit", model, *given, exit_code=1),
        "script": lambda: scripted("--run=first", exit_code=1)["error"],
    }[through]()
    assert "`qpc run resume first --again` pays for another attempt" in message
    assert "Results of its other jobs: 1 fetched now, 0 still to come." in message
    states = [job["state"] for job in answer("status", "first")["jobs"]]
    assert states == ["failed", "done"]
    assert len(standin.records()["jobs"]) == len([first, *others]) == 2
    assert "fetched" not in failing("collect", "first", exit_code=1)
    run("resume", "first", "--again", exit_code=75)


def test_results_that_cannot_be_fetched_after_a_failure(model, ledger, standin, monkeypatch):
    """The reason to refuse is told all the same."""
    run("submit", model, *ALLOWED, "--batch-size=2", exit_code=75)
    standin.cancel_job(standin.records()["jobs"][0]["job_id"])
    failing("collect", "first", exit_code=1)
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "wrong" * 9)
    message = failing("collect", "first", exit_code=1)
    assert "`qpc run resume first --again` pays for another attempt" in message
    assert "could not be fetched now: No access to ibm_manila" in message


def test_a_job_is_given_up(model, ledger, standin):
    run("submit", model, *ALLOWED, exit_code=75)
    (job,) = standin.records()["jobs"]
    forgotten = Fault("status", status=404, route="GET /jobs/*", times=None)
    standin.add_fault(forgotten)
    assert answer("collect", "first", exit_code=75)["jobs_open"] == 1
    result = run("resume", "first", "--give-up", job["job_id"], exit_code=1)
    notice, refusal = result.stderr.splitlines()[0], result.stderr.splitlines()[-1]
    cap = answer("status", "first")["jobs"][0]["reserved_seconds"]
    assert cap > 0
    assert f"first: job {job['job_id']} is given up" in notice
    assert f"its cap of {cap} s stays taken from the budget" in notice
    assert "given up by the user" in refusal
    assert "--again` pays for another attempt" in refusal
    assert answer("status", "first")["reserved_seconds"] == cap
    standin.clear_faults()
    assert answer("resume", "first", "--again", exit_code=75)["jobs_open"] == 1
    standin.advance(HOURS)
    assert answer("collect", "first")["state"] == "done"
    assert len(standin.records()["jobs"]) == 2
    message = failing("resume", "first", "--give-up", job["job_id"], exit_code=1)
    assert "does not wait for a job" in message


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["plan", "--backend=fake_trino"], "Did you mean fake_torino"),
        (["plan", "--backend=aer", "--rate=1"], "--rate has no effect on aer"),
        (["plan", "--backend=fake_fez", "--mode=lot"], "--mode must be one of job, batch, session"),
        (["submit", *ON_FAKE, "--backend=fake_trino"], "Did you mean fake_torino"),
        (["submit", *ON_FAKE, "--backend=ibm_fez"], "--seed has no effect on a real device"),
        (["submit", *ON_FAKE, "--run=a/b"], "--run must be a name of letters"),
        (["submit", "--backend=aer", "--run=x", "--seed=1"], "--seed has no effect on exact"),
        (["submit", "--backend=aer", "--run=x", "--max-qpu-seconds=1"], "has no effect on aer"),
        (["submit", *ON_FAKE, "--max-qpu-seconds=nan"], "must be a number above 0; got nan"),
        (["submit", *ON_IBM, "--mode=session", "--yes"], "it needs --max-qpu-seconds"),
        (["submit", "--backend=aer", "--run=x", "--mode=batch"], "--mode has no effect on Aer"),
        (["submit", *ON_FAKE, "--data-dir=x"], "data_dir would have no effect with the digits"),
        (["submit", *ON_FAKE, "--data=mnist"], "--data: Input should be 'digits'"),
        (["submit", *ON_FAKE, "--noise=fake_torino"], "--noise belongs to --backend aer"),
        (["plan", "--backend=aer", "--noise=loud"], "--noise: Unknown noise 'loud'"),
        (["plan", "--backend=aer", "--noise=fake_trino"], "--noise: Unknown backend"),
        (["plan", "--backend=aer", "--precision=1e-9"], "--precision must be 0 (exact) or"),
        (["submit", *ON_FAKE, "--precision=0.1"], "--shots and --precision contradict each other"),
        (["plan", "--backend=fake_fez", "--precision=0"], "--backend aer --noise fake_fez"),
        (["submit", "--backend=aer", "--run=x", "--precision=0", "--seed=1"], "on exact values"),
        (["plan", "--backend=fake_fez", "--options=[]"], "--options must be a JSON object"),
        (["plan", "--backend=fake_fez", "--options={"], "--options must be a JSON object, or @"),
        (["plan", "--backend=fake_fez", "--options=@none.json"], "cannot read none.json"),
        (["plan", "--backend=fake_fez", '--options={"no": 1}'], "Option 'no' of the Estimator"),
    ],
)
def test_wrong_usage(model, ledger, arguments, match):
    command, *rest = arguments
    assert match in failing(command, model, *rest, exit_code=2)
    assert not ledger.exists()


def test_ledgers_that_cannot_be_read(ledger, tmp_path, model):
    message = failing("list", exit_code=1)
    assert "there is none. `qpc run submit` begins a run; or check the path." in message
    assert "there is none" in failing("collect", "first", exit_code=1)
    ledger.parent.mkdir()
    ledger.write_text("no ledger, but some text that is long enough to be taken for a header\n" * 9)
    assert "it is damaged, or no ledger at all" in failing("status", "first", exit_code=1)
    message = failing("submit", model, *ON_FAKE, f"--ledger={tmp_path}", exit_code=1)
    assert "expected a file, found a folder" in message


def test_unknown_runs(finished):
    for command in ("status", "collect", "resume", "cancel"):
        message = failing(command, "second", exit_code=1)
        assert "it has no run 'second'; it has 'first', 'noisy'" in message


def test_networks_without_a_quantum_layer(tmp_path, ledger):
    twin = build_net(NetConfig(name="small-classical"))
    save(tmp_path / "twin", twin, make_record(twin))
    message = failing("submit", tmp_path / "twin", *ON_FAKE, exit_code=1)
    assert "has no quantum layer: there is nothing to send" in message


def test_runs_of_a_script_of_ones_own(ledger, standin, tmp_path):
    """What is sent by `hardware_runs.durable` alone: looked at, cancelled, given up here."""
    layers = nn.Sequential(QuantumPointwiseConv2d(4, 4, num_layers=1)).eval()
    images = torch.rand(2, 4, 1, 1)
    ledger.parent.mkdir()

    def script(name, **given):
        with (
            durable(ledger, name, "ibm_manila", shots=64, max_qpu_seconds=60, **given) as engine,
            torch.no_grad(),
            use_engine(layers, engine),
        ):
            return engine.map(layers, images.split(1))

    with pytest.raises(ResultsPending):
        script("own", about={"whose": "mine"}, dedupe_grid=None, qubits=[0, 1])
    status = answer("status", "own")
    assert (status["state"], status["shots"], status["dedupe"]) == ("pending", 64, False)
    assert status["layers"][0]["num_pixels_expected"] is None
    assert "own: pending; ibm_manila, mode job" in run("status", "own").stdout
    assert [r["run"] for r in answer("list")["runs"]] == ["own"]
    message = failing("collect", "own", exit_code=1)
    assert "was not begun by `qpc run submit`" in message
    assert "run that script again" in message

    found = answer("cancel", "own")
    jobs = {job["job_id"] for job in standin.records()["jobs"]}
    assert set(found["cancelled"]) == jobs
    assert len(jobs) == 2
    assert answer("status", "own")["state"] == "cancelled"
    assert "begun by `qpc run submit`" in failing("resume", "own", "--again", exit_code=1)
    assert answer("status", "own")["state"] == "unfinished"  # and may be sent again
    with pytest.raises(ResultsPending):
        script("own", about={"whose": "mine"}, dedupe_grid=None, qubits=[0, 1])
    last = answer("status", "own")["jobs"][-1]["job_id"]
    result = run("resume", "own", "--give-up", last, exit_code=1)
    assert f"job {last} is given up" in result.stderr


def test_a_noise_model_that_only_its_script_has(ledger, tmp_path):
    ledger.parent.mkdir()
    with Ledger(ledger) as book:
        durable(book, "own", "aer", shots=8, noise_model=parse_noise("depolarizing:0.1"))
        found = book.get_run("own")
        with pytest.raises(BackendError, match="a noise model that only its script has"):
            checkpoint_runs.reopen(book, found)
    assert answer("status", "own")["noise"].startswith("sha256:")
    assert answer("cancel", "own")["state"] == "cancelled"


def test_settings_that_say_little(ledger):
    with Ledger(ledger) as book:
        book.create_run("own", {"backend": "aer"}, now=1.0)
    assert "begun by `qpc run submit`" in failing("collect", "own", exit_code=1)
    assert answer("status", "own")["layers"] == []
    assert "own: unfinished; aer" in run("status", "own").stdout
    assert "own" in run("list").stdout
    assert answer("cancel", "own")["cancelled"] == []


def test_the_next_command_names_a_ledger_that_was_named(model, tmp_path, standin):
    other = tmp_path / "other ledger.sqlite"
    told = run("submit", model, *ALLOWED, "--ledger", other, exit_code=75).stdout
    assert told.splitlines()[-1] == f"Go on with: qpc run collect first --ledger '{other}'"
    assert "pending" in run("status", "first", "--ledger", other).stdout


# interrupts


def test_an_interrupt_while_jobs_are_sent(model, ledger, standin, monkeypatch):
    """The job that is being sent is recorded; the next one is not sent."""
    send = IBMJobs.send

    def interrupted(self, *arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return send(self, *arguments, **options)

    arguments = ("submit", model, *ALLOWED, "--batch-size=1")
    with monkeypatch.context() as patch:
        patch.setattr(IBMJobs, "send", interrupted)
        message = failing(*arguments, exit_code=130)
    assert message == "qpc: Stopped; nothing is lost. Go on with: qpc run collect first"
    assert len(standin.records()["jobs"]) == 1
    with Ledger(ledger) as book:
        states = [attempt.state for attempt in book.state(book.get_run("first").id).attempts()]
    assert states == [AttemptState.POSTED]
    assert answer("collect", "first", exit_code=75)["jobs_open"] == 4


def test_an_interrupt_while_waiting(model, ledger, standin, monkeypatch):
    monkeypatch.setattr(driving.time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    assert "Stopped" in failing("submit", model, *ALLOWED, "--wait", exit_code=130)
    assert answer("status", "first")["state"] == "pending"


def test_an_unclear_post_is_cleared_up_by_the_next_process(model, ledger, standin):
    """The connection is cut after the POST was accepted: the job is found by its tag."""
    standin.add_fault(Fault("cut_after"))
    run("submit", model, *ALLOWED, exit_code=75)
    assert [job["state"] for job in answer("status", "first")["jobs"]] == ["intent"]
    run("collect", "first", exit_code=75)
    assert [job["state"] for job in answer("status", "first")["jobs"]] == ["posted"]
    standin.advance(HOURS)
    assert answer("collect", "first")["jobs"] == 1
    assert len(standin.records()["jobs"]) == 1


# the log, and secrets


def test_no_token_anywhere(model, ledger, standin, monkeypatch):
    said = run("submit", model, *ALLOWED, exit_code=75).output
    wrong = "wrong-" + "1" * 38
    with monkeypatch.context() as patch:
        patch.setenv("QISKIT_IBM_TOKEN", wrong)
        said += run("collect", "first", exit_code=1).output
    standin.advance(HOURS)
    said += run("collect", "first").output + run("status", "first").output
    files = list(ledger.parent.iterdir())
    assert {file.name for file in files} == {"ledger.sqlite", "first.log.jsonl"}
    for file in files:
        assert file.stat().st_mode & 0o77 == 0
        for token in (TOKEN, wrong):
            assert token.encode() not in file.read_bytes()
            assert token not in said
    lines = [
        json.loads(line) for line in (ledger.parent / "first.log.jsonl").read_text().splitlines()
    ]
    events = [line["event"] for line in lines]
    assert events[:2] == ["planned", "opened"]
    assert events[-1] == "done"
    assert "pending" in events
    assert {line["run"] for line in lines} == {"first"}


def test_secrets_are_blotted_out(monkeypatch):
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "abcdefghijkl")
    text = 'key abcdefghijkl, "Authorization": "Bearer eyJh.bGci_x-y", apikey: 0123456789'
    assert without_secrets(text) == 'key ***, "Authorization": "Bearer ***", apikey: ***'
    assert without_secrets("the token is wrong") == "the token is wrong"


def test_where_logs_lie(tmp_path):
    assert log_path(tmp_path / "a.sqlite", "x") == tmp_path / "x.log.jsonl"
    assert log_path("sqlite:////data/a.sqlite", "x") == Path("/data/x.log.jsonl")
    assert log_path("postgresql://user:word@host/base", "x") == Path("runs/x.log.jsonl")
    with run_log(tmp_path / "new" / "x.log.jsonl", "x"):
        pass
    assert (tmp_path / "new" / "x.log.jsonl").read_text() == ""


# the script for batch queues


def scripted(*arguments, exit_code=0):
    return json.loads(call(script, *arguments, exit_code=exit_code).stdout)


def test_the_script(model, ledger, standin):
    wanted = scripted("--run=first", exit_code=1)
    assert "there is none" in wanted["error"]
    arguments = ("--model", model, *ALLOWED)
    assert scripted(*arguments, exit_code=75)["state"] == "pending"
    assert scripted("--run=first", exit_code=75)["jobs_open"] == 1
    scripted("--run=first", "--max-qpu-seconds=70", exit_code=75)
    assert answer("status", "first")["max_qpu_seconds"] == 70
    standin.advance(HOURS)
    assert scripted("--run=first")["state"] == "done"
    assert scripted(*arguments)["jobs"] == 1
    assert len(standin.records()["jobs"]) == 1


@pytest.mark.parametrize(
    "option",
    ["--mode=job", "--resilience=0", "--batch-size=64", "--data-dir=x", "--data=digits",
     "--images=3", "--shots=64", "--seed=1", "--noise=fake_manila", "--options={}", "--no-dedupe",
     "--precision=0.1", "--backend=aer", "--model=x", "--yes"],
)  # fmt: skip
def test_the_script_ignores_nothing(finished, option):
    """Defaults included: with --run alone a run goes on as it was begun."""
    found = scripted("--run=first", option, exit_code=2)
    assert found["error"].startswith(f"{option.split('=')[0]}: give both --model and --backend")
    assert found["state"] == "wrong usage"


@pytest.mark.slow
def test_the_script_in_a_process(model, ledger):
    done = subprocess.run(
        [sys.executable, "-m", "qpc_cli.submit", "--run=p", "--model", str(model),
         "--backend=aer", "--images=2"],
        capture_output=True, text=True, check=True, cwd=model, env=environment(),
    )  # fmt: skip
    assert json.loads(done.stdout)["state"] == "done"


def test_the_script_when_it_fails(model, ledger, standin, monkeypatch):
    found = scripted("--model", model, *ON_IBM, exit_code=2)
    assert found["error"] == (
        "Nothing was sent: a real device needs --max-qpu-seconds, or --yes for any time."
    )
    found = scripted("--model", model, *ON_IBM, "--max-qpu-seconds=2", exit_code=1)
    assert (found["state"], found["run"]) == ("failed", "first")
    assert "it has no run 'first'" in scripted("--run=first", exit_code=1)["error"]
    found = scripted("--model", model, *ON_FAKE, "--backend=fake_trino", exit_code=2)
    assert "Did you mean fake_torino" in found["error"]
    assert "a name of letters" in scripted("--run=a/b", exit_code=2)["error"]
    assert "or --run alone" in scripted("--run=first", "--images=3", exit_code=2)["error"]
    found = scripted("--model", model, *ON_FAKE, "--data=mnist", exit_code=2)
    assert found["error"].startswith("--data: Input should be 'digits'")
    monkeypatch.setattr(driving.time, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
    found = scripted("--model", model, *ALLOWED, "--wait", exit_code=130)
    assert found == {"run": "first", "state": "interrupted"}
    run("cancel", "first")
    assert "was cancelled" in scripted("--run=first", exit_code=1)["error"]
    text = " ".join(call(script, "--help").stdout.replace("│", " ").split())
    assert "0 done; 75 results are pending" in text
    assert "130 interrupted" in text


# help, and the stand-in


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from qpc_cli.app import app; from typer.testing import CliRunner; "
        "call = lambda *words: CliRunner().invoke(app, [*words, '--help']).exit_code; "
        "assert call('run') == call('run', 'submit') == call() == 0; "
        "print([m for m in ('torch', 'qiskit', 'sqlalchemy', 'hardware_runs', 'numpy') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout == "[]\n"


def test_looking_at_runs_and_wrong_names_load_neither_torch_nor_qiskit(finished):
    code = (
        "import sys; from qpc_cli.app import app; from typer.testing import CliRunner; "
        "call = lambda *words: CliRunner().invoke(app, ['run', *words]); "
        "assert call('status', 'first').exit_code == call('list').exit_code == 0; "
        "wrong = [call(each, 'second') for each in ('collect', 'resume', 'report', 'status')]; "
        "assert [each.exit_code for each in wrong] == [1] * 4; "
        "assert all('no run \\'second\\'' in each.stderr for each in wrong); "
        "print([m for m in ('torch', 'qiskit') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_help_names_commands_and_exit_codes():
    text = " ".join(run("--help").stdout.replace("│", " ").split())
    for word in ("plan", "submit", "collect", "resume", "status", "list", "cancel", "75 results"):
        assert word in text
    assert "standin" in qpc("--help").stdout
    text = " ".join(run("resume", "--help").stdout.replace("│", " ").split())
    assert "--give-up" in text
    assert "cap stays taken from the budget" in text


def test_help_of_the_standin():
    assert "--posts-per-minute" in qpc("standin", "--help").stdout


@pytest.mark.slow
def test_standin():
    process = subprocess.Popen(
        [sys.executable, "-c", "from qpc_cli.app import main; main()", "standin", "--json"],
        stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    with process:
        try:
            told = json.loads(process.stdout.readline())
            assert Remote(told["url"]).records()["jobs"] == []
        finally:
            process.terminate()
    assert told["environment"]["QISKIT_IBM_URL"].startswith(told["url"])
    assert process.returncode == 0
