"""`python -m qpc_qiskit` is `qpc`."""

from qpc_qiskit.cli import main

if __name__ == "__main__":
    main()
