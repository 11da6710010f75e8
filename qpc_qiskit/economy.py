"""Options that save QPU time: short circuits, many rows an execution, calibration by known rows.

`qpc evaluate`, `qpc run` and the batch script read, check and tell them alike. Nothing heavy is
imported: what cannot be meant is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

BRICKWALL = "brickwall"
ENCODERS = ("multiplexor", BRICKWALL)
"""As `qpc_qiskit.encoder.ENCODERS`, which takes Qiskit to load."""
MOST_BRICKWALL_QUBITS = 7
"""As `qpc_qiskit.brickwall` has it."""
ALL, AUTO = "all", "auto"
NAMES = ("encoder", "absorb_tail", "patches", "gap", "references", "no_calibrate")
"""Of the options, as a command line has them."""

_OF_ENGINE = {"patches": "num_patches", "references": "num_references"}
"""Fields that are not called as the argument of `EstimatorEngine.from_backend` is."""


@dataclass(frozen=True, kw_only=True)
class Economy:
    """How circuits are kept short, and how rows share executions."""

    encoder: str = "multiplexor"
    """See `split_encoder`."""
    absorb_tail: bool = False
    patches: int | None = 1
    """None: as many as are worth it."""
    gap: int = 0
    references: int | None = 0
    """In every job; None: two for each qubit of the widest layer."""
    calibrate: bool = True

    def for_engine(self) -> dict[str, Any]:
        """Arguments of `EstimatorEngine.from_backend` that are not its defaults.

        References that are not counted yet (see `for_qubits`) are left out.
        """
        told = {
            _OF_ENGINE.get(field.name, field.name): getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return {k: v for k, v in told.items() if k != "num_references" or v is not None}

    def for_qubits(self, num_qubits: int) -> Economy:
        """The same with the references counted.

        Args:
            num_qubits: of the widest layer.

        Raises:
            ValueError: an option does not go with so many qubits; spelled as on a command line.
        """
        if split_encoder(self.encoder)[0] == BRICKWALL and num_qubits > MOST_BRICKWALL_QUBITS:
            raise ValueError(
                f"--encoder brickwall is for at most {MOST_BRICKWALL_QUBITS} qubits, and the "
                f"widest quantum layer has {num_qubits}; use the multiplexor."
            )
        if self.references is None:
            return replace(self, references=2 * num_qubits)
        if 0 < self.references < 2 * num_qubits:
            raise ValueError(
                f"--references must be at least {2 * num_qubits}, a largest and a smallest value "
                f"for each of the {num_qubits} qubits of the widest quantum layer; got "
                f"{self.references}."
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as on a command line."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        told["patches"] = ALL if self.patches is None else self.patches
        told["references"] = AUTO if self.references is None else self.references
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Economy:
        """The inverse of `to_dict`."""
        counted = {
            name: None if told[name] == word else told[name]
            for name, word in (("patches", ALL), ("references", AUTO))
        }
        return cls(**{**told, **counted})

    def text(self) -> str:
        """What is not as usual, in words; empty: nothing."""
        parts = []
        if self.encoder != ENCODERS[0]:
            parts.append(f"{self.encoder} encoder")
        if self.absorb_tail:
            parts.append("absorbed tail")
        if self.patches != 1:
            told = "all good patches" if self.patches is None else f"{self.patches} patches"
            gap = f", {self.gap} unused between two" if self.gap else ""
            parts.append(f"packed on {told}{gap}")
        if self.references != 0:
            told = "two for each qubit" if self.references is None else f"{self.references}"
            applied = "" if self.calibrate else ", not applied"
            parts.append(f"reference rows in every job: {told}{applied}")
        return "; ".join(parts)


def split_encoder(name: str) -> tuple[str, int | None]:
    """An encoder's name, and the depth of a brickwall where it is told: `brickwall:15`.

    Raises:
        ValueError: there is no such encoder.
    """
    base, colon, depth = str(name).partition(":")
    is_depth = depth.isascii() and depth.isdecimal() and int(depth) > 0
    if base in ENCODERS and (not colon or (base == BRICKWALL and is_depth)):
        return base, int(depth) if colon else None
    raise ValueError(
        f"Unknown encoder {name!r}; expected one of {', '.join(ENCODERS)}, or {BRICKWALL}:DEPTH."
    )


def is_encoder(name: str) -> bool:
    """Whether there is such an encoder."""
    try:
        split_encoder(name)
    except ValueError:
        return False
    return True


PLAIN = Economy()
"""One row an execution, encoded exactly, nothing absorbed, no references."""


def read_economy(given: Mapping[str, Any]) -> Economy:
    """Options as a command line has them; those that are not given are as usual.

    Args:
        given: by name, see `NAMES`; others are not looked at.

    Raises:
        ValueError: a value that cannot be meant; spelled as on a command line.
    """
    told = {name: given[name] for name in ("encoder", "absorb_tail", "gap") if name in given}
    if "patches" in given:
        told["patches"] = _number("patches", given["patches"], ALL, 1)
    if "references" in given:
        told["references"] = _number("references", given["references"], AUTO, 0)
    return Economy(**told, calibrate=not given.get("no_calibrate", False))


def _number(name: str, value: object, word: str, least: int) -> int | None:
    text = str(value)
    if text == word:
        return None
    if not text.isascii() or not text.isdecimal() or int(text) < least:
        raise ValueError(
            f"--{name} must be a whole number of at least {least}, or {word}; got {text!r}."
        )
    return int(text)


def economy_problems(
    economy: Economy, *, backend: str, noise: str | None, is_exact: bool
) -> Iterator[str]:
    """What is wrong with options, or has no effect.

    Args:
        economy: the options.
        backend: its name.
        noise: on aer.
        is_exact: whether values without shot noise are asked for.
    """
    has_device = backend != "aer" or (noise or "").startswith(("fake_", "ibm_"))
    problems = [
        (
            not is_encoder(economy.encoder),
            f"--encoder must be one of {', '.join(ENCODERS)}, or {BRICKWALL}:DEPTH; got "
            f"{economy.encoder!r}.",
        ),
        (
            economy.patches != 1 and not has_device,
            "--patches has no effect on aer, which is no device; leave it out, or give the noise "
            "of one (--noise fake_...).",
        ),
        (economy.gap < 0, f"--gap must be 0 or more; got {economy.gap}."),
        (
            economy.gap > 0 and economy.patches == 1,
            "--gap has no effect on one patch; give --patches, or leave it out.",
        ),
        (
            not economy.calibrate and economy.references == 0,
            "--no-calibrate has no effect without --references; leave it out.",
        ),
        (
            economy.references != 0 and is_exact and backend == "aer" and noise is None,
            "--references has no effect on exact values without noise; leave it out.",
        ),
    ]
    yield from (message for is_wrong, message in problems if is_wrong)


def economy_of(engine_options: Mapping[str, Any]) -> Economy:
    """The options among those that a run was begun with, by arguments of the engine."""
    told = {field.name: _OF_ENGINE.get(field.name, field.name) for field in fields(Economy)}
    return Economy(
        **{k: engine_options[name] for k, name in told.items() if name in engine_options}
    )


def flag_of(argument: str) -> str:
    """An argument of the engine as the option of a command line."""
    named = {told: name for name, told in _OF_ENGINE.items()} | {"calibrate": "no_calibrate"}
    return f"--{named.get(argument, argument).replace('_', '-')}"
