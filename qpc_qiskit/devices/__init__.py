"""Where a circuit stands: a backend's target, patches, readout, noise; its QPU seconds.

A patch is a set of qubits of a device. May import `circuits`, `options` and `common`.
"""
