"""Noise as one word on a command line: what `--noise` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from noise_models import builders, catalog
from noise_models.channels import Channel
from noise_models.spec import SUFFIXES, NoiseSpec, read_text
from qpc_qiskit.common.files import parse_json
from qpc_qiskit.errors import NoiseError

if TYPE_CHECKING:
    from noise_models.snapshots import Snapshot, SnapshotBackend
    from qpc_qiskit.devices.noise import CircuitNoise

KINDS: dict[str, Callable[[float], Channel]] = {
    "bit_flip": builders.bit_flip,
    "phase_flip": builders.phase_flip,
    "depolarizing": builders.depolarizing,
    "amplitude_damping": builders.amplitude_damping,
    "phase_damping": builders.phase_damping,
    "over_rotation": builders.over_rotation,
    "zz_crosstalk": builders.zz_crosstalk,
    "readout": lambda probability: builders.readout(probability, probability),
}
"""Name before the colon -> what makes a channel of the number behind it."""


def parse_noise(word: str) -> CircuitNoise | SnapshotBackend | str:
    """The noise that a word stands for.

    Args:
        word: `depolarizing:0.01`, or another channel of one number; a name of the catalog; the path
            of a file, .toml or .json, with a spec or a snapshot; or the name of a device,
            `fake_...` or `ibm_...`, which is returned as it is: whoever looks devices up knows
            which there are.

    Raises:
        NoiseError: none of these, or a value out of range.

    Example:
        >>> parse_noise("depolarizing:0.01").model.noise_instructions
        ['cx', 'sx', 'x']
    """
    if is_device(word):
        return word
    found = find_noise(word)
    return found.build() if isinstance(found, NoiseSpec) else found.backend()


def is_device(word: str) -> bool:
    """Whether a word is the name of a device, which may exist or not."""
    return word.startswith(("fake_", "ibm_")) and not (":" in word or is_file(word))


def has_device(word: str) -> bool:
    """Whether the noise that a word stands for is that of a device, on whose qubits circuits stand.

    Raises:
        NoiseError: it is a file that cannot be read, or holds neither a spec nor a snapshot.
    """
    if is_file(word):
        return not isinstance(load_noise(Path(word)), NoiseSpec)
    return is_device(word)


def is_file(word: str) -> bool:
    """Whether a word is the path of a file, which may exist or not."""
    return word.lower().endswith(SUFFIXES)


def resolved(word: str) -> str:
    """The same noise in whatever folder it is read: a path becomes absolute."""
    return str(Path(word).resolve()) if is_file(word) else word


def find_noise(word: str) -> NoiseSpec | Snapshot:
    """What a word stands for that is no device, as a description; see `parse_noise`.

    Raises:
        NoiseError: nothing, or a value out of range.
    """
    if is_file(word):
        return load_noise(Path(word))
    kind, colon, value = word.partition(":")
    if colon and kind in KINDS:
        return builders.compose(_channel(word, kind, value), name=word.replace(":", "-"))
    if word in catalog.names():
        return catalog.find(word)
    hint = f" A number belongs to it: {kind}:0.01." if kind in KINDS else ""
    raise NoiseError(f"Unknown noise {word!r}; expected {expected()}.{hint}")


def load_noise(path: Path) -> NoiseSpec | Snapshot:
    """A spec or a snapshot from a file.

    Raises:
        NoiseError: it cannot be read, or is neither.
    """
    if path.suffix.lower() == ".json":
        data = parse_json(read_text(path), path, NoiseError)
        if isinstance(data, dict) and "device" in data:
            from noise_models.snapshots import Snapshot

            return Snapshot.from_dict(data, str(path))
        return NoiseSpec.from_dict(data, str(path))
    return NoiseSpec.load(path)


def expected() -> str:
    """What `parse_noise` takes, in words."""
    return (
        "a device's name such as fake_torino, a channel with a number such as depolarizing:0.01 "
        f"({', '.join(KINDS)}), a name of the catalog ({', '.join(catalog.names())}), or a file "
        "with a spec (.toml, .json) or a snapshot (.json)"
    )


def _channel(word: str, kind: str, text: str) -> Channel:
    try:
        return KINDS[kind](float(text))
    except NoiseError as error:
        wrong, _, _ = str(error).rpartition(", got ")
        raise NoiseError(f"Noise {word!r}: {wrong}, got {text!r}.") from None
    except ValueError:
        raise NoiseError(f"Noise {word!r}: expected a number, got {text!r}.") from None
