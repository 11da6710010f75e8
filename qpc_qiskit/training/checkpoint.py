"""Checkpoints of finished networks: `model.safetensors` (weights) beside `model.json` (the rest).

The JSON part says everything else about the model: its architecture, the conventions of each
quantum layer, data, training options, results, library versions and the choices made where the
paper leaves one. It also holds the SHA-256 of the weights, so that files of two models are not
taken for one. Any engine can evaluate a loaded network.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from pydantic import ValidationError
from safetensors import torch as safetensors_torch
from torch import Tensor

from qpc_qiskit import __version__
from qpc_qiskit.common.files import MAX_TEXT_BYTES, parse_json, read_file, write_bytes, write_text
from qpc_qiskit.common.versions import library_versions
from qpc_qiskit.errors import CheckpointError
from qpc_qiskit.nets import ImageClassifier, build_net, quantum_layers
from qpc_qiskit.options.choices import named_choices
from qpc_qiskit.options.fields import Options
from qpc_qiskit.options.records import DataSource, NetConfig, StoredNetConfig, TrainConfig

if TYPE_CHECKING:
    from qpc_qiskit.data.images import ImageData

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
RECORD_FILE = "model.json"
_MAX_HEADER_BYTES = 2**20  # of a file of weights, that says where each is; 50 networks' worth


class DataRecord(Options):
    """Which data a network was trained and tested on."""

    name: str
    """Name of the data set."""
    provenance: str
    """Where it came from and how it was split."""
    source: DataSource | None
    """How to load it again; None for data of one's own."""
    sha256: str
    """`ImageData.fingerprint` of it."""
    num_train: int
    """Training images."""
    num_test: int
    """Test images."""
    class_names: tuple[str, ...]
    """Name of each output of the network."""

    @classmethod
    def of(cls, data: "ImageData") -> "DataRecord":
        """The record of a data set."""
        return cls(
            name=data.name,
            provenance=data.provenance,
            source=data.source,
            sha256=data.fingerprint(),
            num_train=len(data.train_labels),
            num_test=len(data.test_labels),
            class_names=data.class_names,
        )


class Record(Options):
    """Everything about a checkpoint that is not a weight."""

    format_version: Literal[1] = 1
    """Of this record; a reader refuses what it does not know."""
    package_version: str
    """Of qpc-qiskit, when it was written."""
    net: StoredNetConfig
    """The architecture."""
    dtype: Literal["float32", "float64"]
    """Of the weights."""
    quantum_layers: dict[str, dict[str, Any]]
    """Conventions of each quantum layer by its name."""
    data: DataRecord | None
    """What it was trained on, if known."""
    training: TrainConfig | None
    """How it was trained, if it was."""
    metrics: dict[str, float]
    """Results of the last epoch by name."""
    choices: dict[str, str]
    """The choice made for each ambiguity of the paper, A1 to A27."""
    libraries: dict[str, str]
    """Versions of Python and of the libraries that had a part in it."""
    weights_sha256: str = ""
    """Of the weights file; filled in by `save`."""
    weights_bytes: int = 0
    """Length of the weights file; filled in by `save`."""


def make_record(
    model: ImageClassifier,
    data: "DataRecord | None" = None,
    training: TrainConfig | None = None,
    metrics: dict[str, float] | None = None,
) -> Record:
    """Describe a network.

    Args:
        model: the network; architecture, precision and conventions are read off it.
        data: what it was trained on.
        training: how.
        metrics: with which result.

    Returns:
        A record for `save`.
    """
    conventions = _conventions(model)
    return Record(
        package_version=__version__,
        net=model.config,
        dtype="float64" if next(model.parameters()).dtype == torch.float64 else "float32",
        quantum_layers=conventions,
        data=data,
        training=training,
        metrics=metrics or {},
        choices=named_choices(
            model.config,
            conventions,
            training,
            data.provenance if data else None,
            [layer.engine.name for layer in quantum_layers(model).values()] if training else (),
        ),
        libraries=library_versions(),
    )


def save(folder: Path | str, model: ImageClassifier, record: Record) -> Record:
    """Write a checkpoint, each file in one step.

    Args:
        folder: made if it is missing; a checkpoint in it is replaced.
        model: the weights are taken from it.
        record: the description, from `make_record`.

    Returns:
        The record as written, with the checksum of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    weights = safetensors_torch.save(state)
    record = record.model_copy(
        update={
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "weights_bytes": len(weights),
        }
    )
    write_bytes(folder / WEIGHTS_FILE, weights)
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
    return record


def load(folder: Path | str, device: str | torch.device = "cpu") -> tuple[ImageClassifier, Record]:
    """Read a checkpoint back.

    Args:
        folder: where `save` wrote it.
        device: where the network goes.

    Returns:
        The network in evaluation mode, and its record.

    Raises:
        CheckpointError: a file is missing or corrupt, the two do not belong together, the format is
            newer than this package, or the weights are those of another architecture.
    """
    folder = Path(folder)
    record = read_record(folder)
    described = describe(folder / RECORD_FILE, record.net, record.dtype)
    _check_conventions(folder / RECORD_FILE, record, _conventions(described))
    path = folder / WEIGHTS_FILE
    state = _read_weights(path, record, described.state_dict())
    return build_with(path, state, described, RECORD_FILE).to(device).eval(), record


def describe(path: Path, net: NetConfig, dtype: str) -> ImageClassifier:
    """The network that a file describes, without memory for its weights.

    Args:
        path: of the file, for messages.
        net: the architecture.
        dtype: of the weights.

    Raises:
        CheckpointError: there is no such network.
    """
    try:
        with torch.device("meta"):
            return build_net(net).to(getattr(torch, dtype))
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path}: no network has this architecture: {reason}") from error


def build_with(
    path: Path, state: dict[str, Tensor], described: ImageClassifier, described_by: str
) -> ImageClassifier:
    """A network with weights that were read: memory is taken once they are seen to be its own.

    Args:
        path: of the weights, for messages.
        state: the weights by name.
        described: the network, of `describe`.
        described_by: name of the file that describes it, for messages.

    Returns:
        The network on the CPU.

    Raises:
        CheckpointError: the weights are those of another architecture.
    """
    expected = described.state_dict()
    _check_state(path, state, expected, described_by)
    model = build_net(described.config).to(next(described.parameters()).dtype)
    model.load_state_dict(state)
    return model


def read_record(folder: Path | str) -> Record:
    """Read the record of a checkpoint without its weights.

    Raises:
        CheckpointError: it is missing or corrupt, or its format is not known.
    """
    path = Path(folder) / RECORD_FILE
    content = parse_json(_read(path, MAX_TEXT_BYTES), path, CheckpointError)
    found = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(found, int):
        raise CheckpointError(f"{path}: expected a checkpoint record with a format_version.")
    if found != FORMAT_VERSION:
        advice = "Install a newer qpc-qiskit." if found > FORMAT_VERSION else "It is damaged."
        raise CheckpointError(
            f"{path}: expected format version {FORMAT_VERSION}, found {found}. {advice}"
        )
    return validated(Record, content, path)


_Kind = TypeVar("_Kind", bound=Options)


def validated(kind: type[_Kind], content: object, path: Path) -> _Kind:
    """A record of the plain values of a file.

    Args:
        kind: of the record.
        content: the values.
        path: of the file, for messages.

    Raises:
        CheckpointError: they are wrong; the message names the first entry that is.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"{path}: the entry {where!r} is wrong: {reason}.") from error


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return read_file(path, CheckpointError, max_bytes)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint ({RECORD_FILE} and {WEIGHTS_FILE}), found none. "
            "A run writes it when its last epoch is done."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _read_weights(path: Path, record: Record, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    size = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    content = _read(path, size + _MAX_HEADER_BYTES)
    if hashlib.sha256(content).hexdigest() != record.weights_sha256:
        kind = "truncated" if len(content) < record.weights_bytes else "damaged or of another model"
        raise CheckpointError(
            f"{path}: expected the {record.weights_bytes} bytes with the SHA-256 that "
            f"{RECORD_FILE} names ({record.weights_sha256[:12]}...), found {len(content)} others. "
            f"The file is {kind}; copy both files again."
        )
    try:
        return safetensors_torch.load(content)
    except Exception as error:  # a type of numbers that torch has not is a KeyError, for one
        raise CheckpointError(
            f"{path}: expected a safetensors file, found another ({str(error)[:300]})."
        ) from error


def _check_state(
    path: Path, found: dict[str, Tensor], expected: dict[str, Tensor], described_by: str
) -> None:
    what = f"{path} is a checkpoint of another architecture than {described_by} describes: "
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(
                f"{what}expected {name!r} of shape {tuple(tensor.shape)}, which is missing."
            )
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise CheckpointError(
                f"{what}expected {name!r} of shape {tuple(tensor.shape)} and {tensor.dtype}, "
                f"found shape {tuple(found[name].shape)} and {found[name].dtype}."
            )
    if unexpected := sorted(found.keys() - expected.keys()):
        name = unexpected[0]
        raise CheckpointError(
            f"{what}found {name!r} of shape {tuple(found[name].shape)}, which was not expected."
        )


def _check_conventions(path: Path, record: Record, expected: dict[str, dict[str, Any]]) -> None:
    """The stored layers must mean what this version makes of them.

    Of the conventions only their version counts, not the wording; an entry that one side does not
    know, because it is older, does not count either.
    """
    for name in sorted(record.quantum_layers.keys() | expected.keys()):
        ours, theirs = (
            _comparable(layers.get(name)) for layers in (expected, record.quantum_layers)
        )
        for key in sorted(ours.keys() & theirs.keys()):
            if ours[key] != theirs[key]:
                raise CheckpointError(
                    f"{path}: the weights of the quantum layer {name!r} were trained with "
                    f"{key} = {theirs[key]!r}, this version of qpc-qiskit would read them with "
                    f"{ours[key]!r}. Use qpc-qiskit {record.package_version}."
                )


def _comparable(layer: dict[str, Any] | None) -> dict[str, Any]:
    if layer is None:
        return {"exists": False}
    conventions = layer.get("conventions", {})
    version = conventions.get("version") if isinstance(conventions, dict) else conventions
    return {"exists": True, **layer, "conventions": version}


def _conventions(model: ImageClassifier) -> dict[str, dict[str, Any]]:
    """What each quantum layer says of itself, as JSON would give it back (lists, no tuples)."""
    return {
        name: json.loads(json.dumps(layer.spec.to_dict()))
        for name, layer in quantum_layers(model).items()
    }
