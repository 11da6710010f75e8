"""Noise models: channels, their places, files, a catalog, snapshots of devices, studies.

    from noise_models.builders import compose, depolarizing, readout, scale
    from noise_models.spec import NoiseSpec
    from noise_models.snapshots import Snapshot
    from noise_models.words import parse_noise
    from noise_models.study.run import run_study
    from noise_models.study.spec import StudySpec

`NoiseSpec.build` and `Snapshot.backend` make what every engine takes as `noise_model`.
"""
