import pytest

from qpc_qiskit.circuits.brickwall import DEPTHS
from qpc_qiskit.circuits.encoder import ENCODERS, make_encoder
from qpc_qiskit.options import economy
from qpc_qiskit.options.economy import (
    BEST,
    PLAIN,
    Economy,
    check_encoder,
    split_encoder,
)
from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.fields import OptionError

SHORT = Economy(
    encoder="brickwall",
    absorb_tail=True,
    num_patches=None,
    gap=1,
    num_references=12,
    calibrate=False,
)


def test_constants_are_those_of_the_modules_that_are_not_loaded():
    assert set(economy.ENCODERS) == set(ENCODERS)
    assert max(DEPTHS) == economy.MOST_BRICKWALL_QUBITS


def test_arguments_of_the_engine_and_back():
    assert PLAIN.for_engine() == {}
    told = SHORT.for_engine()
    assert told == {
        "encoder": "brickwall", "absorb_tail": True, "num_patches": None, "gap": 1,
        "num_references": 12, "calibrate": False,
    }  # fmt: skip
    assert Economy(**told) == EngineOptions(**told, noise_model="fake_fez").economy == SHORT
    assert Economy(num_references=None).for_engine() == {}


@pytest.mark.parametrize("each", [PLAIN, SHORT, Economy(num_patches=3, num_references=None)])
def test_plain_values_and_back(each):
    assert Economy.from_dict(each.to_dict()) == each


def test_references_are_counted_by_the_widest_layer():
    auto = Economy(num_references=None)
    assert auto.for_qubits(5).num_references == 10
    assert Economy(num_references=10).for_qubits(5).num_references == 10
    assert PLAIN.for_qubits(5) is PLAIN
    with pytest.raises(ValueError, match=r"^num_references must be at least 12, .*; got 11\.$"):
        Economy(num_references=11).for_qubits(6)
    assert Economy(encoder="brickwall").for_qubits(7)
    with pytest.raises(ValueError, match=r"^encoder brickwall is for at most 7 qubits, .* has 8"):
        Economy(encoder="brickwall").for_qubits(8)
    with pytest.raises(ValueError, match="is for at most 7 qubits"):
        Economy(encoder="brickwall:30").for_qubits(8)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("multiplexor", ("multiplexor", None)),
        ("brickwall", ("brickwall", None)),
        ("brickwall:15", ("brickwall", 15)),
    ],
)
def test_encoders_and_depths(name, parts):
    assert split_encoder(name) == parts
    assert make_encoder(name, 6).name == name
    check_encoder(name)


@pytest.mark.parametrize(
    "name",
    ["brick", "", None, "brickwall:", "brickwall:0", "brickwall:-1", "brickwall:x", "brickwall:²",
     "brickwall:1:2", "multiplexor:3", "multiplexor:"],
)  # fmt: skip
def test_no_encoders(name):
    with pytest.raises(ValueError, match=r"Unknown encoder .*; expected one of .*brickwall:DEPTH"):
        split_encoder(name)
    with pytest.raises(ValueError, match="Unknown encoder"):
        make_encoder(name, 3)
    with pytest.raises(OptionError, match=r"^encoder must be one of .* or auto; got "):
        check_encoder(name)


def test_names_of_the_version_before():
    message = "patches of an Economy is called num_patches"
    with pytest.warns(DeprecationWarning, match=message) as told:
        found = Economy(patches=2, gap=1)
    assert told[0].filename == __file__  # elsewhere Python shows it to nobody
    assert found == Economy(num_patches=2, gap=1)
    with pytest.warns(DeprecationWarning, match="references of an Economy is called num_ref"):
        assert found.references == 0
    with pytest.warns(DeprecationWarning, match="patches of an Economy"):
        assert found.patches == 2
    with pytest.raises(ValueError, match="patches is the old name of num_patches"):
        Economy(patches=2, num_patches=3)


def test_in_words():
    assert PLAIN.text() == ""
    assert SHORT.text() == (
        "brickwall encoder; absorbed tail; packed on all good patches, 1 unused between "
        "two; reference rows in every job: 12, not applied"
    )
    assert Economy(num_patches=3, num_references=None).text() == (
        "packed on 3 patches; reference rows in every job: two for each qubit"
    )


def test_what_is_decided_later():
    assert Economy.from_dict(BEST.to_dict()) == BEST
    assert BEST.to_dict()["absorb_tail"] == BEST.to_dict()["references"] == "auto"
    assert BEST.for_engine() == {"num_patches": None}  # the rest is not decided yet
    assert "best encoder" in BEST.text()
    decided = BEST.for_qubits(6)
    assert decided == BEST.for_qubits(6).for_qubits(6)
    assert decided.for_engine() == {
        "encoder": "brickwall", "absorb_tail": True, "num_patches": None, "num_references": 12
    }  # fmt: skip
    assert BEST.changed(num_references=0).for_qubits(4).num_references == 0
    with pytest.raises(ValueError, match="num_references must be at least 8"):
        BEST.changed(num_references=3).for_qubits(4)
