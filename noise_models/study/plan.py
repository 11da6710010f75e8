"""From a spec to networks and cells; everything that can be wrong is found here, before any run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from noise_models.snapshots import Snapshot, best_qubits
from noise_models.spec import problem_of
from noise_models.study.cells import Task, implementation
from noise_models.study.mitigated_noise import problem_of_mitigation
from noise_models.study.noise import FixedNoise, NoiseResolver, fixed
from noise_models.study.spec import Grid, NoiseAxis, StudySpec, Train
from noise_models.study.words import parse_mitigation
from noise_models.words import is_file
from qpc_qiskit.data.images import ImageData, load_source
from qpc_qiskit.errors import BackendError, CheckpointError, NoiseError
from qpc_qiskit.nets import build_net, config_for, quantum_layers
from qpc_qiskit.options.records import DataSource, NetConfig, TrainConfig
from qpc_qiskit.training.checkpoint import RECORD_FILE, DataRecord, Record, read_record

AXES = (
    "grid",
    "network",
    "trained",
    "num_layers",
    "noise",
    "quantity",
    "strength",
    "encoder",
    "shots",
    "mitigation",
    "seed",
    "repeat",
)
"""Columns that tell the rows of a table apart."""


@dataclass(frozen=True)
class Network:
    """A network of the study, trained or yet to be."""

    name: str
    """Of `train` or `checkpoints`."""
    folder: Path
    net: NetConfig
    training: TrainConfig | None
    widths: tuple[int, ...]
    """Qubits of its quantum layers."""
    num_test: int
    """Test images."""
    source: DataSource | None = field(default=None, repr=False)
    """Images on which the study trains it; None: it is there."""

    @property
    def is_done(self) -> bool:
        """Whether it is trained."""
        return (self.folder / RECORD_FILE).exists()

    @property
    def seed(self) -> int:
        """Of its training."""
        return 0 if self.training is None else self.training.seed

    @property
    def trained(self) -> str:
        """`clean`, or the noise that it was trained for."""
        noise = None if self.training is None else self.training.noise
        if noise is None:
            return "clean"
        return Path(noise).stem if is_file(noise) else noise  # the same in any folder


@dataclass(frozen=True)
class Row:
    """A row of the study's table: where it belongs, and the cell that it shows."""

    axes: dict[str, Any]
    """By the names in `AXES`; shots 0: exact."""
    task: Task

    @cached_property
    def key(self) -> str:
        """Of the cell."""
        return self.task.key


@dataclass(frozen=True)
class Skipped:
    """A combination that makes no sense."""

    grid: str
    noise: str
    mitigation: str
    reason: str


class Plan:
    """What a study consists of.

    Args:
        spec: with absolute paths, as `StudySpec.load` gives it.
        out: folder of the study, where networks are trained.

    Raises:
        NoiseError: noise, a strength or a mitigation is wrong, or a grid is empty.
        CheckpointError: a run is missing, or has no quantum layer.
        BackendError: there is no such device.
    """

    def __init__(self, spec: StudySpec, out: Path) -> None:
        self.spec = spec
        self.resolver = NoiseResolver()
        self._implementation = implementation()
        data: dict[DataSource, ImageData] = {}
        self.networks = [
            *_given(spec),
            *itertools.chain(
                *(
                    _to_train(name, train, spec.seeds, out, data, self.resolver)
                    for name, train in spec.train.items()
                )
            ),
        ]
        self._fixed: dict[tuple[str, str, float, int], FixedNoise] = {}
        self.skipped: list[Skipped] = []
        self._mitigations: dict[tuple[str, str], list[str]] = {}
        for grid in spec.grid:
            self._check(grid)
        for word in spec.marks:
            if not isinstance(self.resolver.find(word), Snapshot):
                raise NoiseError(f"marks: expected devices and snapshots of them, got {word!r}.")
        for network in self.networks:
            if (spec.test_images or 0) > network.num_test:
                raise NoiseError(
                    f"test_images: expected at most the {network.num_test} test images of "
                    f"{network.name}, got {spec.test_images}."
                )

    @property
    def jobs(self) -> list[Network]:
        """Networks to train, of those that some grid evaluates; done or not."""
        wanted = {n.folder: n for grid in self.spec.grid for n in self._networks_of(grid)}
        return [network for network in wanted.values() if network.source is not None]

    @property
    def missing(self) -> list[Network]:
        """Of `jobs` those that are not done."""
        return [network for network in self.jobs if not network.is_done]

    def rows(self) -> list[Row]:
        """All rows, in the order of the grids; all networks must have been trained.

        Cells of one noise follow each other, for a worker keeps the circuits of the last ones.

        Raises:
            CheckpointError: a run cannot be read.
        """
        records = {n.folder: read_record(n.folder) for n in self.networks if n.is_done}
        return [row for grid in self.spec.grid for row in self._rows(grid, records)]

    @property
    def num_rows(self) -> int:
        """That `rows` will have."""
        return sum(self.rows_by_grid.values())

    @property
    def rows_by_grid(self) -> dict[str, int]:
        """How many rows each grid will have."""
        return {g.name: sum(1 for _ in self._combinations(g)) for g in self.spec.grid}

    def _networks_of(self, grid: Grid) -> list[Network]:
        return [
            network
            for network in self.networks
            if (not grid.networks or network.name in grid.networks)
            and (not grid.num_layers or network.net.num_layers in grid.num_layers)
        ]

    def _check(self, grid: Grid) -> None:
        networks = self._networks_of(grid)
        if not networks:
            raise NoiseError(
                f"grid {grid.name!r} is empty: no network has num_layers of "
                f"{', '.join(map(str, grid.num_layers))}."
            )
        there = {network.net.num_layers for network in self._networks_of(grid)}
        if idle_layers := [n for n in grid.num_layers if n not in there]:
            raise NoiseError(
                f"grid {grid.name!r}: num_layers of {idle_layers[0]} has no effect: no network of "
                "it has so many blocks."
            )
        acting: set[str] = set()
        for axis in grid.noise:
            for strength, width in itertools.product(axis.strengths, _widest(networks)):
                self._try(axis, strength, width)
            # The kinds of errors are the same at all strengths but 0.
            strength = max(axis.strengths, key=abs)
            noise = self._noise(axis, strength, max(_widest(networks))).build()
            for word in grid.mitigation:
                problem = problem_of_mitigation(parse_mitigation(word), noise)
                if problem is None:
                    self._mitigations.setdefault((grid.name, axis.name), []).append(word)
                    acting.add(word)
                else:
                    self.skipped.append(Skipped(grid.name, axis.name, word, problem))
        idle = [word for word in grid.mitigation if word not in acting]
        if idle:
            reason = next(s.reason for s in self.skipped if s.mitigation == idle[0])
            raise NoiseError(
                f"grid {grid.name!r}: mitigation {idle[0]!r} can do nothing about any of its "
                f"noise: {reason}."
            )

    def _try(self, axis: NoiseAxis, strength: float, num_qubits: int) -> None:
        """Build the noise, and see whether a device with so strong errors still has a patch."""
        noise = self._noise(axis, strength, num_qubits)
        built = noise.build(num_qubits)
        if noise.kind == "snapshot":
            try:
                best_qubits(built, num_qubits)
            except BackendError as error:
                raise NoiseError(f"noise {axis.name!r} at {strength:g}: {error}") from None

    def _noise(self, axis: NoiseAxis, strength: float, num_qubits: int) -> FixedNoise:
        key = axis.name, axis.model_dump_json(), strength, num_qubits
        if key not in self._fixed:
            self._fixed[key] = self.resolver.at(axis, strength, num_qubits)
        return self._fixed[key]

    def _combinations(self, grid: Grid) -> Iterator[tuple[Any, ...]]:
        for axis in grid.noise:
            words = self._mitigations.get((grid.name, axis.name), [])
            for strength, encoder, network, word, shots in itertools.product(
                axis.strengths, grid.encoder, self._networks_of(grid), words, grid.shots
            ):
                for repeat in range(1 if shots == "exact" else grid.repeats):
                    yield axis, strength, encoder, network, word, shots, repeat

    def _rows(self, grid: Grid, records: dict[Path, Record]) -> Iterator[Row]:
        for axis, strength, encoder, network, word, shots, repeat in self._combinations(grid):
            record = records[network.folder]
            task = Task(
                str(network.folder),
                record.weights_sha256,
                record.net.told(),
                *_data_of(network.folder, record),
                self.spec.test_images,
                self._noise(axis, strength, max(network.widths)),
                encoder,
                None if shots == "exact" else shots,
                word,
                repeat,
                self._implementation,
            )
            values = (
                grid.name,
                network.name,
                network.trained,
                network.net.num_layers,
                axis.name,
                axis.quantity,
                strength,
                encoder,
                task.shots or 0,
                word,
                network.seed,
                repeat,
            )
            yield Row(dict(zip(AXES, values, strict=True)), task)


def _widest(networks: Sequence[Network]) -> list[int]:
    """Qubits of the widest layer of each network, each number once."""
    return sorted({max(network.widths) for network in networks})


def _given(spec: StudySpec) -> Iterator[Network]:
    for name, folders in spec.checkpoints.items():
        seen: dict[tuple[int, int], str] = {}
        first: tuple[str, dict[str, Any]] | None = None
        for folder in folders:
            record = read_record(folder)
            data = _data_of(folder, record)
            widths = _widths(record.net, folder)
            num_test = record.data.num_test if record.data else 0
            network = Network(name, Path(folder), record.net, record.training, widths, num_test)
            told = _shared(record, data[1])
            first = first or (folder, told)
            if wrong := _difference(first[1], told):
                raise NoiseError(
                    f"checkpoints.{name}: expected runs that differ in their seed or blocks only; "
                    f"{first[0]} and {folder} differ in {wrong}. Give them different names."
                )
            key = record.net.num_layers, network.seed
            if key in seen:
                raise NoiseError(
                    f"checkpoints.{name}: {seen[key]} and {folder} have the same blocks and seed; "
                    "give them different names."
                )
            seen[key] = folder
            yield network


def _shared(record: Record, data_sha256: str) -> dict[str, Any]:
    """What all networks of one name have in common."""
    net = record.net.model_dump(mode="json", exclude={"num_layers"})
    # Where it was computed, and in how large parts it was tested, is no part of a network.
    training = (
        {}
        if record.training is None
        else record.training.model_dump(mode="json", exclude={"seed", "device", "test_batch_size"})
    )
    return {
        **{f"net.{name}": value for name, value in net.items()},
        "test images": None if record.data is None else record.data.num_test,
        "images (sha256)": data_sha256,
        **{f"training.{name}": value for name, value in training.items()},
    }


def _difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The first that is not the same, in words."""
    for name in {**first, **second}:
        one, other = first.get(name), second.get(name)
        if one != other:
            return f"{name}: {one} and {other}"
    return ""


def _to_train(
    name: str,
    train: Train,
    seeds: Sequence[int],
    out: Path,
    data: dict[DataSource, ImageData],
    resolver: NoiseResolver,
) -> Iterator[Network]:
    if train.data not in data:
        data[train.data] = load_source(train.data)
    images = data[train.data]
    options = train.net.model_dump(exclude={"in_channels", "image_size", "num_classes"})
    for layers in train.num_layers or (train.net.num_layers,):
        chosen = options | {"num_layers": layers}
        try:
            config = config_for(images, **chosen)
        except ValidationError as error:  # of blocks, or with the sizes of the images
            wrong = problem_of(error, chosen, f"train.{name}.net")
            raise NoiseError(wrong) from None
        widths = _widths(config, f"train.{name}")
        # What decides the network, wherever its files lie: a path is told by what is there.
        told_data = train.data.model_dump(mode="json")
        if train.data.data_dir is not None:
            told_data["data_dir"] = images.fingerprint()
        noise = train.training.noise
        content = None if noise is None else _content(name, noise, max(widths), resolver)
        for seed in seeds:
            training = TrainConfig.model_validate(train.training.model_dump() | {"seed": seed})
            told_training = training.model_dump(mode="json") | {"noise": content}
            told = [told_data, json.loads(config.told()), told_training]
            digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
            folder = out / "networks" / f"{name}-{layers}-{seed}-{digest}"
            num_test = len(images.test_labels)
            yield Network(name, folder, config, training, widths, num_test, train.data)


def _content(name: str, word: str, num_qubits: int, resolver: NoiseResolver) -> str:
    """Of the noise that a network is trained for; see `FixedNoise.content`."""
    try:
        found = resolver.find(word)
        if isinstance(found, Snapshot):
            best_qubits(found.backend(), num_qubits)
        else:
            found.build(num_qubits)
    except NoiseError as error:
        raise NoiseError(f"train.{name}.training.noise: {error}") from None
    return fixed(found).content


def _widths(net: NetConfig, what: str) -> tuple[int, ...]:
    """Qubits of its quantum layers."""
    widths = tuple(each.spec.num_qubits for each in quantum_layers(build_net(net)).values())
    if not widths:
        raise CheckpointError(
            f"{what}: the network {net.name} has no quantum layer, so noise does nothing to it."
        )
    return widths


def _data_of(folder: str | Path, record: Record) -> tuple[DataSource, str]:
    data: DataRecord | None = record.data
    if data is None or data.source is None:
        raise CheckpointError(
            f"{folder}: the run does not tell where its images are, so they cannot be loaded "
            "again; train it on one of the named data sets."
        )
    return data.source, data.sha256
