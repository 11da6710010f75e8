"""What an experiment is: lines of a figure, each one network and training or a grid of them.

    name = "depth"
    title = "Blocks of the ansatz"
    question = "Does a deeper circuit learn more?"
    paper = "Fig. 8"                    # what it stands beside, and what the paper leaves open
    seeds = [0, 1, 2]                   # each line is trained once with each

    [data]                              # as a DataSource
    name = "cifar10"

    [training]                          # of all lines, as a TrainConfig; epochs must be given
    epochs = 20

    [[lines]]
    label = "quantum, {num_layers} blocks"
    preset = "paper-literal"            # options to begin with
    net = { ansatz = "figure1" }        # over them, as a NetConfig
    grid = { "net.num_layers" = [1, 2, 3, 4] }    # a line for each combination
    paper = "about 70"                  # the accuracy in %, beside which it stands in the table
    against = ["classical"]             # lines that it is compared with, seed by seed

Options are taken, the later over the earlier, from: the preset of the experiment, that of the line,
the experiment's [net] and [training], the line's net and training, the grid. Epochs and seeds stand
in the file, so that they are fixed before anybody looks at test accuracies.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from qpc_qiskit.common.files import MAX_TOML_BYTES, parse_toml, read_file
from qpc_qiskit.errors import ExperimentError
from qpc_qiskit.options.fields import Options
from qpc_qiskit.options.presets import PRESETS, Preset
from qpc_qiskit.options.records import (
    IMAGE_SHAPES,
    KERNEL_SIZE_WAS,
    MAX_SEED,
    DataSource,
    NetConfig,
    TrainConfig,
)

_PARTS = ("net", "training")
_NO_OPTIONS = {"seed", "devices", "num_nodes"}  # of a training, that an experiment decides
_MAX_NAME = 200  # bytes of a folder's name, within what file systems take
_MAX_CELLS = 10_000  # trainings; each is looked at before the first begins


class Line(Options):
    """One line of the figure, or one for each combination of a grid."""

    label: str = Field(min_length=1)
    """In legends and tables; {field} stands for the value of an option of network or training."""
    preset: str | None = None
    """Options to begin with."""
    net: dict[str, Any] = Field(default_factory=dict)
    """Options of the network."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Options of the training."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values to combine, by `net.FIELD` or `training.FIELD`."""
    paper: str = ""
    """Accuracy that the paper shows for it, in %."""
    against: tuple[str, ...] = ()
    """Labels of lines whose accuracies are taken from its own, seed by seed; {field} as above."""

    @field_validator("label")
    @classmethod
    def _check_label(cls, label: str) -> str:
        if not label.isprintable():
            raise ValueError(f"{label!r} must be one line of printable characters")
        return label

    @field_validator("grid")
    @classmethod
    def _check_grid(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in grid.items():
            part, dot, field = key.partition(".")
            if part not in _PARTS or not dot or not field:
                raise ValueError(f"{key!r} must be net.FIELD or training.FIELD")
            if not values:
                raise ValueError(f"{key!r} has no values")
        return grid


@dataclass(frozen=True)
class Cell:
    """One training run of an experiment."""

    label: str
    """Of its line."""
    net: NetConfig
    """The network, for the images of the experiment's data."""
    training: TrainConfig
    """How it is trained, its seed included."""
    paper: str = ""
    """See `Line`."""
    against: tuple[str, ...] = ()
    """Labels of the lines that it is compared with."""

    @property
    def folder(self) -> str:
        """Of the run, under the experiment's."""
        return f"cells/{slug(self.label)}/seed-{self.training.seed}"


class Experiment(Options):
    """A grid of training runs."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Of the experiment."""
    title: str
    """Above the figure."""
    question: str
    """What it is to answer."""
    paper: str = ""
    """What the paper shows or claims, and what it leaves open."""
    data: DataSource = Field(default_factory=lambda: DataSource.model_validate({}))
    """The images."""
    preset: str | None = None
    """Options to begin with."""
    net: dict[str, Any] = Field(default_factory=dict)
    """Options of all networks."""
    training: dict[str, Any]
    """Options of all trainings; the epochs must be among them."""
    seeds: tuple[Annotated[int, Field(strict=True)], ...] = Field(min_length=1)
    """Each line is trained once with each."""
    lines: tuple[Line, ...] = Field(min_length=1)
    """Of the figure."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "epochs" not in self.training:
            raise ValueError("training.epochs must be given: it is fixed before the results")
        if not all(0 <= seed <= MAX_SEED for seed in self.seeds):
            raise ValueError(f"seeds must be in 0 to {MAX_SEED}, found {list(self.seeds)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, found {list(self.seeds)}")
        lines = sum(math.prod(map(len, line.grid.values())) for line in self.lines)
        if lines * len(self.seeds) > _MAX_CELLS:
            raise ValueError(
                f"expected at most {_MAX_CELLS:,} trainings, found {lines:,} lines of the figure "
                f"with {len(self.seeds):,} seeds"
            )
        cells = self.cells()
        _check_folders([cell for cell in cells if cell.training.seed == self.seeds[0]])
        labels = dict.fromkeys(cell.label for cell in cells)
        for cell in cells:
            if cell.label in cell.against:
                raise ValueError(f"line {cell.label!r} is compared with itself (against)")
            if unknown := [name for name in cell.against if name not in labels]:
                known = ", ".join(map(repr, labels))
                raise ValueError(
                    f"line {cell.label!r}: against {unknown[0]!r}, but the lines are {known}"
                )
        return self

    def cells(self) -> list[Cell]:
        """Every training run, seed by seed, so that the first seed of all lines is done first.

        Raises:
            ValueError: options that contradict each other, unknown ones, or an unknown preset.
        """
        firsts = [cell for line in self.lines for cell in self._expand(line)]
        return [
            replace(cell, training=cell.training.model_copy(update={"seed": seed}))
            for seed in self.seeds
            for cell in firsts
        ]

    def _expand(self, line: Line) -> list[Cell]:
        found = []
        for values in itertools.product(*line.grid.values()):
            options = self._common(line)
            for key, value in zip(line.grid, values, strict=True):
                part, _, field = key.partition(".")
                options[part][field] = value
            found.append(self._configured(line, options))
        return found

    def _common(self, line: Line) -> dict[str, dict[str, Any]]:
        options: dict[str, dict[str, Any]] = {"net": {}, "training": {}}
        names = [name for name in (self.preset, line.preset) if name is not None]
        for name in names:
            if name not in PRESETS:
                raise ValueError(f"preset must be one of {', '.join(PRESETS)}, found {name!r}")
        sources: list[Preset | Experiment | Line] = [PRESETS[name] for name in names]
        for source in (*sources, self, line):
            options["net"] |= source.net
            options["training"] |= source.training
        return options

    def _configured(self, line: Line, options: dict[str, dict[str, Any]]) -> Cell:
        for field in _NO_OPTIONS:
            if field in options["training"]:
                raise ValueError(f"training.{field} cannot be an option of an experiment's line")
        channels, size = IMAGE_SHAPES[self.data.name]
        shape = {"in_channels": channels, "image_size": size, "num_classes": 10}
        if given := sorted(shape.keys() & options["net"].keys()):
            raise ValueError(f"net.{given[0]} is decided by the data")
        try:
            net = NetConfig(**(options["net"] | shape))
            training = TrainConfig(**options["training"])
        except ValidationError as error:
            raise ValueError(f"line {line.label!r}: {first_problem(error)}") from error
        if training.engine != "exact":
            raise ValueError(f"line {line.label!r}: an experiment is trained on the exact engine")
        known = training.model_dump(exclude=_NO_OPTIONS) | net.model_dump()
        known[KERNEL_SIZE_WAS] = net.kernel_size
        label = _filled_in(line.label, known)
        against = dict.fromkeys(_filled_in(other, known) for other in line.against)
        if line.grid:  # one of its lines may be what the others are compared with
            against.pop(label, None)
        return Cell(label, net, training, line.paper, tuple(against))


_FORMAT = re.compile(r"[^{}]?[<>=^]?[-+ ]?#?[0-9]{0,2}(\.[0-9]{1,2})?[a-zA-Z%,_]?")
"""Of an option in a label; a width of thousands would be a label of thousands of blanks."""


def _filled_in(label: str, options: Mapping[str, Any]) -> str:
    """A label with the values of the options that it names."""
    try:
        for _, name, width, _ in Formatter().parse(label):
            if name is not None and name not in options:  # nor an attribute or an item of one
                raise ValueError(f"no option {name!r}")
            if width and not _FORMAT.fullmatch(width):
                raise ValueError(f"a format {width[:20]!r}")
        return label.format_map(options)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ValueError(
            f"label {label!r}: {error}; between braces stands an option of network or training, as "
            "in {num_layers}"
        ) from error


def slug(label: str) -> str:
    """A label as the name of a folder: letters of any script, digits and points."""
    return re.sub(r"(?:[^\w.]|_)+", "-", label.lower()).strip("-.") or "line"


def _check_folders(lines: Sequence[Cell]) -> None:
    """Refuse lines that would be trained in the same folder, and names that are too long."""
    taken: dict[str, str] = {}
    for cell in lines:
        name = slug(cell.label)
        if len(name.encode()) > _MAX_NAME:
            raise ValueError(f"label {cell.label!r} is too long for the name of a folder")
        other = taken.get(name)
        taken[name] = cell.label
        if other == cell.label:
            raise ValueError(
                f"two lines are called {cell.label!r}; name in the label what the grid changes, as "
                "in '{num_layers} blocks'"
            )
        if other is not None:
            raise ValueError(
                f"lines {other!r} and {cell.label!r} would share the folder {name!r}; give one of "
                "them another label"
            )


def experiment_names() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = files("qpc_qiskit.experiments")
    return sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )


def load_experiment(name: str | Path) -> Experiment:
    """An experiment by its name, or from a TOML file.

    Args:
        name: one of `experiment_names()`, or a path that ends with `.toml`.

    Raises:
        ExperimentError: there is none, or something in it is wrong; the message says where.
    """
    if str(name) in experiment_names():
        where, content = f"{name}.toml", _bundled(str(name))
    elif str(name).endswith(".toml"):
        where = str(name)
        try:
            content = read_file(Path(name), ExperimentError, MAX_TOML_BYTES)
        except OSError as error:
            raise ExperimentError(f"{name}: cannot be read ({error}).") from error
    else:
        raise ExperimentError(
            f"No experiment is called {str(name)!r}; expected one of "
            f"{', '.join(experiment_names())}, or a file that ends with .toml."
        )
    try:
        return Experiment.model_validate(parse_toml(content, where, ExperimentError))
    except ValidationError as error:
        raise ExperimentError(f"{where}: {first_problem(error)}.") from error


def changed(experiment: Experiment, **changes: Any) -> Experiment:
    """An experiment with other fields, checked anew.

    Args:
        experiment: stays as it is.
        changes: fields of it; those of `data`, `net` and `training` are laid over what is there,
            also over what a line or its grid says.

    Raises:
        ExperimentError: the result is wrong.
    """
    fields = experiment.model_dump()
    for name, value in changes.items():
        if not isinstance(value, dict):
            fields[name] = value
            continue
        fields[name] |= value
        for line in fields["lines"] if name in _PARTS else ():
            line[name] = {key: own for key, own in line[name].items() if key not in value}
            line["grid"] = {
                key: own
                for key, own in line["grid"].items()
                if key not in {f"{name}.{field}" for field in value}
            }
    try:
        return Experiment.model_validate(fields)
    except ValidationError as error:
        raise ExperimentError(f"{experiment.name}: {first_problem(error)}.") from error


def _bundled(name: str) -> bytes:
    return files("qpc_qiskit.experiments").joinpath(f"{name}.toml").read_bytes()


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, with the entry in front of it."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {message}" if where else message
