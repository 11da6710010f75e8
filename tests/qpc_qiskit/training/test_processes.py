"""Several processes are one run: shares, weights, and Lightning's DDP on two CPU processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from later import later
from safetensors.torch import load_file

from qpc_qiskit.data.images import load
from qpc_qiskit.nets import build_net, config_for
from qpc_qiskit.options.records import TrainConfig
from qpc_qiskit.training.processes import Team, is_main_process
from qpc_qiskit.training.runs import read_state

training = later("qpc_qiskit.training.trainer")
HERE = Path(__file__).parent

TEAMS = [[Team(rank, count) for rank in range(count)] for count in (1, 2, 3)]


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_shares_make_the_batch_and_its_mean(team, size):
    """Means of shares, weighted and averaged over the processes as DDP does it."""
    batch = torch.arange(size, dtype=torch.float64) ** 2
    owned = torch.cat([batch[member.share(size)] for member in team])
    assert torch.equal(owned.sort().values, batch)
    averaged = sum(m.share_of_batch(batch).mean() * m.weight(size) for m in team) / len(team)
    assert float(averaged) == pytest.approx(float(batch.mean()))


def test_all_processes_draw_the_same_batches():
    data = load("digits").subset(50, 10)
    config = TrainConfig(batch_size=16, augment="flips-crops")
    whole = list(training._Batches(data, config, 3))
    for rank in range(2):
        for (images, labels), (mine, own) in zip(
            whole, training._Batches(data, config, 3, Team(rank, 2)), strict=True
        ):
            assert torch.equal(mine, images[rank::2])
            assert torch.equal(own, labels[rank::2])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "GROUP_RANK": "2"}, False),
    ],
)
def test_main_process(environment, expected, monkeypatch):
    for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main_process(TrainConfig(devices=2)) == expected
    assert is_main_process(TrainConfig())


CONFIG = {
    "batch_size": 32, "dtype": "float64", "device": "cpu", "augment": "flips", "optimizer": "sgd",
    "lr": 0.1, "momentum": 0.9,
}  # fmt: skip


def run(out, progress=False, **options):
    """A network without batch norm and dropout, uneven batches and shares (101 and 41 images)."""
    data = load("digits").subset(101, 41)
    model = build_net(config_for(data, width=4, quantum_channels=4, dropout=0.0), seed=1)
    model.layers.stem[1] = torch.nn.Identity()
    return training.train(model, data, TrainConfig(**CONFIG | options), out, progress=progress)


def in_two_processes(out, **options):
    """`run`, started as a user's script: Lightning starts the second process by itself."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (*HERE.parents[1:3], HERE))),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    path = out.parent / "script.py"
    options = {"progress": True, "devices": 2, **options}
    path.write_text(f"from test_processes import run\nrun({str(out)!r}, **{options!r})\n")
    return subprocess.Popen(
        [sys.executable, path],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def history(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()[1:]
    return [[float(value) for value in line.split(",")] for line in lines]


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    process = in_two_processes(two, epochs=2)
    run(one, epochs=2)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert theirs[name].dtype == torch.float64
        torch.testing.assert_close(theirs[name], ours[name], atol=1e-10, rtol=0)
    for mine, other in zip(history(one), history(two), strict=True):
        assert mine == pytest.approx(other, rel=1e-9)
    # One process writes and talks: every file once, a line per epoch.
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert errors.count("epoch 1/2") == errors.count("epoch 2/2") == 1
    assert output == ""
    choices = json.loads((two / "model.json").read_text())["choices"]
    assert "divided between 2 processes" in choices["A22"]


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    out = tmp_path / "run"
    process = in_two_processes(out, epochs=2000)
    while not (out / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # to the first process alone
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    (stopped,) = re.findall(r"Stopped after (\d+) of 2000 epochs", errors)
    assert len(read_state(out)["history"]) == int(stopped) >= 1
    assert not (out / "model.json").exists()
