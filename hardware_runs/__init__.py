"""Durable runs on IBM Quantum hardware (empty in this release; see CHANGELOG.md)."""
