import json

import pytest
import torch
from safetensors import torch as safetensors_torch

from qpc_qiskit.data.images import load as load_data
from qpc_qiskit.errors import CheckpointError
from qpc_qiskit.nets import BUILDERS, NetConfig, build_net
from qpc_qiskit.options.records import ARCHITECTURES, TrainConfig
from qpc_qiskit.training import checkpoint
from qpc_qiskit.training.checkpoint import DataRecord, load, make_record, read_record, save

SMALL = NetConfig(width=4, quantum_channels=4, num_layers=1)


def saved(folder, config=SMALL, dtype=torch.float32):
    model = build_net(config, seed=3).to(dtype)
    model.normalise.set(torch.tensor([0.3]), torch.tensor([0.2]))
    return model.eval(), save(folder, model, make_record(model))


def rewrite(folder, change):
    """Change the record without touching the weights."""
    path = folder / "model.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_weights(folder, change):
    """Change the tensors and make the checksum fit."""
    path = folder / "model.safetensors"
    state = safetensors_torch.load(path.read_bytes())
    change(state)
    content = safetensors_torch.save(state)
    path.write_bytes(content)
    checksum = checkpoint.hashlib.sha256(content).hexdigest()
    rewrite(folder, lambda record: record.update(weights_sha256=checksum))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_network_comes_back(tmp_path, name, dtype):
    options = {"width": 4, "quantum_channels": 5, "num_layers": 1}
    idle = ARCHITECTURES[name].idle
    config = NetConfig(name=name, **{key: options[key] for key in options if key not in idle})
    model, record = saved(tmp_path / "new" / "folder", config, dtype)
    loaded, found = load(tmp_path / "new" / "folder")
    assert found == record
    assert not loaded.training
    images = torch.rand(3, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), model(images))


def test_file_from_before_head_norms_is_a_network_without_one(tmp_path):
    model, _ = saved(tmp_path, NetConfig(name="paper-cnn", width=4, hidden=6, head_norm="none"))
    rewrite(tmp_path, lambda record: record["net"].pop("head_norm"))
    loaded, record = load(tmp_path)
    assert record.net == model.config
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), model(images))


def test_record_says_what_was_done(tmp_path):
    data = DataRecord.of(load_data("digits"))
    model = build_net(SMALL)
    training = TrainConfig(epochs=2)
    save(tmp_path, model, make_record(model, data, training, {"test_accuracy": 0.5}))
    record = read_record(tmp_path)
    assert record.training == training
    assert record.data.num_test == 360
    assert record.metrics == {"test_accuracy": 0.5}
    layer = record.quantum_layers["layers.pointwise"]
    assert layer["num_qubits"] == 2
    assert "little-endian" in layer["conventions"]["qubit_order"]
    assert list(record.choices) == [f"A{i}" for i in range(1, 28)]
    assert record.choices["A14"] == "analytic, by the exact engine"
    assert record.libraries["torch"].startswith(torch.__version__.split("+")[0])
    text = (tmp_path / "model.json").read_text()
    assert text.endswith("}\n")
    assert "engine" not in json.loads(text)


def test_saving_again_replaces(tmp_path):
    saved(tmp_path)
    model, _ = saved(tmp_path, NetConfig(width=2, quantum_channels=4, num_layers=1))
    assert load(tmp_path)[0].config == model.config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_missing_file(tmp_path, name):
    saved(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: expected a checkpoint .* found none"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format_version": 1', b"\xff\xfe"])
def test_corrupt_json(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.json: expected JSON, found something else"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: r.update(format_version=2), "format version 1, found 2. Install a newer"),
        (lambda r: r.update(format_version=0), "format version 1, found 0. It is damaged"),
        (lambda r: r.pop("format_version"), "expected a checkpoint record with a format_version"),
        (lambda r: r.pop("net"), "entry 'net' is wrong: Field required"),
        (lambda r: r["net"].update(width="x"), r"entry 'net\.width' is wrong"),
        (lambda r: r.update(surprise=1), "entry 'surprise' is wrong"),
    ],
)
def test_wrong_record(tmp_path, change, match):
    saved(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(CheckpointError, match=match):
        load(tmp_path)


def test_record_that_is_a_list(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a checkpoint record"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda b: b[:-5], "The file is truncated"),
        (lambda b: b"", "found 0 others. The file is truncated"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "damaged or of another model"),
    ],
)
def test_damaged_weights(tmp_path, damage, match):
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=match):
        load(tmp_path)


def test_weights_of_another_model(tmp_path):
    saved(tmp_path / "a")
    other = build_net(SMALL, seed=4)
    save(tmp_path / "b", other, make_record(other))
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged or of another model; copy both files"):
        load(tmp_path / "a")


def test_weights_that_are_no_safetensors(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    checksum = checkpoint.hashlib.sha256(b"x" * 100).hexdigest()
    rewrite(tmp_path, lambda record: record.update(weights_sha256=checksum))
    with pytest.raises(CheckpointError, match="expected a safetensors file, found another"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("layers.pointwise.weight"), r"'layers\.pointwise\.weight' of shape \(2"),
        (lambda s: s.update(extra=torch.zeros(2)), r"found 'extra' of shape \(2,\), which was not"),
        (
            lambda s: s.update({"layers.pointwise.weight": torch.zeros(2, 5)}),
            r"another architecture.*expected .* shape \(2, 6\) .*found shape \(2, 5\)",
        ),
        (
            lambda s: s.update({"normalise.mean": torch.zeros(1, dtype=torch.float64)}),
            r"float32, found shape \(1,\) and torch\.float64",
        ),
    ],
)
def test_another_architecture(tmp_path, change, match):
    saved(tmp_path)
    replace_weights(tmp_path, change)
    with pytest.raises(CheckpointError, match=match):
        load(tmp_path)


def test_other_conventions(tmp_path):
    """A version with another channel order must not read the weights as if nothing had changed."""
    saved(tmp_path)

    def change(record):
        layer = record["quantum_layers"]["layers.pointwise"]
        layer["conventions"]["version"] += 1

    rewrite(tmp_path, change)
    with pytest.raises(CheckpointError, match=r"trained with conventions = 2, .* with 1"):
        load(tmp_path)


def test_reworded_conventions(tmp_path):
    """What was written in other words, or before an entry existed, still loads."""
    saved(tmp_path)

    def change(record):
        layer = record["quantum_layers"]["layers.pointwise"]
        layer["conventions"]["qubit_order"] = "qubit 0 first"
        del layer["num_weights"]

    rewrite(tmp_path, change)
    load(tmp_path)
