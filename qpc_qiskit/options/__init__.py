"""What a user may choose: options of networks, of trainings and of saving QPU time; named sets.

Light: loads neither torch nor Qiskit. May import `common`.
"""

from qpc_qiskit.options.engine import EngineOptions
from qpc_qiskit.options.fields import Options
from qpc_qiskit.options.records import (
    ARCHITECTURES,
    IMAGE_SHAPES,
    MAX_SEED,
    Architecture,
    DataSource,
    NetConfig,
    TrainConfig,
)

__all__ = [
    "ARCHITECTURES",
    "IMAGE_SHAPES",
    "MAX_SEED",
    "Architecture",
    "DataSource",
    "EngineOptions",
    "NetConfig",
    "Options",
    "TrainConfig",
]
