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
"""As `qpc_qiskit.circuits.encoder.ENCODERS`, which takes Qiskit to load."""
MOST_BRICKWALL_QUBITS = 7
"""As `qpc_qiskit.circuits.brickwall` has it."""
ALL, AUTO = "all", "auto"
NAMES = ("economy", "encoder", "absorb_tail", "patches", "gap", "references", "no_calibrate")
"""Of the options, as a command line has them."""
ALL_OR_NOTHING = ("best", "plain")
"""What `--economy` takes; the other options go before it."""

# As measured on snapshots of Eagle, Heron r1, r2 and r3, in seconds to an equal calibrated standard
# error (benchmarks/results/defaults.md). The families agree so far that one rule does for all:
# - the brickwall is the fastest and, calibrated, about the most exact encoder on each of them; with
#   two qubits both have one two-qubit gate, and the multiplexor needs no fits;
# - parities instead of the last gates pay from six qubits on: with fewer, their readout errors cost
#   as much as the gates that they save, or up to a fifth more (Heron r1, whose readout is poor);
# - reference rows leave a sixteenth to a quarter of the error.
_LEAST_BRICKWALL_QUBITS = 3
_LEAST_TAIL_QUBITS = 6

_OF_ENGINE = {"patches": "num_patches", "references": "num_references"}
"""Fields that are not called as the argument of `EstimatorEngine.from_backend` is."""


@dataclass(frozen=True, kw_only=True)
class Economy:
    """How circuits are kept short, and how rows share executions."""

    encoder: str = "multiplexor"
    """See `split_encoder`; `auto`: the best for the widest layer."""
    absorb_tail: bool | None = False
    """None: where it pays."""
    patches: int | None = 1
    """None: as many as are worth it."""
    gap: int = 0
    references: int | None = 0
    """In every job; None: two for each qubit of the widest layer."""
    calibrate: bool = True

    def for_engine(self) -> dict[str, Any]:
        """Arguments of `EstimatorEngine.from_backend` that are not its defaults.

        What depends on the layers and is not decided yet (see `for_qubits`) is left out.
        """
        told = {
            _OF_ENGINE.get(field.name, field.name): getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        open_: dict[str, Any] = {"encoder": AUTO, "absorb_tail": None, "num_references": None}
        if self.references is None:  # without them there is nothing to calibrate by
            open_["calibrate"] = False
        return {k: v for k, v in told.items() if k not in open_ or v != open_[k]}

    def for_qubits(self, num_qubits: int) -> Economy:
        """The same with all decided that depends on the layers.

        Args:
            num_qubits: of the widest layer.

        Raises:
            ValueError: an option does not go with so many qubits; spelled as on a command line.
        """
        if self.encoder == AUTO:
            is_brickwall = _LEAST_BRICKWALL_QUBITS <= num_qubits <= MOST_BRICKWALL_QUBITS
            encoder = BRICKWALL if is_brickwall else PLAIN.encoder
            return replace(self, encoder=encoder).for_qubits(num_qubits)
        if split_encoder(self.encoder)[0] == BRICKWALL and num_qubits > MOST_BRICKWALL_QUBITS:
            raise ValueError(
                f"--encoder brickwall is for at most {MOST_BRICKWALL_QUBITS} qubits, and the "
                f"widest quantum layer has {num_qubits}; use the multiplexor."
            )
        if self.absorb_tail is None:
            pays = num_qubits >= _LEAST_TAIL_QUBITS
            return replace(self, absorb_tail=pays).for_qubits(num_qubits)
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
        for name in ("absorb_tail", "references"):
            told[name] = AUTO if told[name] is None else told[name]
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Economy:
        """The inverse of `to_dict`."""
        counted = {
            name: None if told[name] == word else told[name]
            for name, word in (("patches", ALL), ("absorb_tail", AUTO), ("references", AUTO))
        }
        return cls(**{**told, **counted})

    def text(self) -> str:
        """What is not as usual, in words; empty: nothing."""
        parts = []
        if self.encoder != ENCODERS[0]:
            parts.append(f"{'best' if self.encoder == AUTO else self.encoder} encoder")
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
    is_depth = len(depth) < 5 and depth.isascii() and depth.isdecimal() and int(depth) > 0
    if base in ENCODERS and (not colon or (base == BRICKWALL and is_depth)):
        return base, int(depth) if colon else None
    raise ValueError(
        f"Unknown encoder {name!r}; expected one of {', '.join(ENCODERS)}, or {BRICKWALL}:DEPTH."
    )


def is_encoder(name: str) -> bool:
    """Whether there is such an encoder, or one is to be chosen."""
    if name == AUTO:
        return True
    try:
        split_encoder(name)
    except ValueError:
        return False
    return True


PLAIN = Economy()
"""One row an execution, encoded exactly, nothing absorbed, no references."""
BEST = Economy(encoder=AUTO, absorb_tail=None, patches=None, references=None)
"""What measurements recommend for devices; decided by `Economy.for_qubits`."""


def best_options(num_qubits: int) -> dict[str, Any]:
    """What measurements recommend for a device: arguments of `from_backend` and `durable`.

    Args:
        num_qubits: of the network's widest layer.

    Example:
        >>> sorted(best_options(4))
        ['encoder', 'num_patches', 'num_references']
    """
    return BEST.for_qubits(num_qubits).for_engine()


def read_economy(given: Mapping[str, Any], usual: Economy = PLAIN) -> Economy:
    """Options as a command line has them.

    Args:
        given: by name, see `NAMES`; others are not looked at.
        usual: what is not given, where `--economy` is not given either.

    Raises:
        ValueError: a value that cannot be meant; spelled as on a command line.
    """
    word = given.get("economy")
    if word not in (None, *ALL_OR_NOTHING):
        raise ValueError(f"--economy must be one of {', '.join(ALL_OR_NOTHING)}; got {word!r}.")
    base = usual if word is None else {"best": BEST, "plain": PLAIN}[word]
    told = {name: given[name] for name in ("encoder", "absorb_tail", "gap") if name in given}
    if "patches" in given:
        told["patches"] = _number("patches", given["patches"], ALL, 1)
    if "references" in given:
        told["references"] = _number("references", given["references"], AUTO, 0)
    if given.get("no_calibrate", False):
        told["calibrate"] = False
    return replace(base, **told)


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
    economy: Economy, *, has_device: bool, has_noise: bool, is_exact: bool
) -> Iterator[str]:
    """What is wrong with options, or has no effect.

    Args:
        economy: the options.
        has_device: whether circuits stand on a device, be it on a copy of one.
        has_noise: whether there is any.
        is_exact: whether values without shot noise are asked for.
    """
    problems = [
        (
            not is_encoder(economy.encoder),
            f"--encoder must be one of {', '.join(ENCODERS)}, {BRICKWALL}:DEPTH or {AUTO}; got "
            f"{economy.encoder!r}.",
        ),
        (
            economy == BEST and not has_device,
            "--economy best has no effect on aer, which is no device; leave it out, or give the "
            "noise of one (--noise fake_...).",
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
            economy.references != 0 and is_exact and not has_noise,
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
