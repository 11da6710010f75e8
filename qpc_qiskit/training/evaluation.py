"""What a network says of a set of images, and how good that is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from qpc_qiskit.data.images import unit_images

LossName = Literal["cross-entropy", "mse"]


@dataclass(frozen=True)
class Score:
    """Quality of a set of predictions."""

    loss: float
    """Mean over the images."""
    accuracy: float
    """Share of the images whose largest logit is that of their label, in 0..1."""


@dataclass(frozen=True)
class LogitDifference:
    """How far two sets of predictions for the same images are apart."""

    agreement: float
    """Share of the images for which both predict the same class, in 0..1."""
    max_logit_difference: float
    """Largest absolute difference of two logits."""


def loss_of(logits: Tensor, labels: Tensor, loss: LossName) -> Tensor:
    """Mean loss of a batch.

    Args:
        logits: outputs of the network, shape (B, num_classes).
        labels: int64 class indices, shape (B,).
        loss: `cross-entropy` of the softmax of the logits, or `mse`, the mean squared difference
            of the logits themselves and one-hot labels.

    Returns:
        A scalar.
    """
    if loss == "cross-entropy":
        return functional.cross_entropy(logits, labels)
    one_hot = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return functional.mse_loss(logits, one_hot)


def predict(
    model: nn.Module,
    images: Tensor,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Logits of all images in evaluation mode, without gradients.

    Args:
        model: its training mode is restored afterwards.
        images: uint8 or floats in [0, 1], shape (N, C, H, W), anywhere.
        batch_size: images per call of the model.
        on_batch: called after each batch with the number of images in it.

    Returns:
        Shape (N, num_classes), on the CPU, dtype of the model.
    """
    parameter = next(model.parameters())
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        parts = []
        with torch.no_grad():
            for batch in images.split(batch_size):
                batch = unit_images(batch.to(parameter.device), parameter.dtype)
                parts.append(model(batch).cpu())
                if on_batch is not None:
                    on_batch(len(batch))
        return torch.cat(parts)
    finally:
        for module, training in modes:  # a part may have been frozen in evaluation mode
            module.training = training


def score(logits: Tensor, labels: Tensor, loss: LossName = "cross-entropy") -> Score:
    """Loss and accuracy of logits.

    Args:
        logits: shape (N, num_classes).
        labels: int64, shape (N,).
        loss: which loss, see `loss_of`.

    Returns:
        The score; the loss is computed in float64.
    """
    correct = int((logits.argmax(1) == labels).sum())
    value = float(loss_of(logits.to(torch.float64), labels, loss))
    return Score(loss=value, accuracy=correct / len(labels))


def accuracy_interval(accuracy: float, num_images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy, for the choice of images and the shots together."""
    from scipy.stats import binomtest

    correct = round(accuracy * num_images)
    found = binomtest(correct, num_images).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def compare(logits: Tensor, reference: Tensor) -> LogitDifference:
    """Compare logits with those of another engine.

    Args:
        logits: shape (N, num_classes).
        reference: likewise.
    """
    same = int((logits.argmax(1) == reference.argmax(1)).sum())
    return LogitDifference(same / len(logits), float((logits - reference).abs().max()))
