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

from hardware_runs.reports.replay import _is_plain
from noise_models.snapshots import Snapshot
from noise_models.study.cell_files import cell_path, load_cell, save_cell
from noise_models.study.plan import Plan
from noise_models.study.run import load_study
from noise_models.study.spec import StudySpec
from noise_models.words import load_noise
from qpc_cli.flags import parse_options
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
from qpc_qiskit.options.fields import OptionError
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
    return Reader(folder / "options.json", lambda path: parse_options(f"@{path}"), OptionError)


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


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 10**12}, r"'net\.width' is wrong: Input should be less than or equal to 16384"),
        ({"hidden": 10**12}, r"'net\.hidden' is wrong"),
        ({"num_layers": 10**12}, r"'net\.num_layers' is wrong"),
        ({"width": 9000, "num_layers": 900}, "num_layers of 900 on 14 qubits is too much"),
        # Each is allowed, all of them are 800 GB of weights.
        (
            {"width": 4096, "hidden": 2**20},
            r"up to 215,\d{3},\d{3},\d{3} weights",
        ),
        (
            {"width": 64, "hidden": 2**20},
            r"up to 3,\d{3},\d{3},\d{3} weights",
        ),
        # A gigabyte, which the file of weights has not.
        ({"hidden": 2**18}, "another architecture than .* describes: expected 'layers"),
    ],
)
def test_a_network_that_asks_for_all_memory(tmp_path, monkeypatch, options, match):
    """It is refused by its options, or by the shapes of the weights, before any is made."""
    checkpoint_in(tmp_path)
    stopped_training_in(tmp_path)

    def build(config, **options):
        assert torch.empty(0).device.type == "meta"
        return build_net(config, **options)

    monkeypatch.setattr("qpc_qiskit.training.checkpoint.build_net", build)
    for name in ("model.json", "run.json"):
        record = json.loads((tmp_path / name).read_text())
        record["net"].update(options)
        (tmp_path / name).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=match):
        load(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match=match):
        open_training(tmp_path)


def test_weights_that_are_longer_than_any_of_the_network(tmp_path):
    with (checkpoint_in(tmp_path) / "model.safetensors").open("r+b") as file:
        file.truncate(2**40)  # of which the disk has none
    with pytest.raises(CheckpointError, match=r"safetensors: expected a file of at most 1,\d{3},"):
        load(tmp_path)


def test_conventions_of_another_type(tmp_path):
    record = json.loads((checkpoint_in(tmp_path) / "model.json").read_text())
    record["quantum_layers"]["layers.pointwise"]["conventions"] = [1]
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="trained with conventions"):
        load(tmp_path)


def rewritten(pickled):
    """The state with another pickle in it."""

    def change(path):
        parts = parts_of(path)
        (name,) = (name for name in parts if name.endswith("data.pkl"))
        archive_of(path, {**parts, name: pickled})

    return change


def with_rows(*rows):
    def change(path):
        state = torch.load(path, weights_only=True)
        torch.save({**state, "history": list(rows)}, path)

    return change


def with_weights(weights):
    def change(path):
        state = torch.load(path, weights_only=True)
        torch.save({**state, "state_dict": weights}, path)

    return change


def larger_than_stored(path):
    """A weight of 4 values that says it has 2**30, one after the other."""
    parts = parts_of(path)
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    for old, new in ((b"K\4tq", b"J\0\0\0\x40tq"), (b"K\0K\4\x85", b"K\0J\0\0\0\x40\x85")):
        assert old in parts[name]
        parts[name] = parts[name].replace(old, new, 1)
    archive_of(path, parts)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda path: archive_of(path, parts_of(path), zipfile.ZIP_DEFLATED), "ValueError"),
        (rewritten(b"\x80\2})" + b"\x85" * 200_000 + b"K\1s."), "PickleError"),
        (rewritten(b"\x80\2cos\nsystem\n)R."), "PickleError"),
        (rewritten(b"\x80\2ctorch\nTensor\nJ\0\0\0\x40\x85R."), "PickleError"),
        (rewritten(b"\x80\2(ios\nsystem\n."), "PickleError"),
        (rewritten(b"\x80\2}q\0(X\7\0\0\0history](e" + b"X\1\0\0\0ah\0u."), "ValueError"),
        (larger_than_stored, "Error"),
        (with_rows({**EPOCH, "lr": "0.1"}), "TypeError"),
        (with_rows({**EPOCH, "epoch": 2}), "ValueError"),
        (with_rows({"epoch": 1}), "TypeError"),
        (with_weights({"model.a": torch.zeros(1).expand(10**12)}), "ValueError"),
        (with_weights({"model.a": "text"}), "TypeError"),
        (with_weights([1]), "AttributeError"),
    ],
)
def test_hostile_state_of_a_training(tmp_path, change, match):
    """It is not unpacked, nothing in it is called, and no tensor is larger than what is stored."""
    change(stopped_training_in(tmp_path) / "last.ckpt")
    with pytest.raises(CheckpointError, match=rf"found a damaged file \({match}|\w+{match}\)"):
        read_state(tmp_path)


def test_parquet_of_more_values_than_bytes(tmp_path, monkeypatch):
    save_cell(tmp_path, "abc", {"predictions": np.zeros(1000)})
    monkeypatch.setattr("noise_models.study.cell_files._MAX_VALUES", 999)
    assert load_cell(tmp_path, "abc") is None
    load_study(study_in(tmp_path)).summary.to_parquet(tmp_path / "summary.parquet")
    monkeypatch.setattr("noise_models.study.tables._MAX_VALUES", 10)
    with pytest.raises(StudyError, match="expected at most 10 values, found"):
        load_study(tmp_path)


@pytest.mark.parametrize("place", [36, 40], ids=["qubits", "bits"])
def test_circuits_on_a_billion_qubits(tmp_path, place):
    """749 bytes of QPY were read for minutes, into gigabytes."""
    frozen = frozen_file(tmp_path)
    head, _, circuits = frozen.good.partition(b"\n")
    hostile = circuits[: place - 3] + b"\x40\0\0\0" + circuits[place + 1 :]
    assert not frozen(head + b"\n" + hostile)
    with pytest.raises(EngineError, match=r"cannot be read: no circuits .*1,073,741,824"):
        thaw(head + b"\n" + hostile)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("qubit[2] q", "qubit[200000000] q"),
        ("qubit[2] q", "qubit[2000 * 100000] q"),
        ("sx q[0];", "for int i in [0:1000000000] { sx q[0]; }"),
        ("sx q[0];", "gate a b { sx b; sx b; } a q[0];"),
    ],
)
def test_circuits_in_text_that_grow(old, new):
    """Where a ledger holds such a circuit for a layer, its exact values are not known."""
    circuit = QuantumCircuit(2)
    circuit.rx(Parameter("a"), 0)
    told = make_spec(4, 2, ansatz=circuit).to_dict()
    assert _is_plain(told["circuit"])
    assert not _is_plain(told["circuit"].replace(old, new, 1))


@pytest.mark.parametrize(
    ("reader", "old", "new", "match"),
    [
        (experiment_file, b'label = "', b'label = "{lr:>99999999999}', "a format '>99999999999'"),
        (experiment_file, b'label = "', b'label = "{lr:{width}}', "a format '{width}'"),
        (
            experiment_file,
            b"[[lines]]",
            b"[[lines]]\nlabel = 'a'\ngrid = {"
            + b", ".join(b'"training.a%d" = %s' % (i, b"[1, 2, 3]") for i in range(40))
            + b"}\n[[lines]]",
            "expected at most 10,000 trainings",
        ),
    ],
)
def test_a_file_that_asks_for_all_time(tmp_path, reader, old, new, match):
    reader = reader(tmp_path)
    assert old in reader.good
    reader.path.write_bytes(reader.good.replace(old, new, 1))
    with pytest.raises(reader.errors, match=match):
        reader.read(reader.path)


def test_blocks_of_a_study(tmp_path):
    study = """name = "a"
    [train.big]
    num_layers = [1000000000000]
    [[grid]]
    noise = [{noise = "bit_flip", strengths = [0.01]}]"""
    with pytest.raises(NoiseError, match=r"^train\.big\.net\.num_layers: expected at most 1000,"):
        Plan(StudySpec.from_toml(study), tmp_path)


def test_options_from_a_file_without_an_end():
    with pytest.raises(OptionError, match="at most 33,554,432 bytes, found a longer one"):
        parse_options("@/dev/zero")
