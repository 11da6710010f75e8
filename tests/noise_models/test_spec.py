"""Specs: files, round trips, and what is wrong with a file in one line."""

import math
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noise_models import builders
from noise_models.channels import AnyChannel
from noise_models.spec import NoiseSpec
from qpc_qiskit.devices.noise import noise_digest
from qpc_qiskit.errors import NoiseError

P = st.floats(0, 1)
ANGLE = st.floats(-math.pi, math.pi)
QUBITS = st.none() | st.sets(st.integers(0, 15), min_size=1).map(sorted)
PLACES = st.sampled_from(["every_gate", "encoder", "ansatz"])
GATE = {"on": PLACES, "qubits": QUBITS}


@st.composite
def relaxations(draw):
    t1 = draw(st.floats(1e-3, 1e6))
    t2 = draw(st.floats(1e-6, 2)) * t1
    times = st.dictionaries(st.sampled_from(["sx", "x", "cx"]), st.floats(0, 1e5), min_size=1)
    return builders.thermal_relaxation(t1, min(t2, 2 * t1), draw(times), on=draw(PLACES))


PAIRS = st.tuples(st.integers(0, 7), st.integers(8, 15))
CHANNEL = st.one_of(
    st.builds(builders.bit_flip, P, **GATE),
    st.builds(builders.phase_flip, P, **GATE),
    st.builds(builders.depolarizing, P, st.none() | P, **GATE),
    st.builds(builders.amplitude_damping, P, excited_population=P, **GATE),
    st.builds(builders.phase_damping, P, **GATE),
    relaxations(),
    st.builds(builders.over_rotation, ANGLE, axis=st.sampled_from("xyz"), **GATE),
    st.builds(
        builders.zz_crosstalk,
        ANGLE,
        ANGLE,
        on=PLACES,
        coupling=st.none() | st.sets(PAIRS, min_size=1).map(sorted),
    ),
    st.builds(builders.readout, P | st.lists(P, min_size=1, max_size=5), P),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
SPECS = st.builds(
    lambda channels, name, text: builders.compose(*channels, name=name, description=text),
    st.lists(CHANNEL, max_size=4),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,20}", fullmatch=True),
    TEXT,
)


@settings(deadline=None, max_examples=150)
@given(SPECS)
def test_round_trips(spec):
    assert NoiseSpec.from_toml(spec.to_toml()) == spec
    assert NoiseSpec.from_json(spec.to_json()) == spec
    assert NoiseSpec.from_toml(spec.to_toml()).to_toml() == spec.to_toml()


def test_a_file_builds_the_same_model():
    """Down to the last bit of every error, and the passes with it."""
    spec = builders.compose(
        builders.bit_flip(1 / 3, on="encoder", qubits=[0]),
        builders.depolarizing(0.01, 1 / 7, on="ansatz"),
        builders.thermal_relaxation(100.0, 130.0, {"sx": 35.5}, on="one_qubit_gates"),
        builders.over_rotation(-0.1, axis="y", on="one_qubit_gates"),
        builders.zz_crosstalk(0.05, 0.01, coupling=[(0, 1)]),
        builders.readout([0.01, 0.02], 0.03),
    )
    digest = noise_digest(spec.build(2))
    assert noise_digest(NoiseSpec.from_toml(spec.to_toml()).build(2)) == digest
    assert noise_digest(NoiseSpec.from_json(spec.to_json()).build(2)) == digest
    for old, new in (("35.5", "35.6"), ('"y"', '"z"'), ("0.3333", "0.3334")):
        changed = spec.to_toml().replace(old, new)
        assert noise_digest(NoiseSpec.from_toml(changed).build(2)) != digest, (old, new)


@pytest.mark.parametrize("name", ["noise.toml", "noise.json", "NOISE.TOML"])
def test_files(tmp_path, name):
    spec = builders.compose(builders.bit_flip(0.01), name="flips", description="Ganz „leise“.")
    path = tmp_path / name
    spec.save(path)
    assert NoiseSpec.load(path) == spec
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_a_file_may_leave_out():
    spec = NoiseSpec.from_toml('name = "none"')
    assert (spec.format, spec.version, spec.channels) == (1, 1, ())
    assert spec.two_qubit_gate == "cx"


def test_every_channel_has_an_example_in_the_strategy():
    """The round trips above would pass without."""
    kinds = get_args(get_args(AnyChannel)[0])
    assert {kind.model_fields["channel"].default for kind in kinds} == {
        "bit_flip", "phase_flip", "depolarizing", "amplitude_damping", "phase_damping",
        "thermal_relaxation", "over_rotation", "zz_crosstalk", "readout",
    }  # fmt: skip


FLIP = 'name = "a"\n[[channels]]\nchannel = "bit_flip"\nprobability = 0.1\n'
RELAXATION = 'name = "a"\n[[channels]]\nchannel = "thermal_relaxation"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name", "noise.toml: expected TOML, found something else (Expected '=' after a key in a "),
        ("version = 1", "noise.toml: name: it is missing."),
        ("name = 3", "noise.toml: name: expected a name of letters, digits and . _ + -, that begi"),
        ('name = "a b"', "noise.toml: name: expected a name of letters, digits and"),
        ('name = "a.toml"', "and is not one of a file, got 'a.toml'."),
        ('name = "a"\nversion = 0', "noise.toml: version: expected 1 or more, got 0."),
        ('name = "a"\nversion = true', "version: expected an integer, got True."),
        ('name = "a"\nformat = 2', "noise.toml: format: expected 1, got 2."),
        ('name = "a"\ncolour = 1', "noise.toml: colour: there is no such field."),
        ('name = "a"\ntwo_qubit_gate = "iswap"', "expected 'cx', 'cz' or 'ecr', got 'iswap'."),
        ('name = "a"\nchannels = 3', "noise.toml: channels: expected a list, got 3."),
        ('name = "a"\nchannels = ["bit_flip"]', "channels[0]: expected a table, got 'bit_flip'."),
        (
            'name = "a"\n[[channels]]\nprobability = 0.1',
            "channels[0]: expected a table with the name of a channel as `channel`, got {'prob",
        ),
        (
            FLIP.replace("bit_flip", "bitflip"),
            "noise.toml: channels[0].channel: expected one of bit_flip, phase_flip, depolarizing, "
            "amplitude_damping, phase_damping, thermal_relaxation, over_rotation, zz_crosstalk, "
            "readout, got 'bitflip'.",
        ),
        (
            FLIP.replace("0.1", "-0.1"),
            "noise.toml: channels[0].probability: expected a probability from 0 to 1, got -0.1.",
        ),
        (FLIP.replace("0.1", "nan"), "expected a probability from 0 to 1, got nan."),
        (FLIP.replace("0.1", '"0.1"'), "expected a probability from 0 to 1, got '0.1'."),
        (FLIP.replace("probability", "p"), "noise.toml: channels[0].probability: it is missing."),
        (FLIP + "p = 1", "noise.toml: channels[0].p: there is no such field."),
        (FLIP + "qubits = [0, 16]", "channels[0].qubits: expected a list of different qubits from"),
        (FLIP + 'on = "gates"', "channels[0].on: expected 'every_gate', 'one_qubit_gates', "),
        (
            FLIP + "[[channels]]\n" + FLIP.split("\n", 2)[2].replace("0.1", "7"),
            "noise.toml: channels[1].probability: expected a probability from 0 to 1, got 7.",
        ),
        (
            RELAXATION + "t1_us = 10.0\nt2_us = 21.0\ntimes_ns = {sx = 30}",
            "noise.toml: channels[0]: expected t2_us of at most 2 * t1_us = 20, got 21.",
        ),
        (
            RELAXATION + "t1_us = 10.0\nt2_us = 10.0\ntimes_ns = {ry = 30}",
            "noise.toml: channels[0].times_ns.ry: expected 'sx', 'x', 'cx', 'cz', 'ecr' or 'measur",
        ),
        (
            RELAXATION + "t1_us = 10.0\nt2_us = 10.0\ntimes_ns = {cz = 30}",
            "noise.toml: times_ns of cz has no effect: the two_qubit_gate is cx.",
        ),
        (
            'name = "a"\n[[channels]]\nchannel = "readout"\np1_given_0 = [0.1, 2]\np0_given_1 = 0',
            "channels[0].p1_given_0: expected a probability from 0 to 1, or a list of them, got [",
        ),
    ],
)
def test_bad_files(text, message, tmp_path):
    path = tmp_path / "noise.toml"
    path.write_text(text)
    with pytest.raises(NoiseError) as caught:
        NoiseSpec.load(path)
    told = str(caught.value)
    assert message in told.replace(str(path), "noise.toml")
    assert str(path) in told
    assert "\n" not in told
    assert "pydantic" not in told


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", b"", "a.txt: expected a file whose name ends in .toml or .json"),
        ("a.toml", b"\xff\xfe", "a.toml: expected a text in UTF-8"),
        ("a.json", b"{", r"a.json: expected JSON, found something else \(Expecting property name"),
        ("a.json", b"[]", r"a.json: expected a table of fields, got \[\]"),
        ("a.json", b'{"name": "x", "channels": null}', "channels: expected a list, got None"),
        ("missing.toml", None, "Cannot read .*missing.toml: No such file or directory"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, match):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoiseError, match=match):
        NoiseSpec.load(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        builders.compose().save(tmp_path / "nowhere" / "a.toml")


def test_specs_do_not_change():
    spec = builders.compose(builders.bit_flip(0.1))
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"


def test_scaled_specs_have_a_name_of_their_own():
    spec = builders.compose(builders.bit_flip(0.1), name="flips")
    assert spec.scaled(2.5).name == "flips-x2.5"
    assert spec.scaled(2.5).channels[0].probability == pytest.approx(0.25)
    assert NoiseSpec.from_toml(spec.scaled(1e-5).to_toml()) == spec.scaled(1e-5)
