"""Noise models and noise-resilience studies: in this release what `--noise` of `qpc` takes."""
