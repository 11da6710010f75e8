from dataclasses import replace

import pytest

from qpc_qiskit.circuits.brickwall import DEPTHS
from qpc_qiskit.circuits.encoder import ENCODERS, make_encoder
from qpc_qiskit.options import economy
from qpc_qiskit.options.economy import (
    BEST,
    PLAIN,
    Economy,
    economy_of,
    economy_problems,
    flag_of,
    read_economy,
    split_encoder,
)

SHORT = Economy(
    encoder="brickwall", absorb_tail=True, patches=None, gap=1, references=12, calibrate=False
)


def test_constants_are_those_of_the_modules_that_are_not_loaded():
    assert set(economy.ENCODERS) == set(ENCODERS)
    assert max(DEPTHS) == economy.MOST_BRICKWALL_QUBITS


def test_as_on_a_command_line():
    given = {"encoder": "brickwall", "absorb_tail": True, "patches": "all", "gap": 1,
             "references": "12", "no_calibrate": True, "shots": 5}  # fmt: skip
    assert read_economy(given) == SHORT
    assert read_economy({}) == PLAIN
    assert read_economy({"patches": "7", "references": "auto"}) == Economy(
        patches=7, references=None
    )


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", "All", "²", "none"])
def test_no_number_of_patches(value):
    with pytest.raises(ValueError, match=r"^--patches must be a whole number of at least 1, or al"):
        read_economy({"patches": value})


@pytest.mark.parametrize("value", ["-1", "all", "8 ", "1e2"])
def test_no_number_of_references(value):
    with pytest.raises(ValueError, match=r"^--references must be a whole number of at least 0, or"):
        read_economy({"references": value})


def test_arguments_of_the_engine_and_back():
    assert PLAIN.for_engine() == {}
    told = SHORT.for_engine()
    assert told == {
        "encoder": "brickwall", "absorb_tail": True, "num_patches": None, "gap": 1,
        "num_references": 12, "calibrate": False,
    }  # fmt: skip
    assert economy_of(told) == SHORT
    assert economy_of({"noise_model": "fake_fez"}) == PLAIN
    assert Economy(references=None).for_engine() == {}


@pytest.mark.parametrize("each", [PLAIN, SHORT, Economy(patches=3, references=None)])
def test_plain_values_and_back(each):
    assert Economy.from_dict(each.to_dict()) == each


def test_references_are_counted_by_the_widest_layer():
    auto = Economy(references=None)
    assert auto.for_qubits(5).references == 10
    assert Economy(references=10).for_qubits(5).references == 10
    assert PLAIN.for_qubits(5) is PLAIN
    with pytest.raises(ValueError, match=r"^--references must be at least 12, .*; got 11\.$"):
        Economy(references=11).for_qubits(6)
    assert Economy(encoder="brickwall").for_qubits(7)
    with pytest.raises(ValueError, match=r"^--encoder brickwall is for at most 7 qubits, .* has 8"):
        Economy(encoder="brickwall").for_qubits(8)
    with pytest.raises(ValueError, match="is for at most 7 qubits"):
        Economy(encoder="brickwall:30").for_qubits(8)


ON_DEVICE = {"has_device": True, "has_noise": True}
NO_DEVICE = {"has_device": False, "has_noise": False}


@pytest.mark.parametrize(
    ("each", "where", "match"),
    [
        (Economy(encoder="cnot"), {}, "--encoder must be one of multiplexor, brickwall, brick"),
        (Economy(patches=2), {}, "--patches has no effect on aer"),
        (Economy(patches=None), {"has_noise": True}, "--patches has no effect on aer"),
        (Economy(gap=1), ON_DEVICE, "--gap has no effect on one patch"),
        (Economy(patches=2, gap=-1), ON_DEVICE, "--gap must be 0 or more; got -1"),
        (Economy(calibrate=False), ON_DEVICE, "--no-calibrate has no effect without"),
        (Economy(references=None), {"is_exact": True}, "--references has no effect on exact value"),
    ],
)  # fmt: skip
def test_what_has_no_effect(each, where, match):
    where = NO_DEVICE | {"is_exact": False} | where
    (problem,) = economy_problems(each, **where)
    assert problem.startswith(match)


@pytest.mark.parametrize(
    ("each", "where"),
    [
        (PLAIN, {"is_exact": True}),
        (SHORT, ON_DEVICE),
        (SHORT, ON_DEVICE | {"is_exact": True}),
        (Economy(references=4), {"has_noise": True, "is_exact": True}),
        (Economy(references=4), {}),
    ],
)
def test_what_has_an_effect(each, where):
    where = NO_DEVICE | {"is_exact": False} | where
    assert not list(economy_problems(each, **where))


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
    assert not list(economy_problems(Economy(encoder=name), **NO_DEVICE, is_exact=True))


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
    (problem,) = economy_problems(Economy(encoder=name), **NO_DEVICE, is_exact=True)
    assert problem.startswith("--encoder must be one of")


def test_in_words():
    assert PLAIN.text() == ""
    assert SHORT.text() == (
        "brickwall encoder; absorbed tail; packed on all good patches, 1 unused between "
        "two; reference rows in every job: 12, not applied"
    )
    assert Economy(patches=3, references=None).text() == (
        "packed on 3 patches; reference rows in every job: two for each qubit"
    )


def test_arguments_as_flags():
    told = {name: flag_of(name) for name in ("num_patches", "num_references", "calibrate", "gap")}
    assert told == {
        "num_patches": "--patches", "num_references": "--references",
        "calibrate": "--no-calibrate", "gap": "--gap",
    }  # fmt: skip
    assert flag_of("max_qpu_seconds") == "--max-qpu-seconds"


def test_best_is_a_beginning():
    """What is given goes before it; without it, before what is usual."""
    assert read_economy({"economy": "best"}) == BEST == read_economy({}, BEST)
    assert read_economy({"economy": "plain"}, BEST) == PLAIN == read_economy({})
    given = {"absorb_tail": False, "patches": "3", "references": "0", "no_calibrate": True}
    assert read_economy(given, BEST) == Economy(
        encoder="auto", absorb_tail=False, patches=3, references=0, calibrate=False
    )
    with pytest.raises(ValueError, match="--economy must be one of best, plain; got 'good'"):
        read_economy({"economy": "good"})


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
    assert replace(BEST, references=0).for_qubits(4).references == 0
    with pytest.raises(ValueError, match="--references must be at least 8"):
        replace(BEST, references=3).for_qubits(4)
