"""Noise as a file: named channels with their places, to and from TOML and JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from noise_models.channels import COUPLERS, AnyChannel, ThermalRelaxation, expects
from qpc_qiskit.common.files import parse_json, parse_toml, read_file, write_text
from qpc_qiskit.errors import NoiseError

if TYPE_CHECKING:
    from qpc_qiskit.devices.noise import CircuitNoise

FORMAT = 1
SUFFIXES = (".toml", ".json")
_Record = TypeVar("_Record", bound=BaseModel)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class NoiseSpec(BaseModel):
    r"""Noise, described: what `build` makes a `CircuitNoise` of.

    Example:
        >>> spec = NoiseSpec.from_toml('name = "flips"\n[[channels]]\nchannel = "bit_flip"\n'
        ...                            'probability = 0.01\non = "encoder"\n')
        >>> spec.channels[0].probability
        0.01
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format: Literal[1] = 1
    """Of the file."""
    name: Annotated[
        str,
        expects(
            "a name of letters, digits and . _ + -, that begins with a letter or digit and is not "
            "one of a file",
            lambda name: _NAME.fullmatch(name) and not name.lower().endswith(SUFFIXES),
        ),
    ]
    """Of the noise."""
    version: int = Field(1, ge=1, strict=True)
    """Of the noise with this name: another one where its numbers are others."""
    description: str = ""
    """What it stands for, and where its numbers come from."""
    two_qubit_gate: Literal["cx", "cz", "ecr"] = "cx"
    """Circuits are translated to rz, sx, x and this gate."""
    channels: tuple[AnyChannel, ...] = ()
    """In the order in which they act after a gate; none: ideal."""

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        for channel in self.channels:
            if isinstance(channel, ThermalRelaxation):
                others = set(COUPLERS) - {self.two_qubit_gate}
                for gate in sorted(others & set(channel.times_ns)):
                    raise ValueError(
                        f"times_ns of {gate} has no effect: the two_qubit_gate is "
                        f"{self.two_qubit_gate}"
                    )
        return self

    @property
    def largest_qubit(self) -> int:
        """That a channel names; -1: none."""
        return max((channel.largest_qubit for channel in self.channels), default=-1)

    def build(self, num_qubits: int | None = None) -> CircuitNoise:
        """The noise for engines.

        Args:
            num_qubits: of the circuits; None: of any circuit that has the qubits that are named.

        Raises:
            NoiseError: a channel names a qubit that circuits of `num_qubits` do not have.
        """
        from noise_models.building import build

        return build(self, num_qubits)

    def scaled(self, factor: float) -> NoiseSpec:
        """The same noise, so many times as strong; see `noise_models.channels`.

        Args:
            factor: 0 is no noise, 1 changes nothing, name included.

        Raises:
            NoiseError: a negative factor, or a value would leave its range.
        """
        if not (isinstance(factor, int | float) and 0 <= factor < math.inf):
            raise NoiseError(f"Expected a factor of 0 or more to scale noise by, got {factor!r}.")
        if factor == 1:
            return self
        scaled = []
        for i, channel in enumerate(self.channels):
            try:
                scaled.append(channel.scaled(factor))
            except ValidationError as error:
                where = problem_of(error, channel.model_dump(), f"channels[{i}]")
                raise NoiseError(f"{self.name} scaled by {factor:g}: {where}") from None
        return self.model_copy(
            update={"name": f"{self.name}-x{factor:g}", "channels": tuple(scaled)}
        )

    @classmethod
    def from_dict(cls, data: Any, source: str = "noise") -> NoiseSpec:
        """A spec from plain values.

        Args:
            data: as TOML or JSON give it.
            source: the file, for errors.

        Raises:
            NoiseError: one line that names the source, the field, what was expected and what came.
        """
        return validated(cls, data, source)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what is None."""
        told = self.model_dump(mode="json", exclude_none=True)
        channels = told.pop("channels")  # a table begins with what it is
        return told | {"channels": [{"channel": each["channel"], **each} for each in channels]}

    @classmethod
    def from_toml(cls, text: str, source: str = "noise") -> NoiseSpec:
        """The inverse of `to_toml`; see `from_dict`."""
        return cls.from_dict(parse_toml(text, source, NoiseError), source)

    def to_toml(self) -> str:
        """As a TOML document."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str, source: str = "noise") -> NoiseSpec:
        """The inverse of `to_json`; see `from_dict`."""
        return cls.from_dict(parse_json(text, source, NoiseError), source)

    def to_json(self) -> str:
        """As a JSON document."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> NoiseSpec:
        """Read a file, whose name ends in .toml or .json; see `from_dict`."""
        path = Path(path)
        read = {".toml": cls.from_toml, ".json": cls.from_json}[checked_suffix(path)]
        return read(read_text(path), str(path))

    def save(self, path: str | Path) -> None:
        """Write a file, whose name ends in .toml or .json; it is there in full or not at all."""
        path = Path(path)
        write_text(path, {".toml": self.to_toml, ".json": self.to_json}[checked_suffix(path)]())


def checked_suffix(path: Path) -> str:
    """`.toml` or `.json`.

    Raises:
        NoiseError: another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise NoiseError(f"{path}: expected a file whose name ends in .toml or .json.")
    return path.suffix.lower()


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        NoiseError: it cannot be read, is too long, or is no text.
    """
    try:
        return read_file(path, NoiseError).decode()
    except OSError as error:
        raise NoiseError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise NoiseError(f"{path}: expected a text in UTF-8.") from error


def validated(kind: type[_Record], data: Any, source: str) -> _Record:
    """A record from plain values.

    Raises:
        NoiseError: one line that names the source, the field, what was expected and what came.
    """
    if not isinstance(data, dict):
        raise NoiseError(f"{source}: expected a table of fields, got {shown(data)}.")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise NoiseError(f"{source}: {problem_of(error, data)}") from None


def problem_of(error: ValidationError, data: Any, within: str = "") -> str:
    """The first thing that is wrong, in one line: `field: expected ..., got ...`.

    Args:
        error: of pydantic.
        data: that was validated, by which pydantic's own words are told from the names of fields.
        within: the part of a file that the data are, for the name of the field.
    """
    first = error.errors(include_url=False)[0]
    context: Mapping[str, Any] = first.get("ctx", {})
    kind, message, got = first["type"], str(first["msg"]), first.get("input")
    path = _field(first["loc"], data, within, is_absent=kind == "missing")
    if kind == "missing":
        return f"{path}: it is missing."
    if kind == "extra_forbidden":
        return f"{path}: there is no such field."
    if kind == "value_error":
        return f"{path}: {context['error']}." if path else f"{context['error']}."
    if kind == "union_tag_not_found":
        return (
            f"{path}: expected a table with the name of a channel as `channel`, got {shown(got)}."
        )
    if kind == "union_tag_invalid":
        return (
            f"{path}.channel: expected one of {context['expected_tags'].replace(chr(39), '')}, got "
            f"{shown(context['tag'])}."
        )
    expected = context["text"] if kind == "expected" else message.removeprefix("Input should be ")
    for theirs, ours in _OUR_WORDS.items():
        expected = expected.replace(theirs, ours)
    return f"{path}: expected {expected}, got {shown(got)}."


def shown(value: object) -> str:
    """A value of a file in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


_OUR_WORDS = {
    "a valid tuple": "a list",
    "a valid dictionary or object to extract fields from": "a table",
    "a valid dictionary": "a table",
    "a valid integer": "an integer",
    "a valid ": "a ",
    "greater than or equal to 1": "1 or more",
    "less than or equal to": "at most",
}
"""For pydantic's, after whose `Input should be` they stand."""


def _field(location: Sequence[str | int], data: Any, within: str, *, is_absent: bool) -> str:
    """`channels[1].probability`: of the location those parts that are in the data."""
    path = within
    for i, part in enumerate(location):
        is_last = is_absent and i == len(location) - 1
        if isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            path, data = f"{path}[{part}]", data[part]
        elif isinstance(data, dict) and (part in data or is_last):
            path, data = f"{path}.{part}" if path else str(part), data.get(part)
    return path
