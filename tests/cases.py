"""The grid of layers that the tests share, and pixels with every edge case in them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cache

import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector

from qpc_qiskit import QuantumPointwiseConv2d
from qpc_qiskit.engines import LayerCall


@dataclass(frozen=True)
class Case:
    """Shape and ansatz of one layer; `ansatz` is a name or a key of `USER_CIRCUITS`."""

    in_channels: int
    out_channels: int
    num_qubits: int
    ansatz: str = "strongly_entangling"
    num_layers: int = 3

    def __str__(self):
        return (
            f"n{self.num_qubits}-C{self.in_channels}-out{self.out_channels}"
            f"-L{self.num_layers}-{self.ansatz}"
        )

    def layer(self, generator, dtype=torch.float64, **options):
        ansatz = USER_CIRCUITS[self.ansatz]() if self.ansatz in USER_CIRCUITS else self.ansatz
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="With one input channel")
            return QuantumPointwiseConv2d(
                self.in_channels,
                self.out_channels,
                num_layers=self.num_layers,
                ansatz=ansatz,
                num_qubits=self.num_qubits,
                generator=None if callable(options.get("init")) else generator,
                dtype=dtype,
                **options,
            )

    def spec(self):
        return _spec(self)


@cache
def _spec(case):
    return case.layer(None).spec


def two_qubit_circuit():
    """Angles 2a+1, repeated parameters, and every kind of gate that has to be translated."""
    a, b = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.ry(a, 1)
    circuit.cp(2 * a + 1, 0, 1)
    circuit.swap(0, 1)
    circuit.rzz(b, 0, 1)
    circuit.barrier()
    circuit.u(a, b - a / 2, 0.3, 1)
    circuit.x(0)
    circuit.rx(-a + 0.25 * b, 0)
    return circuit


def three_qubit_circuit():
    """A swap at the end, which a transpiler might hide in a relabelling of the qubits."""
    w = ParameterVector("w", 11)  # eleven: w[10] must not sort before w[2]
    circuit = QuantumCircuit(3, global_phase=0.7)
    for i in range(11):
        (circuit.rx, circuit.ry, circuit.rz)[(2 * i) % 3](w[i], i % 3)
        if i % 4 == 3:
            circuit.cz(i % 3, (i + 1) % 3)
    circuit.crx(w[0] + w[10], 0, 2)
    circuit.sdg(1)
    circuit.ccx(0, 1, 2)
    circuit.swap(0, 2)
    return circuit


def one_qubit_circuit():
    a = Parameter("a")
    circuit = QuantumCircuit(1)
    circuit.sx(0)
    circuit.ry(3 * a - 0.5, 0)
    circuit.t(0)
    circuit.rx(a, 0)
    return circuit


USER_CIRCUITS = {
    "user1": one_qubit_circuit,
    "user2": two_qubit_circuit,
    "user3": three_qubit_circuit,
}

NAMED = [
    Case(in_channels, out_channels, num_qubits, ansatz, num_layers)
    for ansatz in ("strongly_entangling", "figure1", "circuit_centric")
    for num_qubits, in_channels, out_channels, num_layers in [
        (1, 2, 3, 2),
        (2, 3, 5, 3),
        (3, 5, 7, 4),  # L > n: the entangler's range wraps around
        (4, 16, 6, 3),
        (5, 19, 12, 2),
        (6, 64, 6, 2),
        (7, 100, 10, 1),
    ]
]
MORE = [
    Case(1, 2, 1),
    Case(2, 4, 3),  # more qubits than the channels need
    Case(3, 2, 2, "figure1", 1),
    Case(16, 13, 4, "strongly_entangling", 5),
]
USER = [Case(2, 2, 1, "user1"), Case(3, 3, 2, "user2"), Case(8, 4, 3, "user3")]
CASES = [*NAMED, *MORE, *USER]

SMALL_CASES = [
    Case(1, 2, 1),
    Case(2, 3, 1, "circuit_centric", 2),
    Case(3, 5, 2),
    Case(5, 4, 3, "figure1", 3),
    Case(6, 4, 3, "circuit_centric", 2),
    *USER,
]
"""For what costs one evaluation per weight or channel."""


def pixels_of(channels, generator, dtype=torch.float64, count=4):
    """(N, C): random pixels of both signs, then one of each edge case."""
    assert count >= 3
    ordinary = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    one_hot = torch.eye(channels, dtype=torch.float64)[
        torch.unique(torch.tensor([0, channels // 2, channels - 1]))
    ]
    sparse = ordinary[:1].clone()
    sparse[:, ::2] = 0
    tiny = torch.finfo(dtype).tiny
    edge = [
        -one_hot,
        sparse,  # for one channel this is the zero pixel
        -ordinary[:1],
        ordinary[1:2].abs().neg(),
        torch.full((1, channels), -1 / math.sqrt(channels), dtype=torch.float64),
        torch.zeros(1, channels, dtype=torch.float64),
        -torch.zeros(1, channels, dtype=torch.float64),
        (ordinary[1:2] / ordinary[1:2].abs().max()) * 1e-30,
        (ordinary[2:3] / ordinary[2:3].abs().max()) * 1e30,
        (ordinary[2:3] / ordinary[2:3].abs().max()) * tiny * 4,
        torch.full((1, channels), tiny / 2, dtype=torch.float64),  # subnormal: counts as zero
    ]
    if dtype == torch.float64:
        scaled = ordinary[:1] / ordinary[:1].abs().max()
        edge += [scaled * 1e-300, scaled * 1e300]
    return torch.cat([ordinary, one_hot, *edge]).to(dtype)


def evs_of(engine, spec, pixels, weights):
    """Values of a layer that has no name."""
    return engine.evs(LayerCall(spec, pixels, weights))


def vjp_of(engine, spec, pixels, weights, *args, **options):
    """As `evs_of`; other arguments are those of `Engine.vjp` after the call."""
    return engine.vjp(LayerCall(spec, pixels, weights), *args, **options)


def jacobian_of(engine, spec, pixels, weights, *args):
    """As `evs_of`; other arguments are those of `Engine.jacobian` after the call."""
    return engine.jacobian(LayerCall(spec, pixels, weights), *args)
