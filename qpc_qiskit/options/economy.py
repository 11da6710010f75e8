"""Options that save QPU time: short circuits, many rows an execution, calibration by known rows.

`qpc evaluate`, `qpc run` and the batch script read, check and tell them alike. Nothing heavy is
imported: what cannot be meant is refused before anything is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import PlainValidator, model_validator

from qpc_qiskit.options.fields import Flag, OptionError, Options, flag_of

BRICKWALL = "brickwall"
ENCODERS = ("multiplexor", BRICKWALL)
"""As `qpc_qiskit.circuits.encoder.ENCODERS`, which takes Qiskit to load."""
MOST_BRICKWALL_QUBITS = 7
"""As `qpc_qiskit.circuits.brickwall` has it."""
AUTO = "auto"
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


AS_IT_IS = PlainValidator(lambda value: value)
"""For types that are checked by hand: NumPy's numbers are welcome, and "8" is none."""


class CircuitOptions(Options):
    """How a layer's circuit is made; of every engine that runs circuits."""

    encoder: Annotated[
        str,
        Flag(
            metavar="multiplexor|brickwall[:DEPTH]|auto",
            note="a brickwall is as deep as every pixel needs",
        ),
        AS_IT_IS,
    ] = "multiplexor"
    """How a pixel is encoded: exactly, or with far fewer gates and fitted angles."""
    absorb_tail: Annotated[bool | None, Flag(has_no=True), AS_IT_IS] = False
    """Measure parities instead of running the end of the ansatz, where that is the same."""


class Economy(CircuitOptions):
    """How circuits are kept short, and how rows share executions.

    What depends on the layers may be left open: the encoder as `auto`, the others as None.
    `for_qubits` decides it.
    """

    num_patches: Annotated[
        int | None, Flag(name="patches", metavar="N|all", low=1, word="all", note=""), AS_IT_IS
    ] = 1
    """Patches of the device on which rows run at a time; all: as many as are worth it."""
    gap: Annotated[int, Flag(low=0, note=""), AS_IT_IS] = 0
    """Unused qubits between two patches, at least."""
    num_references: Annotated[
        int | None, Flag(name="references", metavar="N|auto", low=0, word=AUTO, note=""), AS_IT_IS
    ] = 0
    """Rows with known answers in every job, by which values are calibrated; auto: two for each
    qubit of the widest layer; 0: none."""
    calibrate: Annotated[bool, Flag(name="no-calibrate", switch=(False,)), AS_IT_IS] = True
    """Run the reference rows, and leave values as measured."""

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        for old, new in _RENAMED.items():
            if isinstance(given, dict) and old in given:
                if new in given:
                    raise ValueError(f"{old} is the old name of {new}; give the new one alone")
                _warn(old, new, stacklevel=4)  # of whom pydantic's constructor was called by
                given = {new if name == old else name: value for name, value in given.items()}
        return given

    @property
    def patches(self) -> int | None:
        """Until the next version: `num_patches`."""
        _warn("patches", "num_patches")
        return self.num_patches

    @property
    def references(self) -> int | None:
        """Until the next version: `num_references`."""
        _warn("references", "num_references")
        return self.num_references

    @property
    def economy(self) -> Economy:
        """These options alone."""
        return Economy.model_construct(**{name: getattr(self, name) for name in _ORDER})

    def for_engine(self, *without: str) -> dict[str, Any]:
        """Arguments of engines that are not their defaults, without some.

        What depends on the layers and is not decided yet (see `for_qubits`) is left out.
        """
        told = self.given(*without)
        open_: dict[str, Any] = {"encoder": AUTO, "absorb_tail": None, "num_references": None}
        if self.num_references is None:  # without them there is nothing to calibrate by
            open_["calibrate"] = False
        return {k: v for k, v in told.items() if k not in open_ or v != open_[k]}

    def for_qubits(self, num_qubits: int) -> Self:
        """The same with all decided that depends on the layers.

        Args:
            num_qubits: of the widest layer.

        Raises:
            OptionError: an option does not go with so many qubits.
        """
        if self.encoder == AUTO:
            is_brickwall = _LEAST_BRICKWALL_QUBITS <= num_qubits <= MOST_BRICKWALL_QUBITS
            encoder = BRICKWALL if is_brickwall else PLAIN.encoder
            return self.changed(encoder=encoder).for_qubits(num_qubits)
        if split_encoder(self.encoder)[0] == BRICKWALL and num_qubits > MOST_BRICKWALL_QUBITS:
            raise OptionError(
                f"{{encoder}} brickwall is for at most {MOST_BRICKWALL_QUBITS} qubits, and the "
                f"widest quantum layer has {num_qubits}; use the multiplexor."
            )
        if self.absorb_tail is None:
            pays = num_qubits >= _LEAST_TAIL_QUBITS
            return self.changed(absorb_tail=pays).for_qubits(num_qubits)
        if self.num_references is None:
            return self.changed(num_references=2 * num_qubits)
        if 0 < self.num_references < 2 * num_qubits:
            raise OptionError(
                f"{{num_references}} must be at least {2 * num_qubits}, a largest and a smallest "
                f"value for each of the {num_qubits} qubits of the widest quantum layer; got "
                f"{self.num_references}."
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as on a command line."""
        told = {}
        for name in _ORDER:
            flag, value = flag_of(Economy, name), getattr(self, name)
            word = AUTO if name == "absorb_tail" else flag.word
            told[name.removeprefix("num_")] = word if value is None else value
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Economy:
        """The inverse of `to_dict`."""
        given = {name: told[name.removeprefix("num_")] for name in _ORDER}
        for name, word in (("num_patches", "all"), ("absorb_tail", AUTO), ("num_references", AUTO)):
            given[name] = None if given[name] == word else given[name]
        return Economy(**given)

    def text(self) -> str:
        """What is not as usual, in words; empty: nothing."""
        parts = []
        if self.encoder != ENCODERS[0]:
            parts.append(f"{'best' if self.encoder == AUTO else self.encoder} encoder")
        if self.absorb_tail:
            parts.append("absorbed tail")
        if self.num_patches != 1:
            many = "all good patches" if self.num_patches is None else f"{self.num_patches} patches"
            gap = f", {self.gap} unused between two" if self.gap else ""
            parts.append(f"packed on {many}{gap}")
        if self.num_references != 0:
            number = self.num_references or "two for each qubit"
            applied = "" if self.calibrate else ", not applied"
            parts.append(f"reference rows in every job: {number}{applied}")
        return "; ".join(parts)


_ORDER = tuple(Economy.model_fields)
_RENAMED = {"patches": "num_patches", "references": "num_references"}


def _warn(old: str, new: str, stacklevel: int = 3) -> None:
    message = f"{old} of an Economy is called {new}."
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


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


def check_encoder(name: str) -> None:
    """Refuse what is no encoder, where one may be left open.

    Raises:
        OptionError: it is none.
    """
    if not is_encoder(name):
        raise OptionError(
            f"{{encoder}} must be one of {', '.join(ENCODERS)}, {BRICKWALL}:DEPTH or {AUTO}; got "
            "{got!r}.",
            got=name,
        )


PLAIN = Economy()
"""One row an execution, encoded exactly, nothing absorbed, no references."""
BEST = Economy(encoder=AUTO, absorb_tail=None, num_patches=None, num_references=None)
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
