from typing import get_args

import pytest
from pydantic import ValidationError

from qpc_qiskit.ansatz import ANSATZE
from qpc_qiskit.nets import BUILDERS
from qpc_qiskit.options import DataSource, NetConfig, TrainConfig


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
        (TrainConfig, {"momentum": 0.9}, "momentum would have no effect with adam"),
        (TrainConfig, {"schedule": "constant", "eta_min": 0.001}, "eta_min would have no effect"),
    ],
)
def test_options_without_effect_are_refused(kind, options, match):
    with pytest.raises(ValidationError, match=match):
        kind(**options)


def test_json_round_trip():
    for config in (NetConfig(num_qubits=5), TrainConfig(optimizer="sgd", momentum=0.9)):
        assert type(config).model_validate_json(config.model_dump_json()) == config
