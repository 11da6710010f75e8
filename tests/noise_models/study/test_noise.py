"""The noise of a study: words become plain values, a device its best patch."""

import pytest
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from noise_models.builders import bit_flip, compose
from noise_models.snapshots import Snapshot, best_qubits
from noise_models.study.noise import FixedNoise, NoiseResolver, restricted
from noise_models.study.spec import NoiseAxis
from qpc_qiskit.devices.noise import noise_digest
from qpc_qiskit.errors import NoiseError


def by_place(snapshot):
    """The gates of a snapshot, whatever their order."""
    return {(gate.name, gate.qubits): gate for gate in snapshot.gates}


@pytest.mark.parametrize("qubits", [(1, 2, 3), (3, 2, 1), (0, 1)])
def test_a_patch_of_a_snapshot_is_a_snapshot_of_the_patch(qubits):
    whole = Snapshot.of(FakeManilaV2())
    found, expected = restricted(whole, qubits), Snapshot.of(FakeManilaV2(), qubits)
    assert found.qubits == expected.qubits == qubits
    assert found.calibrations == expected.calibrations
    assert by_place(found) == by_place(expected)
    assert len(whole.qubits) == 5


def test_a_patch_of_a_patch_keeps_the_numbers_of_the_device():
    found = restricted(Snapshot.of(FakeManilaV2(), [4, 3, 2, 1]), (2, 1))
    assert found.qubits == (2, 3)
    assert found.calibrations == Snapshot.of(FakeManilaV2(), [2, 3]).calibrations


def test_a_device_is_its_best_patch_as_it_is_at_every_strength():
    """Otherwise two strengths might be of two places."""
    axis = NoiseAxis(noise="fake_manila", strengths=[1.0, 2.0])
    resolver = NoiseResolver()
    best = best_qubits(FakeManilaV2(), 3)
    once, twice = (Snapshot.from_dict(dict(resolver.at(axis, s, 3).data)) for s in (1.0, 2.0))
    assert once.qubits == twice.qubits == best
    assert once.calibrations == Snapshot.of(FakeManilaV2(), best).calibrations
    assert twice == once.scaled(2.0)
    assert resolver.at(axis, 1.0, 3).build().snapshot == once


def test_channels_and_specs():
    resolver = NoiseResolver()
    channel = resolver.at(NoiseAxis(noise="bit_flip", strengths=[0.1]), 0.1, 2)
    assert noise_digest(channel.build()) == noise_digest(compose(bit_flip(0.1)).build())
    table = NoiseAxis(noise=compose(bit_flip(0.1), name="flips"), strengths=[3.0])
    scaled = resolver.at(table, 3.0, 2).build()
    assert noise_digest(scaled) == noise_digest(compose(bit_flip(0.1)).scaled(3).build())
    with pytest.raises(NoiseError, match=r"noise 'flips' at 11: flips scaled by 11: channels\[0\]"):
        resolver.at(table, 11.0, 2)


def test_names_are_no_part_of_the_content():
    one, other = (compose(bit_flip(0.1), name=name).to_dict() for name in ("a", "b"))
    assert FixedNoise("spec", one).content == FixedNoise("spec", other).content
    stronger = compose(bit_flip(0.2), name="a").to_dict()
    assert FixedNoise("spec", one).content != FixedNoise("spec", stronger).content
