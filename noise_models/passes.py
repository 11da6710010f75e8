"""What is done to a circuit so that noise can be put at places that a gate's name does not tell."""

from __future__ import annotations

from collections.abc import Iterator

from qiskit.circuit.library import RZZGate
from qiskit.dagcircuit import DAGCircuit, DAGOpNode
from qiskit.transpiler.basepasses import TransformationPass

from qpc_qiskit.devices.noise import ANSATZ_BEGINS

VIRTUAL = ("rz",)
"""Gates that are changes of phase in the control electronics: no time, no error."""


class LabelStages(TransformationPass):  # type: ignore[misc]  # qiskit has no types
    """Label every physical gate `encoder.NAME` or `ansatz.NAME`, by the barrier between the two.

    Gates that have a label keep it behind the stage.
    """

    def run(self, dag: DAGCircuit) -> DAGCircuit:
        """See `TransformationPass.run`."""
        result, stage = dag.copy_empty_like(), "encoder"
        # The barrier is as wide as the circuit, so it parts every topological order in two.
        for node in dag.topological_op_nodes():
            operation = node.op
            if node.name == "barrier":
                stage = "ansatz" if operation.label == ANSATZ_BEGINS else stage
            elif node.name not in VIRTUAL or operation.label:
                operation = operation.to_mutable()
                operation.label = f"{stage}.{operation.label or operation.name}"
            result.apply_operation_back(operation, node.qargs, node.cargs)
        return result

    def __repr__(self) -> str:
        return "LabelStages()"


class InsertCrosstalk(TransformationPass):  # type: ignore[misc]
    """Put a labelled identity on pairs of neighbours after the moments of a circuit.

    See `noise_models.channels.ZZCrosstalk` for what a moment is, and which pairs are meant. The
    identity is an rzz of angle 0: it computes nothing, and the noise model has an error for its
    label.

    Args:
        label: of the identities after moments with a two-qubit gate.
        one_qubit_label: after moments of one-qubit gates only; None: there are none.
        coupling: pairs of neighbours; None: the path 0-1-...-(n-1).
    """

    def __init__(
        self,
        label: str,
        one_qubit_label: str | None = None,
        coupling: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        super().__init__()
        self._label = label
        self._one_qubit_label = one_qubit_label
        self._coupling = coupling

    def run(self, dag: DAGCircuit) -> DAGCircuit:
        """See `TransformationPass.run`."""
        result, size = dag.copy_empty_like(), dag.num_qubits()
        pairs = self._coupling or tuple((q, q + 1) for q in range(size - 1))
        for gates, virtual in _moments(dag):
            for node in gates:
                result.apply_operation_back(node.op, node.qargs, node.cargs)
            joined = {frozenset(_indices(dag, node)) for node in gates if len(node.qargs) > 1}
            label = self._label if joined else self._one_qubit_label if gates else None
            for pair in pairs if label else ():
                if frozenset(pair) not in joined:
                    qubits = [dag.qubits[q] for q in pair]
                    result.apply_operation_back(RZZGate(0.0, label=label), qubits)
            for node in virtual:
                result.apply_operation_back(node.op, node.qargs, node.cargs)
        return result

    def __repr__(self) -> str:
        return f"InsertCrosstalk({self._label!r}, {self._one_qubit_label!r}, {self._coupling!r})"


def _moments(dag: DAGCircuit) -> Iterator[tuple[list[DAGOpNode], list[DAGOpNode]]]:
    """Physical gates of every moment, as early as possible, and what follows in no time."""
    moment = [0] * dag.num_qubits()
    found: list[tuple[list[DAGOpNode], list[DAGOpNode]]] = [([], [])]
    for node in dag.topological_op_nodes():
        qubits = _indices(dag, node)
        takes_no_time = _takes_no_time(node)
        at = max((moment[q] for q in qubits), default=0) + (not takes_no_time)
        for q in qubits:  # a barrier synchronises
            moment[q] = at
        if at == len(found):
            found.append(([], []))
        found[at][takes_no_time].append(node)
    yield from found


def _takes_no_time(node: DAGOpNode) -> bool:
    """Whether it is virtual, a barrier, or crosstalk that another pass has inserted."""
    is_inserted = node.name == "rzz" and bool(node.label)
    return node.name in VIRTUAL or node.name == "barrier" or is_inserted


def _indices(dag: DAGCircuit, node: DAGOpNode) -> list[int]:
    return [dag.find_bit(qubit).index for qubit in node.qargs]
