"""Where a circuit stands: a backend's target, its patches, readout, noise, and what time is asked.

A patch is a set of qubits of a device. May import `circuits`, `options` and `common`.
"""
