"""A layer's noisy circuit: values and derivatives of chunks of pixels, all kernels at once.

With the suffix folded into observables A (K, m, rows) and the state of a pixel V (rows,), a value
is A V. States of the shared stage serve all kernels; where a circuit has a mixed stage, each kernel
goes on from the shared state on its own. Nothing of a pixel is kept but its angles: the backward
pass runs the steps again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from qpc_qiskit.pauli.forward import Runner, SparseMap, TorchStage
from qpc_qiskit.pauli.heisenberg import fold_suffix
from qpc_qiskit.pauli.program import Program, Rotation
from qpc_qiskit.pauli.steps import Stage, make_stage

MakeRunner = Callable[[Stage, int, torch.dtype, torch.device], Runner]

_FOLDED_BYTES = 2**25  # of observables whose graph is held at a time, for each operation


@dataclass(frozen=True, eq=False)
class Stages:
    """A program and its steps."""

    program: Program = field(repr=False)
    shared: Stage = field(repr=False)
    mixed: Stage | None = field(repr=False)
    """None: no rotation of a kernel comes before one of a pixel."""

    @property
    def last(self) -> Stage:
        """After which the observables are measured."""
        return self.mixed or self.shared


def make_stages(program: Program) -> Stages:
    """The steps of a program."""
    n = program.num_qubits
    if not program.mixed:
        return Stages(program, make_stage(program.shared, touch_all=n), None)
    shared = make_stage(program.shared, closes=False)
    return Stages(
        program, shared, make_stage(program.mixed, shared.last, shared.touched, touch_all=n)
    )


@dataclass(frozen=True, eq=False)
class Kernels:
    """What all pixels share."""

    angles: Tensor = field(repr=False)
    """(K, T) radians, float64; those of pixels mean nothing."""
    observables: Tensor = field(repr=False)
    """(K, m, rows): on the rows after the last step."""


class NoisyLayer:
    """A program on one device, in one dtype.

    Args:
        stages: of the program.
        dtype: of states, observables and values.
        device: where they are.
        make_runner: of a stage.
        reason: why another one was not taken, for reports.
    """

    def __init__(
        self,
        stages: Stages,
        dtype: torch.dtype,
        device: torch.device,
        make_runner: MakeRunner = TorchStage,
        reason: str | None = None,
    ) -> None:
        self.implementation = "torch" if make_runner is TorchStage else "compiled"
        self.reason = reason
        program = stages.program
        self._program, self._dtype, self._device = program, dtype, device
        num_angles = len(program.offset)
        with torch.inference_mode(False):  # what is kept must serve every later call
            self._encoder = torch.from_numpy(program.encoder).to(device)
            self._ansatz = torch.from_numpy(program.ansatz).to(device)
            self._offset = torch.from_numpy(program.offset).to(device)
            self._shared = make_runner(stages.shared, num_angles, dtype, device)
            self._mixed = None
            if stages.mixed is not None:
                self._mixed = make_runner(stages.mixed, num_angles, dtype, device)
            self._strings = torch.from_numpy(stages.last.last).to(device)
            closing = stages.last.closing
            self._closing = (
                SparseMap(csr_array(closing.T.tocsr()), dtype, device),
                SparseMap(closing, dtype, device),
            )
            rotations = (op.angle for op in program.mixed if isinstance(op, Rotation))
            of_kernels = [angle for angle in rotations if program.ansatz[angle].any()]
            self._kernel_rows = torch.tensor(of_kernels, dtype=torch.int64, device=device)
            size = 8 * program.observables.size
            self._kernels_at_a_time = max(1, _FOLDED_BYTES // size)
        self.chunk = self._shared.chunk
        if self._mixed is not None:
            self.chunk = min(self.chunk, self._mixed.chunk)

    def kernels(self, ansatz_angles: Tensor) -> Kernels:
        """Fold the suffix into the observables.

        Args:
            ansatz_angles: (K, R) radians, float64, of what the circuit holds of the ansatz.
        """
        angles = self._of_kernels(ansatz_angles)
        folded = [self._folded(part) for part in angles.split(self._kernels_at_a_time)]
        return Kernels(angles, torch.cat(folded))

    def kernels_vjp(
        self, ansatz_angles: Tensor, by_observables: Tensor, by_angles: Tensor
    ) -> Tensor:
        """Derivatives (K, R) by the ansatz' angles.

        Args:
            ansatz_angles: as for `kernels`.
            by_observables: (K, m, rows), derivatives by `Kernels.observables`.
            by_angles: (K, T) float64, by `Kernels.angles` on other ways than the observables.
        """
        found = []
        for start in range(0, len(ansatz_angles), self._kernels_at_a_time):
            part = slice(start, start + self._kernels_at_a_time)
            with torch.enable_grad():
                leaf = ansatz_angles[part].detach().clone().requires_grad_()
                of_kernels = self._of_kernels(leaf)
                outputs = [of_kernels, self._folded(of_kernels)]
            outer = [by_angles[part], by_observables[part]]
            found.append(torch.autograd.grad(outputs, leaf, outer)[0])
        return torch.cat(found)

    def values(self, kernels: Kernels, encoder_angles: Tensor, out: Tensor) -> None:
        """Values of a chunk of pixels.

        Args:
            kernels: by `kernels`.
            encoder_angles: (B, E) radians, float64.
            out: (K, m, B), filled.
        """
        state, turns = self._shared_state(encoder_angles)
        if self._mixed is None:
            out.copy_((kernels.observables.flatten(0, 1) @ state).view_as(out))
            return
        for k in range(len(kernels.angles)):
            own = self._turns_of(kernels, k, turns)
            out[k] = kernels.observables[k] @ self._mixed.run(state, *own)

    def vjp(
        self,
        kernels: Kernels,
        encoder_angles: Tensor,
        grad: Tensor,
        totals: tuple[Tensor, Tensor] | None,
        *,
        wants_angles: bool,
    ) -> Tensor | None:
        """Derivatives of the values of a chunk of pixels.

        Args:
            kernels: by `kernels`.
            encoder_angles: (B, E) radians, float64.
            grad: (K, m, B), outer derivatives.
            totals: derivatives by the observables (K, m, rows) and by the kernels' angles (K, T)
                float64, to which those of these pixels are added; None: not asked for.
            wants_angles: whether those by the pixels' angles are asked for.

        Returns:
            (B, E) float64, or None.
        """
        if self._mixed is None:
            by_angles = self._vjp_shared(kernels, encoder_angles, grad, totals, wants_angles)
        else:
            by_angles = self._vjp_mixed(kernels, encoder_angles, grad, totals, wants_angles)
        if by_angles is None:
            return None
        return by_angles.T.to(torch.float64) @ self._encoder

    def _vjp_shared(
        self,
        kernels: Kernels,
        encoder_angles: Tensor,
        grad: Tensor,
        totals: tuple[Tensor, Tensor] | None,
        wants_angles: bool,
    ) -> Tensor | None:
        outer, observables = grad.flatten(0, 1), kernels.observables.flatten(0, 1)

        def slopes(state: Tensor) -> Tensor:
            if totals is not None:
                totals[0].flatten(0, 1).addmm_(outer, state.T)
            return observables.T @ outer

        if not wants_angles:
            state, _ = self._shared_state(encoder_angles)
            if totals is not None:
                totals[0].flatten(0, 1).addmm_(outer, state.T)
            return None
        turns = self._turns(encoder_angles)
        return self._shared.pull(self._start(encoder_angles), *turns, slopes)[1]

    def _vjp_mixed(
        self,
        kernels: Kernels,
        encoder_angles: Tensor,
        grad: Tensor,
        totals: tuple[Tensor, Tensor] | None,
        wants_angles: bool,
    ) -> Tensor | None:
        assert self._mixed is not None
        shared, turns = self._shared_state(encoder_angles)
        shared = shared.clone()  # the runners may share their memory
        by_shared = torch.zeros_like(shared)
        by_angles = shared.new_zeros(len(self._offset), shared.shape[1])
        for k in range(len(kernels.angles)):

            def slopes(state: Tensor, k: int = k) -> Tensor:
                if totals is not None:
                    totals[0][k].addmm_(grad[k], state.T)
                return kernels.observables[k].T @ grad[k]

            own = self._turns_of(kernels, k, turns)
            by_first, by_own = self._mixed.pull(shared, *own, slopes)
            if totals is not None:
                rows = self._kernel_rows
                totals[1][k, rows] += by_own[rows].sum(1, dtype=torch.float64)
            by_own[self._kernel_rows] = 0
            by_shared += by_first
            by_angles += by_own
        if not wants_angles:
            return None
        start = self._start(encoder_angles)
        return by_angles + self._shared.pull(start, *turns, lambda _: by_shared)[1]

    def _of_kernels(self, ansatz_angles: Tensor) -> Tensor:
        return ansatz_angles @ self._ansatz.T + self._offset

    def _folded(self, kernel_angles: Tensor) -> Tensor:
        """(K, m, rows), dtype of the states."""
        full = fold_suffix(self._program, kernel_angles)[..., self._strings].to(self._dtype)
        columns: Tensor = _Multiplied.apply(full.flatten(0, 1).T.contiguous(), *self._closing)
        return columns.T.contiguous().view(*full.shape[:2], -1)

    def _start(self, encoder_angles: Tensor) -> Tensor:
        return torch.ones(1, len(encoder_angles), dtype=self._dtype, device=self._device)

    def _turns(self, encoder_angles: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, B) of all angles; those of kernels mean nothing."""
        phi = (self._encoder @ encoder_angles.T + self._offset[:, None]).to(self._dtype)
        return phi.cos(), phi.sin()

    def _turns_of(
        self, kernels: Kernels, k: int, turns: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The same with those of a kernel."""
        rows = self._kernel_rows
        phi = kernels.angles[k, rows][:, None]
        cosines, sines = (each.clone() for each in turns)
        cosines[rows], sines[rows] = phi.cos().to(self._dtype), phi.sin().to(self._dtype)
        return cosines, sines

    def _shared_state(self, encoder_angles: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        turns = self._turns(encoder_angles)
        return self._shared.run(self._start(encoder_angles), *turns), turns


class _Multiplied(torch.autograd.Function):
    """A sparse matrix times a dense one, with the transpose for its derivative."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: SparseMap, transpose: SparseMap) -> Tensor:
        ctx.transpose = transpose
        return matrix(dense, dense.new_empty(matrix.num_rows, dense.shape[1]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous()
        return (
            ctx.transpose(grad, grad.new_empty(ctx.transpose.num_rows, grad.shape[1])),
            None,
            None,
        )
