"""Unitaries of all kernels at once, in torch, from the same circuit that Qiskit runs.

`lower` reads an ansatz once into a `UnitaryProgram`; `unitaries` evaluates it for weights (K, P).
The number of torch calls depends on the number of blocks alone, neither on the kernels nor on the
gates: all rotation matrices of all kernels come from one broadcast expression, runs of one-qubit
gates are multiplied for every qubit and block together, and each block is then applied as a few
small batched products followed by the permutation that its two-qubit gates amount to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
import torch
from torch import Tensor

from qpc_qiskit.circuits.ansatz import Ansatz, affine_coefficients
from qpc_qiskit.errors import AnsatzError

_PAULI = {
    "rx": ((0, 1), (1, 0)),
    "ry": ((0, -1j), (1j, 0)),
    "rz": ((1, 0), (0, -1)),
}
_FIXED = {
    "x": ((0, 1), (1, 0)),
    "sx": ((0.5 + 0.5j, 0.5 - 0.5j), (0.5 - 0.5j, 0.5 + 0.5j)),
    "id": ((1, 0), (0, 1)),  # last: it pads the chains
}
_GROUP_QUBITS = 3  # 8 x 8 matrices: larger ones cost more arithmetic, smaller ones more calls


@dataclass(frozen=True, eq=False)
class Block:
    """One-qubit gates on the qubits of `groups`, then a permutation of basis states."""

    groups: tuple[int, ...]
    """Indices of the qubit groups that hold a gate other than the identity."""
    permutation: Tensor | None
    """(2**n,) int64: new amplitude i is old amplitude permutation[i]; None: identity."""


@dataclass(frozen=True, eq=False)
class UnitaryProgram:
    """An ansatz, lowered: tensors on one device, float64 and complex128."""

    angle_scale: Tensor
    """(P, G): angles of the G rotations = weights @ angle_scale + angle_offset."""
    angle_offset: Tensor
    """(G,), radians."""
    paulis: Tensor
    """(G, 2, 2): the generator of each rotation."""
    fixed: Tensor
    """(F, 2, 2): the gates without angles."""
    chains: Tensor
    """(B, n, C) int64: for each block and qubit the gates that act in turn, as indices into the G
    rotations followed by the F fixed gates, padded with identities."""
    blocks: tuple[Block, ...]
    group_sizes: tuple[int, ...]
    """Qubits per group, from qubit 0 upwards."""


class _Scheduler:
    """Sorts gates into blocks: a gate goes into the earliest block that its qubits allow."""

    def __init__(self, num_qubits: int) -> None:
        self.chains: list[list[list[int]]] = []
        self.entanglers: list[list[tuple[int, int]]] = []
        self.last_local = [-1] * num_qubits
        self.last_entangler = [-1] * num_qubits

    def _grow(self, block: int) -> None:
        while len(self.chains) <= block:
            self.chains.append([[] for _ in self.last_local])
            self.entanglers.append([])

    def add_local(self, qubit: int, gate: int) -> None:
        block = max(self.last_entangler[qubit] + 1, self.last_local[qubit])
        self._grow(block)
        self.chains[block][qubit].append(gate)
        self.last_local[qubit] = block

    def add_cx(self, control: int, target: int) -> None:
        block = max(
            0, *(max(self.last_entangler[q], self.last_local[q]) for q in (control, target))
        )
        self._grow(block)
        self.entanglers[block].append((control, target))
        self.last_entangler[control] = self.last_entangler[target] = block


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # the cached tensors serve later calls that need gradients
def lower(ansatz: Ansatz, device: torch.device) -> UnitaryProgram:
    """Read an ansatz into a `UnitaryProgram` on `device` (cached).

    Raises:
        AnsatzError: the circuit holds a gate other than rx, ry, rz, sx, x, id, cx.
    """
    circuit, n = ansatz.circuit, ansatz.num_qubits
    fixed_names = list(_FIXED)
    scheduler = _Scheduler(n)
    paulis: list[tuple[tuple[complex, ...], ...]] = []
    scales: list[np.ndarray] = []
    offsets: list[float] = []
    for instruction in circuit.data:
        name = instruction.operation.name
        qubits = [circuit.find_bit(q).index for q in instruction.qubits]
        if name in _PAULI:
            scale, offset = affine_coefficients(
                instruction.operation.params[0], ansatz.parameters, f"an angle of {name!r}"
            )
            scheduler.add_local(qubits[0], len(paulis))
            paulis.append(_PAULI[name])
            scales.append(scale)
            offsets.append(offset)
        elif name in _FIXED:
            scheduler.add_local(qubits[0], fixed_names.index(name) - len(_FIXED))  # from the end
        elif name == "cx":
            scheduler.add_cx(qubits[0], qubits[1])
        else:
            raise AnsatzError(f"The ansatz holds {name!r}, which has no torch form.")
    groups = _group_sizes(n)
    num_gates = len(paulis) + len(_FIXED)
    return UnitaryProgram(
        angle_scale=torch.from_numpy(np.array(scales).T.copy()).to(device),
        angle_offset=torch.tensor(offsets, dtype=torch.float64, device=device),
        paulis=torch.tensor(paulis, dtype=torch.complex128, device=device),
        fixed=torch.tensor(list(_FIXED.values()), dtype=torch.complex128, device=device),
        chains=_pad_chains(scheduler.chains, num_gates).to(device),
        blocks=tuple(
            Block(_active_groups(chains, groups), _permutation(n, pairs, device))
            for chains, pairs in zip(scheduler.chains, scheduler.entanglers, strict=True)
        ),
        group_sizes=groups,
    )


def _pad_chains(chains: list[list[list[int]]], num_gates: int) -> Tensor:
    """(B, n, C) non-negative gate indices; the last gate of all, the identity, fills up."""
    length = max(len(chain) for block in chains for chain in block)
    return torch.tensor(
        [
            [
                [g % num_gates for g in chain] + [num_gates - 1] * (length - len(chain))
                for chain in block
            ]
            for block in chains
        ]
    )


def _group_sizes(num_qubits: int) -> tuple[int, ...]:
    count = -(-num_qubits // _GROUP_QUBITS)
    return tuple(num_qubits // count + (i < num_qubits % count) for i in range(count))


def _active_groups(chains: list[list[int]], sizes: tuple[int, ...]) -> tuple[int, ...]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(
        i
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
        if any(chains[start : start + size])
    )


def _permutation(
    num_qubits: int, pairs: list[tuple[int, int]], device: torch.device
) -> Tensor | None:
    """Where each amplitude after the CNOTs comes from."""
    if not pairs:
        return None
    source = torch.arange(2**num_qubits)
    for control, target in reversed(pairs):
        source = source ^ (((source >> control) & 1) << target)
    return source.to(device)


def unitaries(ansatz: Ansatz, weights: Tensor, num_columns: int | None = None) -> Tensor:
    """The first columns of every kernel's unitary; differentiable in the weights.

    Args:
        ansatz: on n qubits with P weights.
        weights: (K, P), float32 or float64, any device.
        num_columns: C, the number of leading columns wanted (the input states); default all 2**n.

    Returns:
        (K, 2**n, C), complex64 or complex128 like the weights, up to a global phase per kernel.
    """
    program = lower(ansatz, weights.device)
    first, *others = zip(*_group_matrices(program, weights), strict=True)
    state = reduce(lambda low, high: _kron(high, low), first)  # higher groups are higher digits
    state = _permuted(state[..., :num_columns], program.blocks[0])
    for block, matrices in zip(program.blocks[1:], others, strict=True):
        low = 1  # stride of the group's lowest qubit
        for g, size in enumerate(program.group_sizes):
            if g in block.groups:
                state = _apply_group(matrices[g], state, low)
            low *= 2**size
        state = _permuted(state, block)
    return state


def _permuted(state: Tensor, block: Block) -> Tensor:
    return state if block.permutation is None else state.index_select(1, block.permutation)


def _apply_group(matrices: Tensor, state: Tensor, low: int) -> Tensor:
    """Matrices (K, d, d) on the index digit of stride `low` of states (K, D, C)."""
    kernels, dimension, columns = state.shape
    d = matrices.shape[-1]
    split = state.reshape(kernels, dimension // (low * d), d, low * columns)
    return (matrices[:, None] @ split).reshape(kernels, dimension, columns)


def _group_matrices(program: UnitaryProgram, weights: Tensor) -> list[tuple[Tensor, ...]]:
    """For each group of qubits the products of its one-qubit gates: B matrices (K, d, d).

    Computed in float64, which costs little at this size: rounding adds up over the gates, angles
    are many times pi, and torch's float32_matmul_precision may be low.
    """
    half = (weights.double() @ program.angle_scale + program.angle_offset) / 2
    cos, sin = half.cos()[..., None, None], half.sin()[..., None, None]
    identity = torch.eye(2, dtype=torch.complex128, device=weights.device)
    rotations = cos * identity - sin * (1j * program.paulis)  # (K, G, 2, 2)
    gates = torch.cat([rotations, program.fixed.expand(len(weights), -1, -1, -1)], 1)
    cells = gates.index_select(1, program.chains[..., 0].flatten())  # (K, B*n, 2, 2)
    for step in range(1, program.chains.shape[-1]):
        cells = gates.index_select(1, program.chains[..., step].flatten()) @ cells
    cells = cells.unflatten(1, program.chains.shape[:2])
    result = []
    for per_group in cells.split(program.group_sizes, dim=2):
        product = reduce(lambda low, high: _kron(high, low), per_group.unbind(2))
        result.append(product.to(weights.dtype.to_complex()).unbind(1))
    return result


def _kron(high: Tensor, low: Tensor) -> Tensor:
    """Kronecker products over the last two axes."""
    a, b = high.shape[-1], low.shape[-1]
    product = high[..., :, None, :, None] * low[..., None, :, None, :]
    return product.reshape(*high.shape[:-2], a * b, a * b)
