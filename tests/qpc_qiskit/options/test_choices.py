import pytest

from qpc_qiskit.nets import BUILDERS, NetConfig, build_net
from qpc_qiskit.options.records import ARCHITECTURES, TrainConfig
from qpc_qiskit.training.checkpoint import make_record

CODES = [f"A{i}" for i in range(1, 28)]


def choices(training=None, **options):
    model = build_net(NetConfig(**{"width": 4, **options}))
    return make_record(model, training=training).choices


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("training", [None, TrainConfig()])
def test_every_ambiguity_has_an_entry(name, training):
    options = {} if "width" in ARCHITECTURES[name].idle else {"width": 4}
    table = make_record(build_net(NetConfig(name=name, **options)), training=training).choices
    assert list(table) == CODES
    assert all(table.values())
    assert not [text for text in table.values() if "{" in text]


def paper(**options):
    model = build_net(NetConfig(in_channels=3, image_size=32, **options))
    return make_record(model, training=TrainConfig(lr=0.003, augment="flips")).choices


def test_entries_of_the_papers_network():
    table = paper(name="paper-fig3a")
    assert "pointwise to 64, 3x3 convolution to 64, pointwise to 128" in table["A1"]
    assert "layers.block.pointwise1, layers.block.pointwise2" in table["A1"]
    assert "3 image channels: a 3x3 convolution to 64 channels" in table["A2"]
    assert "pointwise1: round up: 11 circuits of 6 qubits" in table["A3"]
    assert "pointwise2: round up: 22 circuits of 6 qubits" in table["A3"]
    assert "no activation after the pointwise layers; ReLU alone after the 3x3" in table["A16"]
    assert "hidden layer of 256 units with batch norm and ReLU, dropout 0.5" in table["A21"]
    assert "'paper-fig3b'" in table["A26"]


def test_entries_of_the_strong_network():
    table = paper(name="strong")
    assert "to 32, 64 and 128 channels" in table["A2"]
    assert "pointwise1: 7 qubits" in table["A4"]
    assert "lr 0.003" in table["A22"]
    assert "augmentation flips" in table["A22"]


@pytest.mark.parametrize(
    ("code", "options", "text"),
    [
        ("A9", {"pointwise": "no-entanglement"}, "without the gates on two qubits; 18 weights"),
        ("A11", {"pointwise": "no-entanglement"}, "none: two-qubit gates are left out"),
        ("A12", {"pointwise": "no-entanglement", "num_layers": 4}, "4 blocks"),
        ("A13", {"pointwise": "frozen"}, "never trained"),
        ("A16", {"norm_after": "batch"}, "batch norm and no activation after each pointwise"),
        ("A17", {"norm_after": "batch"}, "then batch norm"),
        ("A16", {"pointwise": "classical"}, "batch norm and ReLU after each 1x1 convolution"),
        ("A1", {"pointwise": "quadratic"}, "quadratic 1x1 convolutions with about as many"),
        ("A17", {"name": "mobilenet-tiny"}, "the network's own batch norm follows"),
        ("A18", {"name": "quanvolution", "width": 16}, "image channel, row, column"),
    ],
)
def test_entry_says_what_stands_there(code, options, text):
    assert text in choices(TrainConfig(), **options)[code]


def test_processes_are_named():
    assert (
        "each batch divided between 6 processes"
        in (choices(TrainConfig(devices=3, num_nodes=2))["A22"])
    )


@pytest.mark.parametrize(
    ("code", "options", "before", "after"),
    [
        ("A3", {"quantum_channels": 5}, "16 circuits of 2 qubits", "3 circuits of 2 qubits"),
        ("A4", {"num_qubits": 3}, "2 qubits: the fewest", "3 qubits: given"),
        ("A6", {"bias_channel": True}, "zero gradient", "so there is none"),
        ("A7", {"bias_channel": True}, "discarded", "a constant bias channel is added"),
        ("A9", {"ansatz": "figure1"}, "strongly_entangling", "figure1"),
        ("A11", {"ansatz": "figure1"}, "range l mod (n-1) + 1", "each qubit controls the next"),
        ("A12", {"num_layers": 2}, "3 blocks", "2 blocks"),
        ("A13", {"init": "normal"}, "uniform", "normal"),
        ("A21", {"dropout": 0.5}, "dropout 0.25", "dropout 0.5"),
        ("A21", {"hidden": 8}, "max-pools in the stem; dropout", "8 units with batch norm"),
        ("A21", {"hidden": 8, "head_norm": "layer"}, "; dropout", "with layer norm and ReLU"),
        ("A21", {"hidden": 8, "head_norm": "none"}, "; dropout", "layer of 8 units with ReLU"),
    ],
)
def test_entry_follows_the_configuration(code, options, before, after):
    assert before in choices()[code]
    assert after in choices(**options)[code]


def test_training_entries():
    assert choices()["A14"] == choices()["A22"] == "not recorded"
    config = TrainConfig(optimizer="sgd", momentum=0.9, schedule="constant", loss="mse", seed=7)
    table = choices(config)
    assert "sgd, lr 0.01, constant over 20 epochs, batch 128 (test 64)" in table["A22"]
    assert "momentum 0.9" in table["A22"]
    assert "seed 7" in table["A22"]
    assert "one-hot" in table["A23"]
    assert "cross-entropy" in choices(TrainConfig())["A23"]


def test_classical_twin_claims_nothing_quantum():
    table = choices(name="small-classical")
    assert {table[f"A{i}"] for i in (*range(3, 16), 17, 18, 19, 20)} == {"no quantum layer"}
