"""Options that save QPU time, as measurements recommend them. Nothing takes them by itself.

Measured on snapshots of Eagle, Heron r1, r2 and r3 for n = 3 to 6 and the strongly entangling
ansatz of three blocks (`benchmarks/results/defaults.md`), in seconds to an equal calibrated
standard error. The families agree so far that one rule does for all:

- the brickwall encoder is the fastest and, calibrated, about the most exact one on each of them;
- measuring parities instead of the last gates pays from six qubits on. With fewer, a parity's
  readout errors cost as much as the gates that it saves, or up to a fifth more (n = 3 to 5 on Heron
  r1, whose readout is poor);
- reference rows leave a quarter to a sixteenth of the error.

With two qubits both encoders have one two-qubit gate, and the multiplexor needs no fits.
"""

from __future__ import annotations

from qiskit.transpiler import Target

from qpc_qiskit.economy import BRICKWALL, MOST_BRICKWALL_QUBITS, PLAIN, Economy

LEAST_BRICKWALL_QUBITS = 3
LEAST_TAIL_QUBITS = 6


def recommended(num_qubits: int, target: Target | None) -> Economy:
    """What a layer is best sent with, to a device.

    Args:
        num_qubits: of the layer; for a network that of its widest.
        target: the backend's; None: no device, where nothing is to be saved.
    """
    if target is None:
        return PLAIN
    is_brickwall = LEAST_BRICKWALL_QUBITS <= num_qubits <= MOST_BRICKWALL_QUBITS
    return Economy(
        encoder=BRICKWALL if is_brickwall else PLAIN.encoder,
        absorb_tail=num_qubits >= LEAST_TAIL_QUBITS,
        patches=None,
        references=2 * num_qubits,
    )
