"""Noise models and noise-resilience studies (empty in this release; see CHANGELOG.md)."""
