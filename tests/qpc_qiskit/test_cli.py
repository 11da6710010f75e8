import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from qiskit import qasm3, qpy
from typer.testing import CliRunner

import qpc_qiskit
from qpc_qiskit import training
from qpc_qiskit.checkpoint import load, read_record, save
from qpc_qiskit.checkpoint import make_record as make
from qpc_qiskit.cli import app
from qpc_qiskit.nets import NetConfig, build_net

TINY = (
    "--train-images=60", "--test-images=20", "--width=4", "--quantum-channels=4", "--num-layers=1",
)  # fmt: skip
PYTHON_QPC = (sys.executable, "-c", "from qpc_qiskit.cli import main; main()")


def qpc(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output
    return result


def failing(*arguments, exit_code):
    """The one line that a failing command says."""
    result = qpc(*arguments, exit_code=exit_code)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("qpc: ")
    return lines[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    qpc("train", *TINY, "--epochs=2", "--seed=3", "--out", folder)
    return folder


def test_help_names_commands_and_exit_codes():
    text = qpc("--help").stdout
    assert all(command in text for command in ("train", "evaluate", "export", "info"))
    assert "0 done, 1 it failed, 2 wrong usage, 130 interrupted" in text
    assert qpc("--version").stdout == f"qpc {qpc_qiskit.__version__}\n"


def test_help_of_train_offers_every_option():
    text = " ".join(qpc("train", "--help").stdout.replace("│", " ").split())
    for name in ("--eta-min", "--num-qubits", "--data-dir", "--augment", "--resume", "default 20"):
        assert name in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from qpc_qiskit.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0; "
        "print([m for m in ('torch', 'lightning', 'matplotlib', 'qiskit', 'qiskit_aer', 'sklearn', "
        "'pandas') if m in sys.modules])"
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


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--lr=-1"], "--lr: Input should be greater than 0"),
        (["--optimizer=lbfgs"], "--optimizer: Input should be 'adam', 'adamw' or 'sgd'"),
        (["--momentum=0.9"], "momentum would have no effect with adam"),
        (["--num-qubits=2"], "2 qubits hold 4 channels, the layer reads 16"),
        (["--data=mnist"], "--data: Input should be 'digits', 'fashion-mnist' or 'cifar10'"),
        (["--net=big"], "--net: Input should be 'small' or 'small-classical'"),
        (["--data-dir=x"], "data_dir would have no effect with the digits"),
        (["--resume"], "--resume needs --out"),
        (["--resume", "--force"], "contradict each other"),
    ],
)
def test_wrong_usage_of_train(arguments, match):
    assert match in failing("train", *arguments, exit_code=2)


def test_unknown_option():
    assert "No such option" in qpc("train", "--depth=3", exit_code=2).stderr


def test_train_does_not_overwrite(run):
    assert "holds a run already" in failing("train", "--out", run, exit_code=1)


def test_missing_data(tmp_path):
    message = failing("train", "--data=cifar10", "--data-dir", tmp_path / "no", exit_code=1)
    assert "expected a folder with the cifar10 files" in message


def test_resume_takes_the_options_of_the_run(tmp_path, monkeypatch):
    out = tmp_path / "parts"
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
        assert f"go on with: qpc train --resume --out {out}" in result.stderr.splitlines()[-1]
    message = failing("train", "--resume", "--out", out, "--lr=0.5", exit_code=1)
    assert "training.lr: begun with 0.01, now 0.5" in message
    qpc("train", "--resume", "--out", out)
    qpc("train", *options, "--out", tmp_path / "whole")
    for name in ("metrics.csv", "model.safetensors", "model.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interrupt_from_outside(tmp_path):
    arguments = ("train", *TINY, "--epochs=100000", "--out", str(tmp_path / "run"))
    process = subprocess.Popen(
        [*PYTHON_QPC, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
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
        "run.json", "last.ckpt", "metrics.csv", "curves.png",
    }  # fmt: skip


def test_evaluate_gives_the_accuracy_of_the_training(run):
    answer = json.loads(qpc("evaluate", run, "--json", "--batch-size=7").stdout)
    metrics = read_record(run).metrics
    assert answer["images"] == 20
    assert answer["accuracy"] == metrics["test_accuracy"]
    assert answer["loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
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
