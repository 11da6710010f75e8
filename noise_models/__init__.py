"""Noise models: channels, their places, files, a catalog, snapshots of devices.

    from noise_models.builders import compose, depolarizing, readout, scale
    from noise_models.spec import NoiseSpec
    from noise_models.snapshots import Snapshot
    from noise_models.words import parse_noise

`NoiseSpec.build` and `Snapshot.backend` make what every engine takes as `noise_model`.
"""
