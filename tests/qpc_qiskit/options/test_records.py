import json
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from qpc_qiskit.circuits.ansatz import ANSATZE
from qpc_qiskit.data.images import load
from qpc_qiskit.nets import BUILDERS
from qpc_qiskit.options.presets import PRESETS
from qpc_qiskit.options.records import (
    ARCHITECTURES,
    IMAGE_SHAPES,
    DataSource,
    NetConfig,
    StoredNetConfig,
    TrainConfig,
)


def test_names_are_those_that_exist():
    assert set(get_args(NetConfig.model_fields["name"].annotation)) == set(BUILDERS)
    assert set(get_args(NetConfig.model_fields["ansatz"].annotation)) == set(ANSATZE)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (NetConfig, {"depth": 3}, "depth"),
        (NetConfig, {"dropout": 1.0}, "dropout"),
        (NetConfig, {"name": "big"}, "small-classical"),
        (NetConfig, {"image_size": 3}, "image_size"),
        (NetConfig, {"num_qubits": 3}, "3 qubits hold 8 channels, the layer reads 16"),
        (NetConfig, {"num_qubits": 4, "bias_channel": True}, "the layer reads 17"),
        (DataSource, {"data_dir": "x"}, "data_dir would have no effect with the digits"),
        (NetConfig, {"name": "strong", "num_qubits": 6}, "hold 64 channels, the layer reads 128"),
        (NetConfig, {"name": "quanvolution", "num_qubits": 3}, "the layer reads 9"),
        (TrainConfig, {"batch_size": 2, "devices": 3}, "3 processes cannot share a batch of 2"),
        (TrainConfig, {"lr": float("inf")}, "finite number"),
        (TrainConfig, {"epochs": 0}, "epochs"),
        (TrainConfig, {"lr": 0}, "lr"),
        (TrainConfig, {"optimiser": "sgd"}, "optimiser"),
        (TrainConfig, {"lr": 0.01, "eta_min": 0.1}, r"eta_min \(0\.1\) must not exceed lr"),
    ],
)
def test_wrong_options_are_refused(kind, options, match):
    with pytest.raises(ValidationError, match=match):
        kind(**options)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (NetConfig, {"name": "small-classical", "num_layers": 2}, "num_layers would have no"),
        (
            NetConfig,
            {"name": "paper-cnn", "pointwise": "conv"},
            "pointwise would have no effect on",
        ),
        (NetConfig, {"name": "paper-cnn", "quantum_channels": 64}, "quantum_channels would have"),
        (NetConfig, {"pointwise": "classical", "ansatz": "figure1"}, "ansatz would have no effect"),
        (NetConfig, {"pointwise": "conv", "init": "normal"}, "init would have no effect"),
        (NetConfig, {"kernel_size": 2}, "kernel_size would have no effect on the network small"),
        (NetConfig, {"name": "quanvolution", "width": 4}, "width would have no effect"),
        (NetConfig, {"head_norm": "batch"}, "head_norm would have no effect without hidden units"),
        (NetConfig, {"name": "strong", "hidden": 0, "head_norm": "layer"}, "head_norm would have"),
        (TrainConfig, {"momentum": 0.9}, "momentum would have no effect with adam"),
        (TrainConfig, {"schedule": "constant", "eta_min": 0.001}, "eta_min would have no effect"),
    ],
)
def test_options_without_effect_are_refused(kind, options, match):
    with pytest.raises(ValidationError, match=match):
        kind(**options)


def test_the_kernel_size_under_its_old_name():
    """ "patch" means qubits of a device."""
    with pytest.warns(DeprecationWarning, match="patch_size is called kernel_size now"):
        net = NetConfig(name="quanvolution", patch_size=2)
    assert net == NetConfig(name="quanvolution", kernel_size=2)
    stored = json.loads(net.told())  # as in files of before, which nobody is to be told of
    assert stored["patch_size"] == 2
    assert "kernel_size" not in stored
    assert TypeAdapter(StoredNetConfig).validate_python(stored) == net
    with pytest.raises(ValidationError, match="patch_size is the old name of kernel_size"):
        TypeAdapter(StoredNetConfig).validate_python(stored | {"kernel_size": 2})


def test_architecture_decides_defaults_that_options_override():
    paper = NetConfig(name="paper-fig3a")
    assert (paper.width, paper.quantum_channels, paper.hidden, paper.dropout) == (64, 128, 256, 0.5)
    assert NetConfig(name="paper-fig3a", width=8).width == 8
    assert NetConfig().width == 16
    assert NetConfig(pointwise="conv", num_layers=2).num_layers == 2  # what the count is matched to


def test_hidden_units_have_a_norm_unless_told_otherwise():
    assert NetConfig(name="paper-cnn").head_norm == NetConfig(hidden=8).head_norm == "batch"
    assert NetConfig(hidden=8, head_norm="none").head_norm == "none"
    assert NetConfig(name="paper-cnn", hidden=0).head_norm == NetConfig().head_norm == "none"


def test_architectures_are_those_that_exist():
    assert set(ARCHITECTURES) == set(BUILDERS)
    for architecture in ARCHITECTURES.values():
        assert set(architecture.idle) | set(architecture.defaults) <= NetConfig.model_fields.keys()
        assert not set(architecture.idle) & set(architecture.defaults)
    assert load("digits").image_shape[:2] == IMAGE_SHAPES["digits"]
    assert set(IMAGE_SHAPES) == set(get_args(DataSource.model_fields["name"].annotation))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset):
    NetConfig(**PRESETS[preset].net)
    TrainConfig(**PRESETS[preset].training)


def test_json_round_trip():
    for config in (
        NetConfig(name="strong"),
        NetConfig(num_qubits=5),
        TrainConfig(optimizer="sgd", momentum=0.9),
    ):
        assert type(config).model_validate_json(config.model_dump_json()) == config
