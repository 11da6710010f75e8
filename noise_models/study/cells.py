"""Cells of a study: one network under one noise, evaluated once, kept as one file.

A cell's key is the digest of everything that decides its result: network, weights, images, the
noise itself, not its name, encoder, shots, mitigation, the number of the draw, and the versions of
what computes it. A study that is run again, or changed, evaluates only cells that have no file.

`evaluate` runs anywhere that the package is installed and the run folders can be read; it keeps
nothing between calls that changes a result. One thread is used, whatever the machine has, so that
sums are taken in the same order everywhere.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noise_models.study.measures import feature_errors, flips_by_margin, margins
from noise_models.study.mitigation import MitigatedEngine, NoisyValues
from noise_models.study.noise import FixedNoise
from noise_models.study.words import parse_mitigation
from qpc_qiskit import __version__
from qpc_qiskit.common.versions import package_version
from qpc_qiskit.connector import use_engine
from qpc_qiskit.engines import ExactEngine
from qpc_qiskit.errors import EngineError, StudyError
from qpc_qiskit.grid.running import known_images
from qpc_qiskit.layer import QuantumLayer
from qpc_qiskit.nets import ImageClassifier, quantum_layers
from qpc_qiskit.options.records import DataSource
from qpc_qiskit.training.checkpoint import load
from qpc_qiskit.training.evaluation import Score, predict, score

CELL_FORMAT = 1
"""Another one where the same inputs give another result."""
BATCH_SIZE = 64
"""Images at a time; it decides the order of the draws."""

_LIBRARIES = ("numpy", "scipy", "torch", "qiskit", "qiskit-aer", "rustworkx")


def implementation() -> str:
    """Of the noisy engine, that there is here: `compiled`, or `torch` without a C compiler."""
    from qpc_qiskit.pauli.compiled import load as compile_kernel

    try:
        compile_kernel()
    except EngineError:
        return "torch"
    return "compiled"


def versions() -> dict[str, str]:
    """Of what computes a cell."""
    return {"qpc-qiskit": __version__, **{name: package_version(name) for name in _LIBRARIES}}


@dataclass(frozen=True)
class Task:
    """Everything that `evaluate` needs, and that decides its result."""

    folder: str = field(compare=False)
    """Of the run."""
    weights_sha256: str
    """Of its weights."""
    net: str
    """Its configuration as JSON: the same weights in another circuit give another result."""
    source: DataSource
    """Of the images."""
    data_sha256: str
    """`ImageData.fingerprint` of all of them."""
    test_images: int | None
    """A subset of the test images; None: all."""
    noise: FixedNoise
    encoder: str
    shots: int | None
    """None: exact."""
    mitigation: str
    repeat: int
    """Number of the draw; 0 for exact values."""
    implementation: str
    """Of the noisy engine: they agree up to rounding only."""
    versions: Mapping[str, str] = field(default_factory=versions)

    @property
    def key(self) -> str:
        """Hexadecimal digest, 40 characters: the same for the same result."""
        told = {
            "format": CELL_FORMAT,
            "weights": self.weights_sha256,
            "net": self.net,
            "data": self.data_sha256,
            "test_images": self.test_images,
            "noise": self.noise.content,
            "encoder": self.encoder,
            "shots": self.shots,
            "mitigation": self.mitigation,
            "repeat": self.repeat,
            "implementation": self.implementation,
            "versions": dict(self.versions),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Evaluated:
    """A cell's result, and what it took."""

    key: str
    values: Mapping[str, Any] = field(repr=False)
    """Columns of the study's table."""
    cpu_seconds: float
    """Of the whole cell, on one core."""
    preparing_seconds: float
    """Of them to read the network and make the circuits, where these were not kept."""


def evaluate(task: Task) -> Evaluated:
    """Run a network under noise and measure what that did to it.

    Raises:
        StudyError: another version of the package or a library is installed than the study's, or
            the images are others than those of the training.
        CheckpointError: the run cannot be read.
        EngineError: the noise cannot be simulated.
    """
    started = time.process_time()
    _check_versions(task.versions)
    with one_thread():
        known = _reference(task)
        mitigation = parse_mitigation(task.mitigation)
        layers = quantum_layers(known.model)
        width = max(layer.spec.num_qubits for layer in layers.values())
        kept = _values(task.noise, task.encoder, task.implementation, width)
        engine = MitigatedEngine(kept, mitigation, shots=task.shots, seed=int(task.key[:15], 16))
        for layer in layers.values():
            for scale in mitigation.scales:
                kept.engine(mitigation.twirls, scale).prepare(layer.spec)
        prepared = time.process_time()
        with use_engine(known.model, engine):
            logits, maps = _run(known.model, layers, known.images)
        values = _measured(task, logits, maps, known, engine, layers)
    done = time.process_time()
    return Evaluated(task.key, values, done - started, prepared - started)


def _measured(
    task: Task,
    logits: Tensor,
    maps: Mapping[str, Tensor],
    known: _Reference,
    engine: MitigatedEngine,
    layers: Mapping[str, QuantumLayer],
) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix, f1_score  # a slow import

    labels, ideal = known.labels, known.score
    found, classes = score(logits, labels), logits.shape[1]
    predictions = logits.argmax(1).numpy()
    confusion = confusion_matrix(labels, predictions, labels=range(classes))
    flips, in_bin = flips_by_margin(predictions, known.predictions, known.margin)
    errors = {
        name: feature_errors(maps[name].numpy(), known.maps[name].numpy(), layer.spec.num_maps)
        for name, layer in layers.items()
    }
    qualities = [engine.values.quality(layer.spec) for layer in layers.values()]
    records = engine.records.values()
    variance = sum(r.variance for r in records) / sum(r.num_values for r in records)
    return {
        "accuracy": found.accuracy,
        "ideal_accuracy": ideal.accuracy,
        "drop": ideal.accuracy - found.accuracy,
        "loss": found.loss,
        "ideal_loss": ideal.loss,
        "macro_f1": float(f1_score(labels, predictions, average="macro")),
        "flips": float((predictions != known.predictions).mean()),
        "feature_mse": float(np.mean([e.mse for e in errors.values()])),
        "feature_cosine": float(np.mean([e.cosine for e in errors.values()])),
        "feature_std": float(np.sqrt(variance)),
        "shot_noise_floor": 0.0 if task.shots is None else task.shots**-0.5,
        "gate_fidelity": min(q.gate_fidelity for q in qualities),
        "readout_fidelity": min(q.readout_fidelity for q in qualities),
        "two_qubit_gates": max(q.num_two_qubit_gates for q in qualities),
        "two_qubit_depth": max(q.two_qubit_depth for q in qualities),
        "executions_per_image": sum(r.num_executions for r in records) / len(labels),
        "num_images": len(labels),
        "layers": list(layers),
        "layer_channels": [len(e.scale) for e in errors.values()],
        "layer_qubits": [len(e.qubit_rms) for e in errors.values()],
        "channel_scale": [float(v) for e in errors.values() for v in e.scale],
        "channel_shift": [float(v) for e in errors.values() for v in e.shift],
        "qubit_rms": [float(v) for e in errors.values() for v in e.qubit_rms],
        "flips_by_margin": [int(v) for v in flips],
        "images_by_margin": [int(v) for v in in_bin],
        "confusion": [int(v) for v in confusion.ravel()],
        "labels": [int(v) for v in labels],
        "predictions": [int(v) for v in predictions],
        "ideal_predictions": [int(v) for v in known.predictions],
    }


@dataclass(frozen=True, eq=False)
class _Reference:
    """A network with its test images, and what it says of them without noise."""

    model: ImageClassifier
    images: Tensor
    labels: Tensor
    maps: Mapping[str, Tensor]
    """(pixels, channels) of each quantum layer."""
    predictions: np.ndarray
    margin: np.ndarray
    score: Score

    @property
    def size_bytes(self) -> int:
        """Of its largest parts."""
        tensors = [self.images, *self.maps.values(), *self.model.state_dict().values()]
        return sum(tensor.nbytes for tensor in tensors)


_KEPT_BYTES = 2**28
_references: OrderedDict[tuple[object, ...], _Reference] = OrderedDict()


def _reference(task: Task) -> _Reference:
    """A network and what it says without noise; the last ones are kept, up to a quarter of a GiB.

    All networks of a study take turns under each noise, so a fixed number would be too few for
    small networks, and too many for large ones.
    """
    key = task.folder, task.weights_sha256, task.data_sha256, task.test_images
    if key in _references:
        _references.move_to_end(key)
        return _references[key]
    model, record = load(task.folder)
    if record.weights_sha256 != task.weights_sha256:
        raise StudyError(
            f"{task.folder}: the weights have changed since the study was planned; run it again."
        )
    data = known_images(task.source, task.data_sha256).subset(None, task.test_images)
    with use_engine(model, ExactEngine()):
        logits, maps = _run(model, quantum_layers(model), data.test_images)
    images, labels = data.test_images, data.test_labels
    predictions, margin = logits.argmax(1).numpy(), margins(logits.numpy())
    made = _Reference(model, images, labels, maps, predictions, margin, score(logits, labels))
    _references[key] = made
    while len(_references) > 1 and sum(r.size_bytes for r in _references.values()) > _KEPT_BYTES:
        _references.popitem(last=False)
    return made


@lru_cache(maxsize=4)  # cells of one noise follow each other; one has megabytes of circuits
def _values(noise: FixedNoise, encoder: str, implementation: str, num_qubits: int) -> NoisyValues:
    """What is kept of a noise."""
    return NoisyValues(noise.build(num_qubits), encoder, implementation)


def _run(
    model: nn.Module, layers: Mapping[str, QuantumLayer], images: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and what each quantum layer gave, (pixels, channels)."""
    maps: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as stack:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(_keeping(maps[name]))
            stack.callback(hook.remove)
        logits = predict(model, images, BATCH_SIZE)
    return logits, {name: torch.cat(parts) for name, parts in maps.items()}


def _keeping(parts: list[Tensor]) -> Any:
    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        parts.append(output.detach().movedim(1, -1).flatten(0, -2).clone())

    return keep


def _check_versions(wanted: Mapping[str, str]) -> None:
    here = versions()
    for name, version in wanted.items():
        if here[name] != version:
            raise StudyError(
                f"This worker has {name} {here[name]}, the study was planned with {version}: the "
                "results would not be comparable. Install the same versions on all workers."
            )


_lock = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread inside, so that its sums do not depend on the machine's load.

    One caller at a time: workers of a cluster of one's own may have several threads, which share
    networks, torch's number of threads and its random state.
    """
    with _lock:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
