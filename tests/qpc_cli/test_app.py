import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, failing, qpc
from fakes import recording
from later import later
from processes import PIPE, Process
from qiskit import qasm3, qpy

import qpc_qiskit
from hardware_runs.standin import programs
from qpc_cli import support as cli_support
from qpc_qiskit.backends import runtime
from qpc_qiskit.nets import NetConfig, build_net
from qpc_qiskit.training.checkpoint import load, read_record, save
from qpc_qiskit.training.checkpoint import make_record as make

training = later("qpc_qiskit.training.trainer")
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    qpc("train", *TINY, "--epochs=2", "--seed=3", "--out", folder)
    return folder


def test_help_names_commands_and_exit_codes():
    text = qpc("--help").stdout
    assert all(command in text for command in ("train", "evaluate", "export", "backends"))
    assert "0 done, 1 it failed, 2 wrong usage, 130 interrupted" in text
    assert qpc("--version").stdout == f"qpc {qpc_qiskit.__version__}\n"


def test_help_of_train_offers_every_option():
    text = " ".join(qpc("train", "--help").stdout.replace("│", " ").split())
    for name in ("--eta-min", "--num-qubits", "--data-dir", "--augment", "--resume", "default 20"):
        assert name in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from qpc_cli.app import app; from typer.testing import CliRunner; "
        "call = lambda *words: CliRunner().invoke(app, [*words, '--help']).exit_code; "
        "assert call('train') == call('evaluate') == call('backends') == 0; "
        "print([m for m in ('torch', 'lightning', 'matplotlib', 'qiskit', 'qiskit_aer', 'sklearn', "
        "'pandas', 'qiskit_ibm_runtime', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert found.stdout == "[]\n"


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(qpc_qiskit.__file__).parents[1])}


def test_train_says_what_came_of_it(tmp_path):
    out = tmp_path / "run"
    result = qpc("train", *TINY, "--epochs=1", "--out", out)
    assert result.stdout.startswith(f"{out}: test accuracy ")
    assert "epoch 1/1  loss" in result.stderr
    record = read_record(out)
    assert record.net.width == 4
    assert record.training.epochs == 1
    assert record.data.source.train_images == 60


def test_train_with_json(tmp_path):
    options = ("--optimizer=sgd", "--momentum=0.5", "--bias-channel", "--net=small", "--seed=7")
    result = qpc("train", *TINY, *options, "--epochs=1", "--json", "--out", tmp_path / "run")
    answer = json.loads(result.stdout)
    assert answer["epochs"] == len(answer["history"]) == 1
    assert set(answer["history"][0]) == {
        "epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    }  # fmt: skip
    record = read_record(tmp_path / "run")
    assert (record.training.optimizer, record.training.momentum) == ("sgd", 0.5)
    assert record.net.bias_channel
    assert record.training.seed == 7


def test_train_has_a_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = ("--net=small-classical", "--width=4")
    qpc("train", "--train-images=60", "--test-images=20", *net, "--epochs=1")
    assert (tmp_path / "runs" / "digits-small-classical" / "model.json").exists()


def test_train_with_a_preset(tmp_path):
    net = ("--width=4", "--quantum-channels=4", "--hidden=8")
    images = ("--train-images=60", "--test-images=20")
    out = tmp_path / "run"
    qpc("train", "--preset=paper-literal", *net, *images, "--lr=0.02", "--epochs=1", "--out", out)
    record = read_record(out)
    assert (record.net.name, record.net.width, record.net.dropout) == ("paper-fig3a", 4, 0.5)
    assert (record.training.optimizer, record.training.lr) == ("adam", 0.02)
    circuit = tmp_path / "kernel.qasm"
    qpc("export", out, "--layer=layers.block.pointwise2", "--kernel=1", "-o", circuit)
    assert qasm3.loads(circuit.read_text()).num_qubits == 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--lr=-1"], "--lr: Input should be greater than 0"),
        (["--optimizer=lbfgs"], "--optimizer: Input should be 'adam', 'adamw', 'sgd' or 'rmsprop'"),
        (["--momentum=0.9"], "momentum would have no effect with adam"),
        (["--num-qubits=2"], "2 qubits hold 4 channels, the layer reads 16"),
        (["--data=mnist"], "--data: Input should be 'digits', 'fashion-mnist' or 'cifar10'"),
        (["--net=big"], "--net: Input should be 'small', 'small-classical', 'paper-cnn'"),
        (["--data-dir=x"], "data_dir would have no effect with the digits"),
        (["--resume"], "--resume needs --out"),
        (["--resume", "--force"], "contradict each other"),
        (["--preset=weak"], "--preset must be one of paper-literal, "),
        (["--preset=strong", "--resume"], "--preset has no effect with --resume"),
        (["--pointwise=spline"], "--pointwise: Input should be 'quantum'"),
        (["--kernel-size=2"], "kernel_size would have no effect on the network small"),
        (["--devices=200"], "200 processes cannot share a batch of 128 images"),
    ],
)
def test_wrong_usage_of_train(arguments, match):
    assert match in failing("train", *arguments, exit_code=2)


def test_the_kernel_size_under_its_old_name():
    told, wrong = qpc("train", "--patch-size=2", exit_code=2).stderr.splitlines()
    assert told == "qpc: --patch-size is called --kernel-size now."
    assert "kernel_size would have no effect on the network small" in wrong


def test_unknown_option():
    assert "No such option" in qpc("train", "--depth=3", exit_code=2).stderr


def test_train_does_not_overwrite(run):
    assert "holds a run already" in failing("train", "--out", run, exit_code=1)


def test_missing_data(tmp_path):
    message = failing("train", "--data=cifar10", "--data-dir", tmp_path / "no", exit_code=1)
    assert "expected a folder with the cifar10 files" in message


def test_resume_takes_the_options_of_the_run(tmp_path, monkeypatch):
    out = tmp_path / "two parts"
    options = (*TINY, "--epochs=2", "--seed=3")
    original = training._Task.training_step

    def stopping(self, batch, batch_index):
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(training._Task, "training_step", stopping)
        result = qpc("train", *options, "--out", out, exit_code=130)
        assert result.stdout == ""
        assert f"go on with: qpc train --resume --out '{out}'" in result.stderr.splitlines()[-1]
    message = failing("train", "--resume", "--out", out, "--lr=0.5", exit_code=1)
    assert "training.lr: begun with 0.01, now 0.5" in message
    qpc("train", "--resume", "--out", out)
    qpc("train", *options, "--out", tmp_path / "whole")
    for name in ("metrics.csv", "model.safetensors", "model.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_interrupt_from_outside(tmp_path):
    arguments = ("train", *TINY, "--epochs=100000", "--out", str(tmp_path / "run"))
    qpc_qiskit = (sys.executable, "-m", "qpc_qiskit")
    process = Process([*qpc_qiskit, *arguments], stdout=PIPE, stderr=PIPE, cwd=tmp_path)
    with process:
        try:
            first = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert first.startswith("epoch 1/100000")
    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in errors
    assert "of 100000 epochs" in errors.splitlines()[-1]
    assert "qpc train --resume --out" in errors.splitlines()[-1]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json", "last.ckpt", "metrics.csv", "seconds.csv", "curves.png",
    }  # fmt: skip


def test_evaluate_gives_the_accuracy_of_the_training(run):
    answer = json.loads(qpc("evaluate", run, "--json", "--batch-size=7").stdout)
    metrics = read_record(run).metrics
    assert answer["images"] == 20
    assert answer["accuracy"] == metrics["test_accuracy"]
    assert answer["loss"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    assert answer["same_data_as_in_training"]
    assert qpc("evaluate", run).stdout.startswith("exact: accuracy ")


def test_evaluate_on_other_data_says_so(run):
    result = qpc("evaluate", run, "--data=digits", "--images=30")
    assert "30 test images" in result.stdout
    assert "not the data that the network was trained" in result.stdout


def test_evaluate_on_the_estimator(run):
    arguments = ("evaluate", run, "--engine=estimator", "--images=3")
    answer = json.loads(qpc(*arguments, "--json").stdout)
    assert answer["engine"] == "estimator"
    assert answer["agreement"] == 1
    assert answer["max_logit_difference"] < 1e-4
    assert answer["exact_accuracy"] == answer["accuracy"]
    assert answer["last_report"]["num_pixels"] == 3 * 4 * 4
    assert "100.00 % of the predictions agree" in qpc(*arguments).stdout


ON_ESTIMATOR = "--engine=estimator"


def evaluated(run, *arguments):
    return json.loads(qpc("evaluate", run, ON_ESTIMATOR, *arguments, "--json").stdout)


def test_evaluate_on_a_snapshot_of_a_device(run):
    arguments = ("--backend=fake_manila", "--shots=256", "--images=2", "--seed=1")
    answer = evaluated(run, *arguments)
    report, totals = answer["last_report"], answer["totals"]
    assert (answer["backend"], answer["shots"]) == ("fake_manila", 256)
    assert totals["rows"] == 2 * 4 * 4 * 2
    assert totals["executions"] == report["num_executions"] <= totals["rows"]
    assert totals["jobs"] == 1
    assert 0 < totals["max_std"] < 5 / 256**0.5
    assert totals["predicted_qpu_seconds"] == pytest.approx(report["predicted_qpu_seconds"])
    assert answer["layers"]["layers.pointwise"]["num_two_qubit_gates"] > 0
    low, high = answer["accuracy_interval"]
    assert 0 <= low <= answer["accuracy"] <= high <= 1
    again = evaluated(run, *arguments)
    changing = {"seconds", "last_report"}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in answer.items() if k not in changing
    }
    text = qpc("evaluate", run, ON_ESTIMATOR, *arguments).stdout
    assert text.startswith("estimator on fake_manila: accuracy ")
    assert "(95 % interval " in text
    assert "256 shots each, in 1 job\n" in text
    assert "two-qubit gates in" in text
    assert "standard error of an expectation value: 0.0" in text
    assert "on the device this would take about " in text


def test_steps_add_up(run):
    arguments = ("--noise=depolarizing:0.02", "--images=3", "--batch-size=1", "--no-dedupe")
    answer = evaluated(run, *arguments)
    assert answer["last_report"]["num_rows"] == 16 * 2
    assert answer["totals"]["rows"] == answer["totals"]["executions"] == 3 * 16 * 2
    assert answer["totals"]["jobs"] == 3
    assert answer["totals"]["predicted_qpu_seconds"] is None


def test_evaluate_with_depolarizing_noise(run):
    answer = evaluated(run, "--noise=depolarizing:0.02", "--images=2")
    assert answer["options"] == {"noise": "depolarizing:0.02"}
    assert "accuracy_interval" not in answer
    assert answer["shots"] is None
    assert answer["totals"]["max_std"] == 0
    assert answer["max_logit_difference"] > 0
    without = evaluated(run, "--noise=depolarizing:0", "--images=2")
    assert without["max_logit_difference"] < 1e-4
    text = qpc("evaluate", run, ON_ESTIMATOR, "--noise=depolarizing:0.02", "--images=2").stdout
    assert text.startswith("estimator on aer with noise depolarizing:0.02: accuracy ")
    assert "exact values" in text
    assert "on the device" not in text


def test_evaluate_with_the_noise_of_a_device(run):
    answer = evaluated(run, "--noise=fake_fez", "--images=2", "--shots=64", "--seed=2")
    report = answer["last_report"]
    assert answer["backend"] == "aer"
    assert report["about"]["noise"] == "fake_fez"
    assert len(report["patch"]) == 2
    assert report["predicted_qpu_seconds"] > 0


def test_evaluate_with_a_precision_of_zero(run):
    answer = evaluated(run, "--backend=fake_manila", "--precision=0", "--images=2")
    assert answer["totals"]["max_std"] == 0
    assert answer["max_logit_difference"] > 0


def test_evaluate_within_a_budget(run):
    arguments = (ON_ESTIMATOR, "--backend=fake_manila", "--images=1", "--shots=64")
    message = failing("evaluate", run, *arguments, "--max-qpu-seconds=1", exit_code=1)
    assert "max_qpu_seconds is 1; nothing was sent" in message
    qpc("evaluate", run, *arguments, "--max-qpu-seconds=100")


SHORT = ("--encoder=brickwall", "--absorb-tail", "--patches=all", "--references=auto")


def test_evaluate_packed_and_calibrated(run):
    """Two patches of fake_manila: 2 images of 16 pixels, two kernels, 4 references."""
    arguments = ("--backend=fake_manila", "--images=2", "--shots=256", "--seed=1", "--no-dedupe")
    answer = evaluated(run, *arguments, *SHORT)
    assert answer["economy"] == {
        "encoder": "brickwall", "absorb_tail": True, "patches": "all", "gap": 0, "references": 4,
        "calibrate": True,
    }  # fmt: skip
    plain = evaluated(run, *arguments)
    assert plain["economy"]["patches"] == 1
    (layer,) = answer["layers"].values()
    (long,) = plain["layers"].values()
    assert len(layer["patches"]) == 2
    assert (layer["encoder"], layer["num_references"]) == ("brickwall", 4)
    assert 0 < layer["max_encoding_error"] < 1e-3
    assert layer["num_two_qubit_gates"] < long["num_two_qubit_gates"]
    assert answer["totals"]["rows"] == plain["totals"]["executions"] == 2 * 16 * 2
    assert answer["totals"]["executions"] == 2 * 16 * 2 / 2 + 4
    assert answer["last_report"]["calibration"]["applied"] is True
    text = qpc("evaluate", run, ON_ESTIMATOR, *arguments, *SHORT).stdout
    assert "36 circuit executions for 64 rows, equal directions merged and reference rows" in text
    assert "layers.pointwise: on 2 patches, best on " in text
    assert "brickwall encoder: no feature is off by more than " in text
    assert "layers.pointwise: calibrated; 0 of 4 lines are not certain enough" in text


def test_evaluate_packed_on_a_device_kept_as_a_file(run, tmp_path):
    path = tmp_path / "manila.json"
    qpc("noise", "snapshot", "fake_manila", "-o", path)
    arguments = ("--images=1", "--shots=64", "--patches=all")
    answer = evaluated(run, f"--noise={path}", *arguments)
    (layer,) = answer["layers"].values()
    assert len(layer["patches"]) == 2


def test_evaluate_with_references_that_are_not_applied(run):
    arguments = ("--noise=depolarizing:0.05", "--images=1", "--references=4")
    text = qpc("evaluate", run, ON_ESTIMATOR, *arguments, "--no-calibrate").stdout
    assert "reference rows run, but not applied" in text
    noisy = evaluated(run, *arguments, "--no-calibrate")
    calibrated = evaluated(run, *arguments)
    assert noisy["last_report"]["calibration"]["applied"] is False
    assert calibrated["max_logit_difference"] < noisy["max_logit_difference"] / 2


def test_evaluate_tells_bad_patches(run, monkeypatch):
    from qpc_qiskit.engines import estimator

    monkeypatch.setattr(estimator, "bad_patches", lambda _: {0: "Patch 0, qubit 1: scale 0."})
    arguments = ("--noise=depolarizing:0.05", "--images=2", "--batch-size=1", "--references=4")
    text = qpc("evaluate", run, ON_ESTIMATOR, *arguments).stdout
    assert "layers.pointwise: bad in 2 of 2 jobs: Patch 0, qubit 1: scale 0." in text


def test_json_has_no_nan():
    told = {"a": (1.5, float("nan")), "b": {"c": [float("inf")]}}
    assert cli_support._told(told) == {"a": [1.5, None], "b": {"c": [None]}}


@pytest.fixture
def service(monkeypatch):
    """An account with IBM that needs no network."""
    found = recording(noisy=True)
    monkeypatch.setattr(runtime, "QiskitRuntimeService", lambda: found)
    return found


ON_IBM = (ON_ESTIMATOR, "--backend=ibm_manila", "--images=1", "--shots=64", "--mode=batch")


ANNOUNCED = "ibm_manila: at most 32 circuit executions of 64 shots in 1 job, about 3 s of QPU time"


@pytest.mark.parametrize("permission", ["--yes", "--max-qpu-seconds=4"])
def test_evaluate_on_a_device_says_first_what_will_be_sent(run, service, permission):
    result = qpc("evaluate", run, *ON_IBM, permission)
    assert result.stderr.startswith(ANNOUNCED)
    assert "predicted: about 3 s of QPU time" in result.stdout
    assert [job.shots for job in service.jobs_posted] == [64]
    assert [session.closed for session in service.sessions] == [True]


def test_nothing_is_sent_to_a_device_without_permission(run, service):
    announced, message = qpc("evaluate", run, *ON_IBM, exit_code=2).stderr.splitlines()
    assert announced.startswith(ANNOUNCED)
    assert "a real device needs --max-qpu-seconds, or --yes for any time" in message
    assert service.num_posts == 0
    assert service.sessions == []


@pytest.mark.parametrize("yes", [[], ["--yes"]], ids=["", "yes"])
def test_the_whole_forecast_is_compared_with_the_budget(run, service, yes):
    """20 images of 16 pixels for two kernels, in three batches: none alone is too much."""
    arguments = (*ON_IBM, "--images=20", "--batch-size=8", *yes, "--max-qpu-seconds=12")
    announced, message = qpc("evaluate", run, *arguments, exit_code=1).stderr.splitlines()
    assert "640 circuit executions of 64 shots in 3 jobs, about 17 s" in announced
    assert message.startswith("qpc: Nothing was sent: that is more than --max-qpu-seconds 12.")
    assert service.num_posts == 0
    assert service.sessions == []


def test_an_interrupt_closes_the_batch(run, service):
    service.fail_result = {0: KeyboardInterrupt()}
    result = qpc("evaluate", run, *ON_IBM, "--yes", exit_code=130)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == "qpc: Stopped."
    assert [session.closed for session in service.sessions] == [True]


def without_account(monkeypatch):
    def refused():
        raise LookupError("Unable to find account.")

    monkeypatch.setattr(runtime, "QiskitRuntimeService", refused)


def test_evaluate_without_an_account(run, monkeypatch):
    without_account(monkeypatch)
    message = failing("evaluate", run, ON_ESTIMATOR, "--backend=ibm_manila", exit_code=1)
    assert "No access to ibm_manila: LookupError: Unable to find account." in message


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--shots=5"], "--shots belongs to --engine noisy or estimator; it has no effect with"),
        (["--backend=aer", "--engine=exact"], "--backend belongs to --engine estimator"),
        (["--no-dedupe"], "--no-dedupe belongs to --engine estimator"),
        (["--patches=2"], "--patches belongs to --engine estimator"),
        (["--absorb-tail"], "--absorb-tail belongs to --engine noisy or estimator"),
        (["--no-calibrate"], "--no-calibrate belongs to --engine estimator"),
        ([ON_ESTIMATOR, "--encoder=angle"], "--encoder must be one of multiplexor, brickwall, "),
        ([ON_ESTIMATOR, "--encoder=brickwall:x"], "brickwall:DEPTH or auto; got 'brickwall:x'."),
        (
            [ON_ESTIMATOR, "--backend=fake_manila", "--patches=3"],
            "--patches: Expected 3 disjoint patches for the 2 qubits",
        ),
        (
            [ON_ESTIMATOR, "--noise=fake_manila", "--patches=3"],
            "--patches: Expected 3 disjoint patches for the 2 qubits",
        ),
        ([ON_ESTIMATOR, "--patches=2"], "--patches has no effect on aer"),
        (
            [ON_ESTIMATOR, "--patches=some"],
            "--patches must be a whole number of at least 1, or all",
        ),
        ([ON_ESTIMATOR, "--gap=1", "--backend=fake_fez"], "--gap has no effect on one patch"),
        ([ON_ESTIMATOR, "--references=auto"], "--references has no effect on exact values without"),
        (
            [ON_ESTIMATOR, "--references=3", "--shots=9"],
            "--references must be at least 4, a largest",
        ),
        ([ON_ESTIMATOR, "--no-calibrate"], "--no-calibrate has no effect without --references"),
        ([ON_ESTIMATOR, "--shots=5", "--precision=0.1"], "--shots and --precision contradict"),
        ([ON_ESTIMATOR, "--noise=warm"], "--noise: Unknown noise 'warm'; expected a device's name"),
        ([ON_ESTIMATOR, "--noise=depolarizing:2"], "expected a probability from 0 to 1, got '2'"),
        ([ON_ESTIMATOR, "--noise=fake_trino"], "--noise: Unknown backend 'fake_trino'"),
        ([ON_ESTIMATOR, "--backend=fake_trino"], "Did you mean fake_torino"),
        ([ON_ESTIMATOR, "--backend=ibm"], "--backend: Unknown backend 'ibm'"),
        (
            [ON_ESTIMATOR, "--backend=fake_fez", "--noise=depolarizing:0.1"],
            "--noise belongs to --backend aer; fake_fez has its own noise",
        ),
        ([ON_ESTIMATOR, "--seed=3"], "--seed has no effect on exact values; give --shots"),
        ([ON_ESTIMATOR, "--seed=3", "--backend=fake_fez", "--precision=0"], "--seed has no effect"),
        ([ON_ESTIMATOR, "--seed=3", "--backend=ibm_fez"], "--seed has no effect on a real device"),
        ([ON_ESTIMATOR, "--mode=lot"], "--mode must be one of job, batch, session; got 'lot'"),
        ([ON_ESTIMATOR, "--mode=batch"], "--mode has no effect on Aer"),
        ([ON_ESTIMATOR, "--precision=0", "--resilience=1"], "--precision=0 asks for exact values"),
        (
            [ON_ESTIMATOR, "--precision=inf"],
            "--precision must be 0 (exact) or a finite number of at least 1e-06",
        ),
        ([ON_ESTIMATOR, "--max-qpu-seconds=9"], "--max-qpu-seconds has no effect on exact values"),
        ([ON_ESTIMATOR, "--max-qpu-seconds=9", "--shots=2"], "has no effect on aer, which is no"),
        (
            [ON_ESTIMATOR, "--backend=fake_fez", "--max-qpu-seconds=nan"],
            "--max-qpu-seconds must be a number above 0; got nan",
        ),
    ],
)
def test_wrong_options_of_the_estimator(run, arguments, match):
    assert match in failing("evaluate", run, *arguments, exit_code=2)


@pytest.mark.parametrize("argument", ["--shots=0", "--resilience=3", "--precision=-1"])
def test_numbers_out_of_range(run, argument):
    message = qpc("evaluate", run, ON_ESTIMATOR, argument, exit_code=2).stderr
    assert argument.split("=")[0] in message


def test_wrong_usage_of_evaluate(run, tmp_path):
    assert "Unknown engine 'warp'" in failing("evaluate", run, "--engine=warp", exit_code=2)
    assert "found none" in failing("evaluate", tmp_path, exit_code=1)
    message = failing("evaluate", run, "--images=21", exit_code=1)
    assert "expected 1 to 20 images to keep, found 21" in message


def test_models_that_say_less(tmp_path):
    twin = build_net(NetConfig(name="small-classical"))
    save(tmp_path, twin, make(twin))
    assert "give --data" in failing("evaluate", tmp_path, exit_code=2)
    assert "exact: accuracy" in qpc("evaluate", tmp_path, "--data=digits").stdout
    message = failing("evaluate", tmp_path, "--engine=estimator", exit_code=2)
    assert "no quantum layer, so --engine estimator has no effect" in message
    assert "there is no circuit" in failing("export", tmp_path, "-o", "x", exit_code=2)
    other = build_net(NetConfig(name="small-classical", image_size=28))
    save(tmp_path, other, make(other))
    message = failing("evaluate", tmp_path, "--data=digits", exit_code=1)
    assert "expects images (1, 28, 28)" in message


def test_export_qasm(run, tmp_path):
    path = tmp_path / "kernel.qasm"
    assert qpc("export", run, "-o", path).stdout.startswith(f"{path}: kernel 0 of layers.pointwise")
    circuit = qasm3.loads(path.read_text())
    assert circuit.num_qubits == 2
    bound = circuit.num_parameters
    qpc("export", run, "-o", path, "--free")
    assert qasm3.loads(path.read_text()).num_parameters == bound + 6


def test_export_qpy(run, tmp_path):
    path = tmp_path / "kernel.qpy"
    arguments = ("--kernel=1", "--format=qpy", "--layer=layers.pointwise", "--json")
    answer = json.loads(qpc("export", run, "-o", path, *arguments).stdout)
    assert (answer["kernel"], answer["bound"], answer["num_qubits"]) == (1, True, 2)
    with path.open("rb") as file:
        (circuit,) = qpy.load(file)
    layer = load(run)[0].layers.pointwise
    assert circuit.num_parameters == layer.circuit().num_parameters - layer.weight.shape[1]


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["--kernel=2"], 2, "--kernel must be one of 0..1 in layers.pointwise; got 2"),
        (["--layer=head"], 2, "--layer must be one of layers.pointwise; got head"),
        (["--format=quil"], 2, "Unknown format 'quil'; expected one of qasm3, qpy"),
    ],
)
def test_wrong_usage_of_export(run, tmp_path, arguments, code, match):
    path = tmp_path / "file"
    assert match in failing("export", run, "-o", path, *arguments, exit_code=code)
    assert not path.exists()


def test_export_to_a_folder_that_is_not_there(run, tmp_path):
    message = failing("export", run, "-o", tmp_path / "no" / "file", exit_code=1)
    assert "No such file or directory" in message


def test_backends(monkeypatch):
    chosen = ("fake_fez", "fake_manila", "fake_nighthawk")
    known = runtime.fake_devices()
    monkeypatch.setattr(runtime, "fake_devices", lambda: {name: known[name] for name in chosen})
    nighthawk = "qiskit_ibm_runtime.fake_provider.backends.nighthawk.fake_nighthawk"
    monkeypatch.setattr(f"{nighthawk}.DISPLAY_WARNING", True)  # it warns once in a process
    lines = qpc("backends").stdout.splitlines()
    assert lines[0].split() == [
        "name", "qubits", "gates", "two-qubit", "error", "readout", "error", "calibrated",
    ]  # fmt: skip
    assert lines[1].startswith("aer ")
    assert lines[2].split()[:6] == ["fake_fez", "156", "cz", "rz", "sx", "x"]
    assert lines[2].endswith("2025-02-26")
    assert lines[-1].startswith("fake_nighthawk: Properties of fake_nighthawk are not intended")
    answer = json.loads(qpc("backends", "--json").stdout)
    assert [device["name"] for device in answer["backends"]] == ["aer", *chosen]
    assert answer["backends"][1]["two_qubit_gates"] == ["cz"]


def test_backends_of_an_account(monkeypatch, service):
    monkeypatch.setattr(runtime, "fake_devices", dict)
    answer = json.loads(qpc("backends", "--ibm", "--json").stdout)
    names = [device["name"] for device in answer["backends"]]
    assert names == [*programs.device_names(), "aer"]
    without_account(monkeypatch)
    message = failing("backends", "--ibm", exit_code=1)
    assert "No access to IBM's devices: LookupError: Unable to find account." in message


def test_backends_by_name():
    answer = json.loads(qpc("backends", "fake_manila", "--json").stdout)
    (device,) = answer["backends"]
    assert (device["num_qubits"], device["calibration_time"][:10]) == (5, "2024-05-27")
    *patches, none = device["patches"]
    assert [patch["num_qubits"] for patch in patches] == [2, 3, 4, 5]
    assert (none["num_qubits"], none["qubits"]) == (6, None)
    for patch in patches:
        assert len(patch["qubits"]) == patch["num_qubits"]
        assert 0 < patch["fidelity"] < 1
        assert 258 < patch["qpu_seconds"] < 400  # 2 + 1000 * 1024 * 250 us, and the circuit
    assert answer["layer"]["ansatz"] == "strongly_entangling"


def test_backends_by_name_as_text():
    text = qpc("backends", "fake_manila", "fake_kyoto", "aer").stdout
    manila, kyoto, aer = (part.splitlines() for part in text.split("\n\n"))
    assert manila[:2] == [
        "fake_manila: 5 qubits, 5 of them usable", "two-qubit gate: cx, median error 1.01 %",
    ]  # fmt: skip
    assert manila[5].split()[:3] == ["n", "two-qubit", "gates"]
    assert [line.split()[0] for line in manila[6:10]] == ["2", "3", "4", "5"]
    assert manila[10].startswith("n = 6 and more: The circuit has 6 qubits")
    assert kyoto[1] == "two-qubit gate: none that works"
    assert kyoto[-1].startswith("n = 2 and more: The backend has no 2 connected healthy qubits")
    assert aer == ["aer: Simulator of Qiskit Aer: no noise unless it is given some."]


def test_wrong_usage_of_backends(monkeypatch):
    assert "Did you mean fake_torino" in failing("backends", "torino", exit_code=2)
    assert "--ibm has no effect" in failing("backends", "aer", "--ibm", exit_code=2)
    without_account(monkeypatch)
    assert "No access to ibm_fez" in failing("backends", "ibm_fez", exit_code=1)


def test_info():
    answer = json.loads(qpc("info", "--json").stdout)
    assert answer["qpc-qiskit"] == qpc_qiskit.__version__
    text = qpc("info").stdout
    assert "torch_devices: cpu" in text
    assert "aer_devices: CPU" in text


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("QPC_DEBUG", "0")  # the flag sets it; monkeypatch puts it back
    assert "Traceback" not in qpc("evaluate", tmp_path, exit_code=1).stderr
    result = qpc("--debug", "evaluate", tmp_path, exit_code=1)
    assert "Traceback" in result.stderr
    assert "qpc: " in result.stderr.splitlines()[-1]
