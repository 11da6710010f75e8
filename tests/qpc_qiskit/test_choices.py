import pytest

from qpc_qiskit.checkpoint import make_record
from qpc_qiskit.nets import NetConfig, build_net
from qpc_qiskit.options import TrainConfig

CODES = [f"A{i}" for i in range(1, 28)]


def choices(training=None, **options):
    model = build_net(NetConfig(width=4, **options))
    return make_record(model, training=training).choices


@pytest.mark.parametrize("name", ["small", "small-classical"])
@pytest.mark.parametrize("training", [None, TrainConfig()])
def test_every_ambiguity_has_an_entry(name, training):
    table = choices(training, name=name)
    assert list(table) == CODES
    assert all(table.values())


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
