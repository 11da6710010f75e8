"""Noise-resilience studies: a grid of networks, noise, shots and mitigation, and what came of it.

`spec` is the file, `plan` turns it into cells, `run` computes them, `tables`, `figures` and
`report` tell. May import the rest of `noise_models`, which must not import this.
"""

from typing import TYPE_CHECKING

from qpc_qiskit.common.lazy import lazy_names

if TYPE_CHECKING:
    from noise_models.study.run import StudyRun, load_study, run_study

__all__ = ["StudyRun", "load_study", "run_study"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "run"))
