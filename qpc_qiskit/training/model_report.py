"""What there is to say of a trained network, as plain data. Pure: nothing is read or written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from qiskit import QuantumCircuit
from torch import Tensor

from qpc_qiskit.circuits.encoder import ENCODERS, make_encoder
from qpc_qiskit.common.metrics import EpochMetrics
from qpc_qiskit.nets import ImageClassifier, build_net, parameter_table, quantum_layers
from qpc_qiskit.nets.counts import ParameterTable
from qpc_qiskit.options.economy import MOST_BRICKWALL_QUBITS
from qpc_qiskit.options.presets import PRESETS
from qpc_qiskit.options.records import ARCHITECTURES, NetConfig, TrainConfig
from qpc_qiskit.training.evaluation import predict
from qpc_qiskit.training.predictions import Accuracy, Predictions
from qpc_qiskit.training.trained import Training

_TWINS = {
    "small": "small-classical",
    "paper-fig3a": "paper-fig3b",
    "strong": "strong-classical",
}


@dataclass(frozen=True)
class GateCount:
    """Gates of a part of a layer's circuit as it is written, before it is transpiled."""

    part: str
    one_qubit_gates: int
    two_qubit_gates: int
    depth: int
    """Gates one after another."""
    two_qubit_depth: int
    """Counting gates on two qubits alone."""
    gates: Mapping[str, int]
    """By name."""


@dataclass(frozen=True)
class LayerReport:
    """Circuits and weights of a quantum layer."""

    name: str
    in_channels: int
    out_channels: int
    num_qubits: int
    num_kernels: int
    """Circuits side by side."""
    ansatz: str
    num_layers: int | None
    """Blocks of the ansatz."""
    num_weights: int
    """Of one circuit."""
    pixels_per_image: int
    """Positions at which each circuit is evaluated."""
    rows_per_image: int
    """Circuit evaluations for one image, before equal pixels are merged."""
    counts: tuple[GateCount, ...]


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a network."""

    network: str
    total: int
    trainable: int
    pointwise: int
    """Of the pointwise layers, which are what the paper compares."""
    layers: tuple[dict[str, Any], ...]
    """See `qpc_qiskit.nets.LayerCount`."""

    @classmethod
    def of(cls, network: str, table: ParameterTable) -> Parameters:
        """Numbers of parameters of a network whose layers were counted."""
        layers = tuple(asdict(layer) for layer in table.layers)
        return cls(network, table.total, table.trainable, table.pointwise, layers)


@dataclass(frozen=True)
class ModelReport:
    """Everything that a report tells; `to_dict` is what `report.json` holds."""

    title: str
    folder: str
    is_finished: bool
    notes: tuple[str, ...]
    """What is missing or to be known, and what to do about it."""
    network: dict[str, Any]
    """Name, text, preset and the options that have an effect."""
    training: dict[str, Any] | None
    """Options; None: not known."""
    data: dict[str, Any] | None
    """See `qpc_qiskit.training.checkpoint.DataRecord`; None: not known."""
    encoding: str
    """Whether the images were compressed again before training, as far as that is known."""
    versions: dict[str, str]
    weights_sha256: str
    history: tuple[EpochMetrics, ...]
    seconds: dict[int, float]
    """That an epoch took."""
    median_seconds: float | None
    final: Accuracy | None
    """After the last finished epoch."""
    best: Accuracy | None
    """Of all epochs; chosen by the test images themselves, so too high."""
    layers: tuple[LayerReport, ...]
    rows_per_image: int
    """Circuit evaluations of all quantum layers for one image."""
    parameters: Parameters
    twin: Parameters | None
    """Of the same network with classical layers in the place of the quantum ones."""
    predictions: Predictions | None
    """None: the test images were not at hand."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def model_report(
    training: Training, predictions: Predictions | None = None, notes: Sequence[str] = ()
) -> ModelReport:
    """Say what there is to say of a training.

    Args:
        training: as its folder tells it.
        predictions: of `predict_images`; None: the test images are not at hand.
        notes: besides those of the training.
    """
    config, options, data = training.model.config, training.options, training.data
    layers = tuple(_layers(training.model))
    twin = twin_config(config) if layers else None
    accuracies = [
        Accuracy.of(metrics.test_accuracy, data.num_test, metrics.epoch)
        for metrics in (training.history if data else ())
        if data is not None
    ]
    known = {metrics.epoch for metrics in training.history}
    seconds = {epoch: value for epoch, value in training.seconds.items() if epoch in known}
    return ModelReport(
        title=f"{config.name} on {data.name}" if data else config.name,
        folder=str(training.folder),
        is_finished=training.is_finished,
        notes=(*training.notes, *notes),
        network=_network(config, options),
        training=None if options is None else options.model_dump(),
        data=None if data is None else data.model_dump(),
        encoding="not known" if data is None else image_encoding(data.name, data.provenance),
        versions=dict(training.versions),
        weights_sha256=training.weights_sha256,
        history=training.history,
        seconds=seconds,
        median_seconds=statistics.median(seconds.values()) if seconds else None,
        final=accuracies[-1] if accuracies else None,
        best=max(accuracies, key=lambda each: each.value, default=None),
        layers=layers,
        rows_per_image=sum(layer.rows_per_image for layer in layers),
        parameters=Parameters.of(config.name, parameter_table(training.model)),
        twin=None if twin is None else Parameters.of(_spelled(twin), _counted(twin)),
        predictions=predictions,
    )


def twin_config(config: NetConfig) -> NetConfig | None:
    """The same network with classical layers where its quantum layers are; None: it has none."""
    if config.pointwise == "classical" or "pointwise" in ARCHITECTURES[config.name].idle:
        return None
    name = _TWINS.get(config.name, config.name)
    idle = set(ARCHITECTURES[name].idle) | set(ARCHITECTURES["small-classical"].idle)
    idle -= {"kernel_size"} - set(ARCHITECTURES[name].idle)
    kept = {key: value for key, value in config.model_dump().items() if key not in idle}
    classical = {} if name in _TWINS.values() else {"pointwise": "classical"}
    return NetConfig(**{**kept, **classical, "name": name})


def image_encoding(name: str, provenance: str) -> str:
    """Whether images were compressed again before training, as far as their provenance tells it.

    Args:
        name: of the data set.
        provenance: where they came from, in words.
    """
    if name == "digits":
        return "no: the pixels that come with scikit-learn"
    if any(word in provenance.lower() for word in ("jpeg", "jpg")):
        return "yes: from JPEG files, so accuracies do not compare with those on original pixels"
    return "not known: their provenance does not say it"


def gate_count(part: str, circuit: QuantumCircuit) -> GateCount:
    """Count the gates of a circuit.

    Args:
        part: what it is, in a word or two.
        circuit: of gates on one or two qubits.
    """
    sizes = [len(instruction.qubits) for instruction in circuit.data]
    return GateCount(
        part,
        sizes.count(1),
        len(sizes) - sizes.count(1),
        circuit.depth(),
        circuit.depth(lambda instruction: len(instruction.qubits) > 1),
        {name: int(count) for name, count in circuit.count_ops().items()},
    )


def _network(config: NetConfig, options: TrainConfig | None) -> dict[str, Any]:
    architecture = ARCHITECTURES[config.name]
    described = {"name", "in_channels", "image_size", "num_classes"}
    told = config.model_dump(exclude={*described, *architecture.idle})
    return {
        "name": config.name,
        "text": architecture.text,
        "preset": _preset(config, options),
        "image": (config.in_channels, config.image_size, config.image_size),
        "num_classes": config.num_classes,
        "options": {key: value for key, value in told.items() if value is not None},
    }


def _preset(config: NetConfig, options: TrainConfig | None) -> str | None:
    """The first preset whose options are all there; a run does not keep which was asked for."""
    if options is None:
        return None
    for name, preset in PRESETS.items():
        pairs = ((config, preset.net), (options, preset.training))
        if all(getattr(given, k) == v for given, wanted in pairs for k, v in wanted.items()):
            return name
    return None


def _layers(model: ImageClassifier) -> Iterator[LayerReport]:
    layers = quantum_layers(model)
    pixels = _pixels_per_image(model)
    for name, layer in layers.items():
        spec = layer.spec
        yield LayerReport(
            name=name,
            in_channels=layer.in_channels,
            out_channels=layer.out_channels,
            num_qubits=spec.num_qubits,
            num_kernels=spec.num_kernels,
            ansatz=spec.ansatz.name,
            num_layers=spec.ansatz.num_layers,
            num_weights=spec.num_weights,
            pixels_per_image=pixels[name],
            rows_per_image=pixels[name] * spec.num_kernels,
            counts=tuple(_counts(spec.num_qubits, spec.ansatz.name, spec.ansatz.circuit)),
        )


def _counts(num_qubits: int, ansatz: str, circuit: QuantumCircuit) -> Iterator[GateCount]:
    for name in ENCODERS:
        if name != "brickwall" or num_qubits <= MOST_BRICKWALL_QUBITS:
            yield gate_count(f"{name} encoder", make_encoder(name, num_qubits).circuit)
    yield gate_count(f"{ansatz} ansatz", circuit)


def _pixels_per_image(model: ImageClassifier) -> dict[str, int]:
    """Positions that each quantum layer sees, from a pass with an image of zeros."""
    counted: dict[str, int] = {}

    def watching(name: str) -> Callable[..., None]:
        def count(_layer: object, arguments: tuple[Tensor, ...], _result: object) -> None:
            counted[name] = counted.get(name, 0) + arguments[0][:, 0].numel()

        return count

    config = model.config
    hooks = [
        layer.register_forward_hook(watching(name)) for name, layer in quantum_layers(model).items()
    ]
    try:
        predict(model, torch.zeros(1, config.in_channels, config.image_size, config.image_size), 1)
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def _counted(config: NetConfig) -> ParameterTable:
    return parameter_table(build_net(config))


def _spelled(twin: NetConfig) -> str:
    return twin.name if twin.name in _TWINS.values() else f"{twin.name} with 1x1 convolutions"
