"""What is measured after an epoch of a training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochMetrics:
    """Loss and accuracy after an epoch, both splits in evaluation mode."""

    epoch: int
    """Finished epochs, from 1."""
    lr: float
    """Learning rate of the epoch."""
    train_loss: float
    """Mean over the training images."""
    train_accuracy: float
    """Share of the training images, in 0..1."""
    test_loss: float
    """Mean over the test images."""
    test_accuracy: float
    """Share of the test images, in 0..1."""
