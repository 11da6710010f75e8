"""What a network says of test images, class by class, as plain data. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qpc_qiskit.data.images import ImageData, unit_images
from qpc_qiskit.training.evaluation import accuracy_interval, predict, score
from qpc_qiskit.training.trained import Training

SHOWN_IMAGES = 32
"""Test images that are shown with their predictions."""
MOST_WRONG = 24
"""Of them."""
BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """A share of test images with Wilson's 95 % interval."""

    value: float
    """In 0..1."""
    num_images: int
    low: float
    high: float
    epoch: int | None = None
    """After which it was taken."""

    @classmethod
    def of(cls, value: float, num_images: int, epoch: int | None = None) -> Accuracy:
        """With its interval."""
        return cls(value, num_images, *accuracy_interval(value, num_images), epoch)


@dataclass(frozen=True)
class ClassReport:
    """Test images of one class."""

    name: str
    num_images: int
    num_correct: int
    accuracy: Accuracy | None
    """None: there are no such images."""
    mistaken_for: str | None
    """The class that it was taken for most often, of the wrong ones; None: it never was."""
    num_mistaken: int
    """For that class."""


@dataclass(frozen=True)
class Shown:
    """A test image and what the network says of it."""

    index: int
    """Among the test images that were taken."""
    truth: str
    prediction: str
    probability: float | None
    """Of the prediction: softmax of the outputs; None where these were not trained for that."""
    is_wrong: bool


@dataclass(frozen=True)
class Predictions:
    """What the network says of test images, evaluated by the exact engine."""

    accuracy: Accuracy
    loss: float
    num_available: int
    """Test images of the data set, of which some may have been drawn."""
    same_data: bool
    """Whether training and test images are those of the training, bit for bit."""
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Images by class (rows) and by prediction (columns)."""
    shown: tuple[Shown, ...]
    """Wrong ones first, the most certain mistakes before the others."""


def predict_images(
    training: Training,
    data: ImageData,
    num_images: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Predictions, Tensor]:
    """Let the network predict test images.

    Args:
        training: its network, with the exact engine in its layers.
        data: with images and classes as the network expects them.
        num_images: test images to take, a random subset, the same every time; None: all.
        on_batch: called after each batch with the number of images in it.

    Returns:
        What came of it, and the images that are shown, (N, C, H, W).

    Raises:
        DataError: there are not so many test images.
    """
    same_data = training.data is not None and training.data.sha256 == data.fingerprint()
    taken = data.subset(None, num_images)
    labels, names = taken.test_labels, data.class_names
    logits = predict(training.model, taken.test_images, BATCH, on_batch)
    loss = training.options.loss if training.options else "cross-entropy"
    found = score(logits, labels, loss)
    size = len(names)
    matrix = torch.bincount(labels * size + logits.argmax(1), minlength=size**2).view(size, size)
    confusion = tuple(tuple(row) for row in matrix.tolist())
    chosen = _chosen(logits, labels)
    predictions = Predictions(
        accuracy=Accuracy.of(found.accuracy, len(labels)),
        loss=found.loss,
        num_available=len(data.test_labels),
        same_data=same_data,
        classes=tuple(_classes(names, confusion)),
        confusion=confusion,
        shown=tuple(_shown(chosen, logits, labels, names, loss == "cross-entropy")),
    )
    return predictions, unit_images(taken.test_images[chosen])


def _classes(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Iterator[ClassReport]:
    for number, (name, row) in enumerate(zip(names, confusion, strict=True)):
        total, correct = sum(row), row[number]
        others = {other: count for other, count in enumerate(row) if other != number and count}
        worst = max(others, key=lambda other: others[other], default=None)
        yield ClassReport(
            name,
            total,
            correct,
            Accuracy.of(correct / total, total) if total else None,
            None if worst is None else names[worst],
            0 if worst is None else others[worst],
        )


def _chosen(logits: Tensor, labels: Tensor) -> Tensor:
    """Images to show: the most certain mistakes first, then right ones in their order."""
    is_wrong = logits.argmax(1) != labels
    certainty = logits.double().softmax(1).max(1).values
    wrong = is_wrong.nonzero().flatten()
    wrong = wrong[certainty[wrong].argsort(descending=True, stable=True)][:MOST_WRONG]
    return torch.cat([wrong, (~is_wrong).nonzero().flatten()])[:SHOWN_IMAGES]


def _shown(
    chosen: Tensor, logits: Tensor, labels: Tensor, names: Sequence[str], has_probabilities: bool
) -> Iterator[Shown]:
    probabilities, predicted = logits.double().softmax(1).max(1)
    for index in chosen.tolist():
        truth, prediction = int(labels[index]), int(predicted[index])
        yield Shown(
            index,
            names[truth],
            names[prediction],
            float(probabilities[index]) if has_probabilities else None,
            truth != prediction,
        )
