"""Running circuits through Qiskit primitives: rows of parameters, PUBs and results."""
