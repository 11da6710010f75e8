"""Training networks, and what a trained network is on disk, on images and in a report.

May import `nets`, the layer and whatever is below it.
"""

from typing import TYPE_CHECKING

from qpc_qiskit.common.lazy import lazy_names

if TYPE_CHECKING:
    from qpc_qiskit.training.trainer import TrainingInterrupted, learning_rate, train

__all__ = ["TrainingInterrupted", "learning_rate", "train"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "trainer"))
