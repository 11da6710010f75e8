"""Noise models: channels, their places, files, a catalog, snapshots of devices, studies.

    from noise_models import NoiseSpec, Snapshot, parse_noise, run_study
    from noise_models.builders import compose, depolarizing, readout, scale
    from noise_models.study.spec import StudySpec

`NoiseSpec.build` and `Snapshot.backend` make what every engine takes as `noise_model`.

May import `qpc_qiskit`; the modules beside this one know nothing of `study`.
"""

from typing import TYPE_CHECKING

from qpc_qiskit.common.lazy import lazy_names

if TYPE_CHECKING:
    from noise_models.snapshots import Snapshot
    from noise_models.spec import NoiseSpec
    from noise_models.study.run import load_study, run_study
    from noise_models.words import parse_noise

__all__ = ["NoiseSpec", "Snapshot", "load_study", "parse_noise", "run_study"]

_HOME = {
    "NoiseSpec": "spec",
    "Snapshot": "snapshots",
    "load_study": "study",
    "parse_noise": "words",
    "run_study": "study",
}

__getattr__ = lazy_names(__name__, _HOME)
