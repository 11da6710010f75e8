"""What a study is to do, as a file: networks, noise, shots, mitigation, seeds."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from noise_models.channels import expects
from noise_models.spec import NoiseSpec, problem_of, read_text
from noise_models.study.words import parse_mitigation
from noise_models.words import KINDS, is_file
from qpc_qiskit.common.files import parse_toml
from qpc_qiskit.errors import NoiseError
from qpc_qiskit.options.economy import ENCODERS, is_encoder
from qpc_qiskit.options.records import MAX_SEED, DataSource, NetConfig, TrainConfig

FORMAT = 1
_MAX_ROWS = 10**6
"""Of a grid and one network."""
_T = TypeVar("_T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_Name = Annotated[
    str,
    expects(
        "a name of letters, digits and . _ + -, that begins with a letter or digit", _NAME.fullmatch
    ),
]
_Seed = Annotated[
    int, Field(strict=True), expects("a seed of 0 or more", lambda s: 0 <= s <= MAX_SEED)
]
_Seeds = Annotated[
    tuple[_Seed, ...],
    expects(
        "a list of different seeds of 0 or more, at least one",
        lambda seeds: 0 < len(set(seeds)) == len(seeds),
    ),
]
_Layers = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1)], ...],
    expects("a list of different numbers of 1 or more", lambda n: len(set(n)) == len(n)),
]
_Strengths = Annotated[
    tuple[Annotated[float, Field(strict=True, allow_inf_nan=False)], ...],
    expects(
        "a list of different numbers, at least one",
        lambda values: 0 < len(set(values)) == len(values),
    ),
]
_Shots = Annotated[
    Literal["exact"] | Annotated[int, Field(strict=True, ge=1, le=10**9)],
    expects('a number of shots from 1 to 1,000,000,000, or "exact"'),
]
_Encoder = Annotated[
    str, expects(f"an encoder, one of {', '.join(ENCODERS)}, or brickwall:DEPTH", is_encoder)
]


def _some(what: str) -> AfterValidator:
    """A list of at least one."""

    def validate(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values:
            raise ValueError(f"the grid is empty: expected at least one {what}, got none")
        return values

    return AfterValidator(validate)


def _twice(values: Sequence[_T]) -> _T | None:
    """The first value that comes again."""
    return next((v for i, v in enumerate(values) if v in values[:i]), None)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Train(_Part):
    """Networks that the study trains first, one for each number of blocks and each seed."""

    data: DataSource = Field(default_factory=lambda: DataSource.model_validate({}))
    """Which images."""
    net: NetConfig = Field(default_factory=lambda: NetConfig.model_validate({}))
    """The network; what the images decide (channels, size, classes) is theirs."""
    training: TrainConfig = Field(default_factory=lambda: TrainConfig.model_validate({}))
    """How; with `engine = "noisy"` and `noise` the network is trained for that noise."""
    num_layers: _Layers = ()
    """Blocks of the ansatz, a network for each; none: those of `net`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.net.model_fields_set
        idle = sorted(given & {"in_channels", "image_size", "num_classes"})
        if idle:
            raise ValueError(f"net: {', '.join(idle)} has no effect; the images decide it")
        if "num_layers" in given and self.num_layers:
            raise ValueError("num_layers is given twice, in net and beside it")
        if "seed" in self.training.model_fields_set:
            raise ValueError("training: seed has no effect; the seeds of the study are taken")
        if self.training.devices * self.training.num_nodes > 1:
            raise ValueError(
                "training: a study trains each network in one process; its networks "
                "are trained side by side"
            )
        return self


class NoiseAxis(_Part):
    """One kind of noise at several strengths: a line of a figure."""

    noise: str | NoiseSpec
    """A word as `qpc evaluate --noise` takes: a channel without its number, a name of the catalog,
    a device or a file; or a table with a spec."""
    strengths: _Strengths = (1.0,)
    """Of a channel its number (probability, gamma, angle); of all else factors, see
    `NoiseSpec.scaled` and `Snapshot.scaled`."""
    label: str = ""
    """In tables and figures; by default the name of the noise."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        return {"noise": given} if isinstance(given, str) else given

    @field_validator("noise", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        try:  # one message, where a union would tell of the string that it is not
            return NoiseSpec.from_dict(given, "spec")
        except NoiseError as error:
            raise ValueError(str(error).removeprefix("spec: ").rstrip(".")) from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_channel and "strengths" not in self.model_fields_set:
            raise ValueError(f"the channel {self.noise} needs strengths, such as [0.001, 0.01]")
        return self

    @property
    def is_channel(self) -> bool:
        """Whether strengths are the channel's number, and no factors."""
        return isinstance(self.noise, str) and self.noise in KINDS

    @property
    def name(self) -> str:
        """For tables and figures."""
        if self.label:
            return self.label
        if isinstance(self.noise, NoiseSpec):
            return self.noise.name
        return Path(self.noise).stem if is_file(self.noise) else self.noise.replace(":", "-")

    @property
    def quantity(self) -> Literal["probability", "gamma", "angle / rad", "factor"]:
        """What the strengths are."""
        if not self.is_channel:
            return "factor"
        if self.noise in ("amplitude_damping", "phase_damping"):
            return "gamma"
        return "angle / rad" if self.noise in ("over_rotation", "zz_crosstalk") else "probability"


class Grid(_Part):
    """All combinations of these."""

    name: _Name = "main"
    """Of the grid; its figures are told apart by it."""
    noise: Annotated[tuple[NoiseAxis, ...], _some("kind of noise")]
    """Kinds of noise, each with its strengths."""
    networks: tuple[_Name, ...] = ()
    """Names of `train` and `checkpoints`; none: all."""
    num_layers: _Layers = ()
    """Only networks with so many blocks; none: all."""
    encoder: Annotated[tuple[_Encoder, ...], _some("encoder")] = ("multiplexor",)
    """How pixels are encoded."""
    shots: Annotated[tuple[_Shots, ...], _some("number of shots")] = ("exact",)
    """Per value."""
    mitigation: Annotated[tuple[str, ...], _some("mitigation")] = ("none",)
    """See `noise_models.study.mitigation`; where one can do nothing about a noise, no cell."""
    repeats: Annotated[int, Field(strict=True, ge=1, le=10**4)] = 1
    """Independent draws of shots, for every seed; exact values are computed once."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        mitigations = []
        for word in self.mitigation:
            try:
                mitigations.append(parse_mitigation(word).word)
            except NoiseError as error:
                raise ValueError(str(error).rstrip(".")) from None
        for field, values in (
            ("mitigation", mitigations),
            ("shots", self.shots),
            ("encoder", self.encoder),
            ("networks", self.networks),
        ):
            if (twice := _twice(values)) is not None:
                raise ValueError(f"{field}: {twice!r} is given twice")
        names = [axis.name for axis in self.noise]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"noise {twice!r} is given twice; tell them apart by a label")
        each = (self.encoder, self.shots, self.mitigation)
        rows = sum(len(axis.strengths) for axis in self.noise) * math.prod(map(len, each))
        if rows * self.repeats > _MAX_ROWS:
            raise ValueError(
                f"expected at most {_MAX_ROWS:,} combinations, got {rows * self.repeats:,}"
            )
        if self.repeats > 1 and self.shots == ("exact",):
            raise ValueError("repeats has no effect on exact values; give shots, or leave it out")
        return self


class StudySpec(_Part):
    r"""A study. Paths in it are relative to its file.

    Example:
        >>> spec = StudySpec.from_toml('name = "tiny"\nseeds = [0]\n[train.digits]\n'
        ...     '[[grid]]\nnoise = [{noise = "bit_flip", strengths = [0.01]}]\n')
        >>> spec.grid[0].noise[0].quantity
        'probability'
    """

    format: Literal[1] = 1
    """Of the file."""
    name: _Name
    """Of the study; its folder has it by default."""
    description: str = ""
    """What it is for; the report says it."""
    seeds: _Seeds = (0,)
    """Networks of `train` are trained with each; more seeds, narrower intervals."""
    test_images: Annotated[int, Field(strict=True, ge=1)] | None = None
    """A random subset of the test images, the same every time; none: all."""
    train: dict[_Name, Train] = {}
    """Networks to train first, by name."""
    checkpoints: dict[_Name, Annotated[tuple[str, ...], _some("folder of a run")]] = {}
    """Folders of finished runs, by a name for those that differ by their seed only."""
    marks: tuple[str, ...] = ()
    """Devices or snapshots whose median errors figures show."""
    grid: Annotated[tuple[Grid, ...], _some("[[grid]]")]
    """What is evaluated."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        both = sorted(set(self.train) & set(self.checkpoints))
        if both:
            raise ValueError(f"the network {both[0]!r} is in train and in checkpoints")
        known = {*self.train, *self.checkpoints}
        if not known:
            raise ValueError(
                "there are no networks; give [train.NAME] or checkpoints = {NAME = [...]}"
            )
        for i, grid in enumerate(self.grid):
            for name in grid.networks:
                if name not in known:
                    raise ValueError(
                        f"grid[{i}].networks: expected names of {', '.join(sorted(known))}, got "
                        f"{name!r}"
                    )
        wanted = {name for grid in self.grid for name in grid.networks or known}
        if idle := sorted(known - wanted):
            where = "train" if idle[0] in self.train else "checkpoints"
            raise ValueError(f"{where}.{idle[0]} has no effect: no grid has this network")
        if "seeds" in self.model_fields_set and not self.train:
            raise ValueError("seeds has no effect: no network is trained; checkpoints have theirs")
        if (twice := _twice(self.marks)) is not None:
            raise ValueError(f"marks: {twice!r} is given twice")
        names = [grid.name for grid in self.grid]
        if len(set(names)) < len(names):
            raise ValueError(f"expected grids of different names, got {', '.join(names)}")
        return self

    @classmethod
    def from_dict(cls, data: Any, source: str = "study") -> StudySpec:
        """A spec from plain values.

        Raises:
            NoiseError: one line that names the source, the field, what was expected and what came.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise NoiseError(f"{source}: {problem_of(error, data)}") from None

    @classmethod
    def from_toml(cls, text: str, source: str = "study") -> StudySpec:
        """The inverse of `to_toml`; see `from_dict`."""
        return cls.from_dict(parse_toml(text, source, NoiseError), source)

    @classmethod
    def load(cls, path: str | Path) -> StudySpec:
        """Read a file, and make its paths absolute; see `from_dict`."""
        path = Path(path)
        spec = cls.from_toml(read_text(path), str(path))
        return spec.within(path.resolve().parent)

    def to_toml(self) -> str:
        """As a TOML document, without what was left to defaults."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_unset=True, exclude_none=True))

    def within(self, folder: Path) -> StudySpec:
        """The same with paths relative to a folder made absolute."""

        def place(path: str) -> str:
            return str(folder / path)

        return self.placed(place, place)

    def beside(self, folder: Path) -> StudySpec:
        """The inverse of `within`: what `load` reads back from a file in the folder."""

        def place(path: str) -> str:
            return os.path.relpath(path, folder)

        return self.placed(place, place)

    def placed(self, file: Callable[[str], str], folder: Callable[[str], str]) -> StudySpec:
        """The same with other paths.

        Args:
            file: from and to the path of a file with noise.
            folder: of a run, or of a data set.
        """

        def word(noise: str) -> str:
            return file(noise) if is_file(noise) else noise

        def axis(old: NoiseAxis) -> NoiseAxis:
            if not isinstance(old.noise, str):
                return old
            return old.model_copy(update={"noise": word(old.noise)})

        def train(old: Train) -> Train:
            update: dict[str, Any] = {}
            if old.data.data_dir is not None:
                moved = folder(old.data.data_dir)
                update["data"] = old.data.model_copy(update={"data_dir": moved})
            if old.training.noise is not None:
                moved = word(old.training.noise)
                update["training"] = old.training.model_copy(update={"noise": moved})
            return old.model_copy(update=update)

        update: dict[str, Any] = {
            "grid": tuple(
                grid.model_copy(update={"noise": tuple(map(axis, grid.noise))})
                for grid in self.grid
            ),
            "marks": tuple(map(word, self.marks)),
            "checkpoints": {n: tuple(map(folder, paths)) for n, paths in self.checkpoints.items()},
            "train": {name: train(each) for name, each in self.train.items()},
        }
        return self.model_copy(
            update={name: value for name, value in update.items() if name in self.model_fields_set}
        )
