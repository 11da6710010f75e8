"""Makes files.tar.gz beside it: what qpc-qiskit wrote at commit 76c6126, before it was in rooms.

    git worktree add ../old 76c6126 && cd ../old   # and install it there
    .ci/postgres python .../tests/data/before_rooms/make.py

What is half done was stopped by SIGINT. expected.json tells what 76c6126 made of copies of it.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from qpc_qiskit.checkpoint import load
from qpc_qiskit.cli import app
from qpc_qiskit.evaluation import predict
from typer.testing import CliRunner

from hardware_runs.ledger import Ledger
from hardware_runs.standin import Rules, Standin
from noise_models import cells, study
from noise_models.words import parse_noise
from qpc_qiskit import training
from qpc_qiskit.connector import use_engine
from qpc_qiskit.data import load_source
from qpc_qiskit.engines import EstimatorEngine, NoisyEngine

TINY = ("--train-images=60", "--test-images=20", "--num-layers=1", "--quantum-channels=4", "--json")
PAPER = ("--net=paper-fig3a", "--width=4", "--hidden=4", "--dropout=0")
FAKE = ("--backend=fake_manila", "--shots=64", "--seed=1")
PACKED = ("--images=2", "--economy=plain", "--patches=2", "--references=4", "--absorb-tail")
LONG = 7200  # seconds in the stand-in's queue
STUDY = """
name = "tiny"
seeds = [0]
[train.digits]
data = { train_images = 60, test_images = 20 }
net = { width = 4, quantum_channels = 4 }
training = { epochs = 1 }
num_layers = [1]
[[grid]]
noise = [{ noise = "depolarizing", strengths = [0.01, 0.1] }, "heron_r2"]
shots = ["exact", 64]
"""
EXPERIMENT = """
name = "tiny"
title = "Tiny"
question = "Does it run?"
paper = "says nothing"
seeds = [0, 1]
net = { width = 4, quantum_channels = 4, num_layers = 1 }
[data]
name = "digits"
train_images = 60
test_images = 20
[training]
epochs = 2
[[lines]]
label = "windows {patch_size}"
net = { name = "quanvolution", width = 16 }
grid = { "net.patch_size" = [2] }
against = ["classical"]
[[lines]]
label = "classical"
net = { name = "small-classical", num_layers = 3 }
"""
NOISE = """
format = 1
name = "everything"
version = 1
description = "One of each channel."
two_qubit_gate = "cz"
channels = [
    { channel = "bit_flip", probability = 0.01, on = "one_qubit_gates" },
    { channel = "phase_flip", probability = 0.01, on = "before_measurement" },
    { channel = "depolarizing", probability = 0.001, two_qubit_probability = 0.01, on = "ansatz" },
    { channel = "amplitude_damping", gamma = 0.01, excited_population = 0.1, on = "encoder" },
    { channel = "phase_damping", gamma = 0.01 },
    { channel = "thermal_relaxation", t1_us = 180.0, t2_us = 120.0, times_ns = { sx = 32.0 } },
    { channel = "over_rotation", angle_rad = 0.01, axis = "x" },
    { channel = "zz_crosstalk", angle_rad = 0.01, coupling = [[0, 1]] },
    { channel = "readout", p1_given_0 = [0.01, 0.02], p0_given_1 = 0.03 },
]
"""


def qpc(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return json.loads(result.stdout) if "--json" in arguments and code in (0, 75) else None


@contextmanager
def stopped(owner, name, calls):
    """SIGINT behind this call of a method, the first is 1."""
    method, left = getattr(owner, name), [calls]

    def call(*arguments, **named):
        found = method(*arguments, **named)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return found

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, method)


def logits_of(folder, noise):
    """Of ten test images, by each engine: exact, under noise, through Aer."""
    model, record = load(folder)
    images = load_source(record.data.source).test_images[:10]
    found = {"exact": predict(model, images, 64).tolist()}
    engines = {"noisy": NoisyEngine(parse_noise(noise)), "estimator": EstimatorEngine()}
    for name, engine in engines.items():
        with use_engine(model, engine):
            found[name] = predict(model, images, 64).tolist()
    return found


def make(out):
    expected = {"train": {}, "logits": {}, "run": {}, "versions": dict(cells.versions())}

    # Trainings: finished, and one stopped in its second epoch.
    nets = {
        "digits": ("--width=4",),
        "window": ("--net=quanvolution", "--patch-size=2"),
        "paper": PAPER,
        "stopped": (*PAPER, "--optimizer=sgd", "--momentum=0.9"),
    }
    for name, options in nets.items():
        epochs = 3 if name == "stopped" else 1
        given = ("train", f"--out={out / name}", f"--epochs={epochs}", *TINY, *options)
        if name != "stopped":
            expected["train"][name] = qpc(*given)
            continue
        with stopped(training._Task, "training_step", 2):
            qpc(*given, code=130)
        shutil.copytree(out / name, out / "whole")
        expected["train"][name] = qpc("train", f"--out={out / 'whole'}", "--resume", "--json")
        expected["curve"] = (out / "whole" / "metrics.csv").read_text()
        shutil.rmtree(out / "whole")

    # Noise.
    qpc("noise", "snapshot", "fake_manila", "--num-qubits=2", "-o", out / "manila.json")
    (out / "noise.toml").write_text(NOISE)
    (out / "heron.toml").write_text(CliRunner().invoke(app, ["noise", "show", "heron_r2"]).stdout)
    for name in ("digits", "window", "paper"):
        expected["logits"][name] = logits_of(out / name, str(out / "manila.json"))

    # A study after two of its cells, an experiment after one of its trainings.
    (out / "study.toml").write_text(STUDY)
    given = (out / "study.toml", f"--out={out / 'study'}", "--workers=0")
    with stopped(study, "save_cell", 2):
        qpc("noise", "study", *given, code=130)
    shutil.copytree(out / "study", out / "whole")
    qpc("noise", "study", given[0], f"--out={out / 'whole'}", "--workers=0")
    expected["study"] = (out / "whole" / "summary.csv").read_text()
    shutil.rmtree(out / "whole")
    (out / "experiment.toml").write_text(EXPERIMENT)
    given = (out / "experiment.toml", f"--out={out / 'experiment'}")
    with stopped(training._Task, "training_step", 4):
        qpc("experiment", *given, code=130)
    shutil.copytree(out / "experiment", out / "whole")
    qpc("experiment", given[0], f"--out={out / 'whole'}")
    expected["experiment"] = json.loads((out / "whole" / "results.json").read_text())
    shutil.rmtree(out / "whole")

    # Runs: packed and calibrated, and finished; stopped after a result; with jobs under way.
    def runs(ledger):
        at = f"--ledger={ledger}"
        expected["run"]["packed"] = qpc(
            "run", "submit", out / "digits", *FAKE, *PACKED, "--run=packed", at, "--json"
        )
        given = ("--images=2", "--batch-size=1", "--economy=plain", "--run=stopped", at)
        with stopped(Ledger, "store_result", 1):
            qpc("run", "submit", out / "paper", *FAKE, *given, code=130)

    def went_on(ledger):
        copy = ledger.with_name("copy.sqlite")
        shutil.copy(ledger, copy)
        found = qpc("run", "collect", "stopped", f"--ledger={copy}", "--json")
        copy.unlink()
        return found

    runs(out / "ledger.sqlite")
    expected["run"]["stopped"] = went_on(out / "ledger.sqlite")
    at = f"--ledger={out / 'ledger.sqlite'}"
    rules = Rules(noisy=False, queue_seconds=LONG)
    with Standin(rules, path=out / "standin.sqlite"), stopped(Ledger, "record_job", 1):
        given = ("--images=2", "--batch-size=1", "--shots=64", "--economy=plain", "--run=pending")
        given = (*given, "--backend=ibm_manila", "--max-qpu-seconds=99")
        qpc("run", "submit", out / "paper", *given, at, code=130)
    shutil.copy(out / "standin.sqlite", out / "copy.standin")
    shutil.copy(out / "ledger.sqlite", out / "copy.sqlite")
    with Standin(rules, path=out / "copy.standin") as standin:
        for code in (75, 75, 0):  # the second job of the first layer, the second layer, all
            standin.advance(LONG)
            at = f"--ledger={out / 'copy.sqlite'}"
            expected["run"]["pending"] = qpc("run", "collect", "pending", at, "--json", code=code)
    for copy in out.glob("copy.*"):
        copy.unlink()
    if url := os.environ.get("QPC_TEST_POSTGRES_URL"):
        runs(url)
        command = ["pg_dump", "--no-owner", "--no-privileges", "--no-comments", "--inserts", url]
        lines = subprocess.check_output(command, text=True).splitlines()
        told = [line for line in lines if line and not line.startswith(("--", "\\"))]
        (out / "postgresql.sql").write_text("\n".join(told) + "\n")
    (out / "expected.json").write_text(json.dumps(expected, indent=1))


def packed(out, path):
    """All but pictures, without the names and times of this machine."""
    left_out = (".png", ".svg", ".html", ".jsonl", ".log", ".pdf")
    with tarfile.open(path, "w:gz", compresslevel=9) as archive:
        for each in sorted(out.rglob("*")):
            if each.is_file() and not each.name.endswith(left_out):
                info = tarfile.TarInfo(str(each.relative_to(out)))
                data = each.read_bytes()
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="qpc-"))
    os.environ["QPC_CACHE_DIR"] = str(folder / "cache")
    (folder / "old").mkdir()
    os.chdir(folder)  # logs of runs lie in runs/
    make(folder / "old")
    packed(folder / "old", Path(__file__).absolute().with_name("files.tar.gz"))
    shutil.rmtree(folder)
