"""Every reader of files, given damaged and hostile ones: it reads them or raises its own error.

What is damaged is cut, flipped, spliced or random; and in text of JSON and TOML a value is replaced
by one that asks for too much. See `test_image_files` for pickles made by hand.
"""

import gzip
import json
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from hardware_runs.checkpoints.run_settings import parse_options
from hardware_runs.checkpoints.usage import UsageError
from noise_models.snapshots import Snapshot
from noise_models.study.cell_files import cell_path, load_cell, save_cell
from noise_models.study.run import load_study
from noise_models.study.spec import StudySpec
from noise_models.words import load_noise
from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.circuits.spec import make_spec
from qpc_qiskit.common.files import parse_json, parse_toml
from qpc_qiskit.data.files import read_cifar_bin, read_cifar_python, read_idx
from qpc_qiskit.devices import placement_cache
from qpc_qiskit.errors import (
    CheckpointError,
    DataError,
    EngineError,
    ExperimentError,
    NoiseError,
    StudyError,
)
from qpc_qiskit.experiments import load_experiment
from qpc_qiskit.experiments.results import read_results
from qpc_qiskit.nets import NetConfig, build_net
from qpc_qiskit.options.records import DataSource, TrainConfig
from qpc_qiskit.rows.frozen import freeze, thaw
from qpc_qiskit.rows.prepared import Prepared
from qpc_qiskit.rows.pubs import make_template
from qpc_qiskit.training.checkpoint import hashlib, load, make_record, save
from qpc_qiskit.training.runs import (
    DataRecord,
    RunRecord,
    read_metrics,
    read_run,
    read_seconds,
    read_state,
)
from qpc_qiskit.training.trained import open_training

ROOT = Path(__file__).parents[1]
NET = NetConfig(width=4, quantum_channels=4, num_layers=1)
EPOCH = {
    "epoch": 1,
    "lr": 0.01,
    "train_loss": 2.0,
    "train_accuracy": 0.5,
    "test_loss": 2.5,
    "test_accuracy": 0.25,
}
SNAPSHOT = {
    "device": "two",
    "calibrated": "2026-11-22T12:00:00+00:00",
    "qubits": [3, 4],
    "calibrations": [{"t1_seconds": 1e-4, "t2_seconds": 5e-5}, {"p1_given_0": 0.1}],
    "gates": [
        {"name": "measure", "qubits": [0], "error": 0.01},
        {"name": "cx", "qubits": [0, 1], "error": 0.01, "seconds": 1e-7},
    ],
}


class Reader:
    """A file, what reads it, and the only errors that it may raise."""

    def __init__(self, path, read, *errors):
        self.path, self.read, self.errors = path, read, errors
        self.good = path.read_bytes()

    def __call__(self, content):
        """Read what is in the place of the file; whether that was possible."""
        self.path.write_bytes(content)
        try:
            self.read(self.path)
        except self.errors:
            return False
        return True


def idx_file(folder):
    path = folder / "idx"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2, 3, 4) + bytes(range(24)))
    return Reader(path, lambda path: read_idx(path, 3), DataError)


def idx_gz_file(folder):
    path = folder / "idx.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 400) + bytes(400)))
    return Reader(path, lambda path: read_idx(path, 1), DataError)


def cifar_bin_file(folder):
    (folder / "batch.bin").write_bytes(bytes(2 * 3073))
    return Reader(folder / "batch.bin", read_cifar_bin, DataError)


def cifar_python_file(folder):
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [1], b"filenames": [b"x"]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
    return Reader(folder / "data_batch_1", read_cifar_python, DataError)


def checkpoint_in(folder):
    model = build_net(NET)
    save(folder, model, make_record(model, metrics={"epoch": 1.0}))
    return folder


def model_json_file(folder):
    path = checkpoint_in(folder) / "model.json"
    return Reader(path, lambda path: load(path.parent), CheckpointError)


def weights_file(folder):
    """With the checksum of whatever is in it, as somebody would give it who means harm."""
    path = checkpoint_in(folder) / "model.safetensors"
    record = json.loads((folder / "model.json").read_text())

    def read(path):
        record["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "model.json").write_text(json.dumps(record))
        load(folder)

    return Reader(path, read, CheckpointError)


def stopped_training_in(folder):
    data = DataRecord(
        name="digits",
        provenance="of a test",
        source=DataSource(),
        sha256="0",
        num_train=4,
        num_test=4,
        class_names=tuple("0123456789"),
    )
    run = RunRecord(net=NET, training=TrainConfig(epochs=2), data=data)
    (folder / "run.json").write_text(run.model_dump_json())
    weights = {f"model.{k}": v for k, v in build_net(NET).state_dict().items()}
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}
    state = {
        "epoch": 0,
        "history": [EPOCH],
        "state_dict": OrderedDict(weights),
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}],
    }
    torch.save(state, folder / "last.ckpt")
    return folder


def run_json_file(folder):
    path = stopped_training_in(folder) / "run.json"
    return Reader(path, lambda path: (read_run(folder), open_training(folder)), CheckpointError)


def state_file(folder):
    path = stopped_training_in(folder) / "last.ckpt"
    return Reader(path, lambda path: (read_state(folder), open_training(folder)), CheckpointError)


def pickle_of_state_file(folder):
    """The pickle within the archive, with checksums that are right."""
    path = stopped_training_in(folder) / "last.ckpt"
    parts = parts_of(path)
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    (folder / "data.pkl").write_bytes(parts[name])

    def read(pickled):
        archive_of(path, {**parts, name: pickled.read_bytes()})
        open_training(folder)

    return Reader(folder / "data.pkl", read, CheckpointError)


def parts_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def metrics_file(folder):
    lines = ",".join(EPOCH), ",".join(map(str, EPOCH.values()))
    (folder / "metrics.csv").write_text("\n".join(lines))
    return Reader(folder / "metrics.csv", lambda path: read_metrics(folder), CheckpointError)


def seconds_file(folder):
    (folder / "seconds.csv").write_text("epoch,seconds\n1,2.5\n")
    return Reader(folder / "seconds.csv", lambda path: read_seconds(folder))


def experiment_file(folder):
    text = (ROOT / "qpc_qiskit/experiments/ansatz.toml").read_bytes()
    (folder / "mine.toml").write_bytes(text)
    return Reader(folder / "mine.toml", load_experiment, ExperimentError)


def results_file(folder):
    results = json.loads((ROOT / "docs/results/digits/results.json").read_text())
    for cell in results["cells"]:
        del cell["curve"][2:]
    (folder / "results.json").write_text(json.dumps({**results, "cells": results["cells"][:2]}))
    return Reader(folder / "results.json", lambda path: read_results(folder), ExperimentError)


def noise_toml_file(folder):
    text = (ROOT / "noise_models/presets/heron_r1.toml").read_text()
    (folder / "noise.toml").write_text(text)
    return Reader(folder / "noise.toml", load_noise, NoiseError)


def noise_json_file(folder):
    noise = load_noise(ROOT / "noise_models/presets/heron_r1.toml")
    (folder / "noise.json").write_text(noise.to_json())
    return Reader(folder / "noise.json", lambda path: load_noise(path).build(), NoiseError)


def snapshot_file(folder):
    (folder / "two.json").write_text(json.dumps(SNAPSHOT))

    def read(path):
        found = Snapshot.load(path)
        found.backend().properties()
        return found.target

    return Reader(folder / "two.json", read, NoiseError)


def study_file(folder):
    text = (ROOT / "examples/noise_study/ten_minutes.toml").read_bytes()
    (folder / "study.toml").write_bytes(text)
    return Reader(folder / "study.toml", StudySpec.load, NoiseError)


def study_in(folder):
    """A study as it was published, its tables cut to some rows."""
    for path in (ROOT / "docs/studies/digits").iterdir():
        if path.suffix == ".csv":
            lines = path.read_text().splitlines(keepends=True)
            (folder / path.name).write_text("".join(lines[:4]))
        elif path.is_file():
            shutil.copy(path, folder)
    return folder


def study_run_file(folder):
    path = study_in(folder) / "run.json"
    return Reader(path, lambda path: load_study(folder).last_call, StudyError)


def study_table_file(folder):
    return Reader(study_in(folder) / "summary.csv", lambda path: load_study(folder), StudyError)


def study_parquet_file(folder):
    found = load_study(study_in(folder))
    found.summary.to_parquet(folder / "summary.parquet", index=False)
    return Reader(folder / "summary.parquet", lambda path: load_study(folder), StudyError)


def cell_file(folder):
    save_cell(folder, "abc", {"accuracy": 0.5, "predictions": np.arange(5), "name": "x"})
    return Reader(cell_path(folder, "abc"), lambda path: load_cell(folder, "abc"))


def options_file(folder):
    (folder / "options.json").write_text('{"twirling": {"enable_gates": true}, "seeds": [1, 2.5]}')
    return Reader(folder / "options.json", lambda path: parse_options(f"@{path}"), UsageError)


def frozen_file(folder):
    template = make_template(make_encoder("multiplexor", 2), make_spec(4, 2).ansatz)
    (folder / "frozen").write_bytes(freeze(Prepared((template,))))
    return Reader(folder / "frozen", lambda path: thaw(path.read_bytes()), EngineError)


def placement_file(folder):
    """With the checksum of whatever is in it."""
    circuit = QuantumCircuit(2)
    circuit.rx(Parameter("a"), 0)
    placement_cache.store(folder, "key", circuit, {"qubits": [0, 1]})
    path = folder / "key.placement"
    content = path.read_bytes().partition(b"\n")[2]
    (folder / "content").write_bytes(content)

    def read(given):
        content = given.read_bytes()
        path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        placement_cache.load(folder, "key", circuit)

    return Reader(folder / "content", read)


TEXTS = (
    model_json_file,
    run_json_file,
    experiment_file,
    results_file,
    noise_toml_file,
    noise_json_file,
    snapshot_file,
    study_file,
    study_run_file,
    options_file,
)
BINARIES = (
    idx_file,
    idx_gz_file,
    cifar_bin_file,
    cifar_python_file,
    weights_file,
    state_file,
    pickle_of_state_file,
    metrics_file,
    seconds_file,
    study_table_file,
    study_parquet_file,
    cell_file,
    frozen_file,
    placement_file,
)


@pytest.fixture(scope="module", params=(*TEXTS, *BINARIES), ids=lambda made: made.__name__)
def reader(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module", params=TEXTS, ids=lambda made: made.__name__)
def text_reader(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("reader"))


@st.composite
def damage(draw):
    """What happens to the bytes of a file."""
    kind = draw(st.sampled_from(["cut", "flip", "splice", "random"]))
    place, other = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    some = draw(st.binary(max_size=12))

    def damaged(content):
        i, j = int(place * len(content)), int(other * len(content))
        if kind == "cut":
            return content[:i]
        if kind == "splice":
            return content[:i] + content[j:]
        if kind == "random":
            return some
        return content[:i] + some + content[i + len(some) :]

    return damaged


def test_what_is_whole_is_read(reader):
    assert reader(reader.good)


@given(damaged=damage())
def test_damaged_file(reader, damaged):
    reader(damaged(reader.good))


TOO_MUCH = (
    10**12, -1, 0, 2**40, 1e300, 5e-324, float("inf"), True, None, "", "x" * 5000, "{lr:>99999}",
    [], [1], [[]], {}, {"a": 1}, ["x"] * 50, "1e400", [10**9, 10**9], "brickwall:99999999",
)  # fmt: skip


def places(value, path=()):
    """Every place in plain values, as the keys to it."""
    yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


def replaced(value, path, other):
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


@given(data=st.data())
def test_hostile_values(text_reader, data):
    """Anything at any place: too large, of another type, not finite."""
    is_toml = text_reader.path.suffix == ".toml"
    read = parse_toml if is_toml else parse_json
    value = read(text_reader.good, "here", AssertionError)
    path = data.draw(st.sampled_from(list(places(value))[1:]))
    other = data.draw(st.sampled_from(TOO_MUCH))
    if is_toml and other is None:
        return
    changed = replaced(value, path, other)
    text_reader((tomli_w.dumps if is_toml else json.dumps)(changed).encode())
