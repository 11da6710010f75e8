"""Tilings: one circuit on many disjoint patches of a backend, so that a shot evaluates many rows.

All patches carry the same circuit: it is transpiled once for every shape that `place` would try,
and for a path, laid on every set of qubits that has the couplings it uses, and disjoint sets are
chosen by greedy choices and by an integer program, whichever is better.

What is chosen is decided by the information of a shot, J / (mean of 1/F^2) over J patches of
fidelity F. A value that a patch returns is shrunk by about F, and calibration divides by that: its
variance goes like 1/F^2. Every patch gets as many rows as any other, so that the mean variance of
all rows is that of the patches; and J patches take a J-th of the time. A poor patch therefore
costs more than it brings: below about 0.7 times the usual fidelity a device is better off without
it. The shape decides both how many gates the circuit has and how many patches fit.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from qiskit import QuantumCircuit
from qiskit.transpiler import Target

from qpc_qiskit.common.arrays import Array, Indices, Mask
from qpc_qiskit.common.checks import number_of_qubits, positive_integer
from qpc_qiskit.devices import patches, placement_cache, regions
from qpc_qiskit.devices.isa import is_isa
from qpc_qiskit.devices.patches import SEEDS, Candidate, Patch, Placement, place
from qpc_qiskit.devices.regions import Sets, Shape
from qpc_qiskit.devices.targets import Device, Qargs, read_device, restrict_target
from qpc_qiskit.errors import PatchesError

_SETS = 6000  # sets of qubits that may carry a patch; those of every qubit are kept
_SCALES = (1.0, 0.8, 1.25)
"""Tried one after another, and again from the first one when a tiling has become better."""
_VERSION = 3  # of this algorithm: older tilings in a cache are not used


def tile(
    circuit: QuantumCircuit,
    target: Target,
    num_patches: SupportsIndex | None,
    *,
    gap: int = 0,
    min_fidelity_ratio: float = 0.5,
    seeds: Sequence[int] = SEEDS,
    bad_qubits: Iterable[int] = (),
    bad_edges: Iterable[Qargs] = (),
    cache: Path | None = None,
    time_limit: float = 20.0,
) -> tuple[Placement, ...]:
    """Lay a circuit on as many disjoint patches of a backend as are worth it.

    All placements have the same `final` and the same two-qubit gates on the same wires. They also
    share one circuit object, except where the qubits of a patch have gates in other directions than
    those of another: then one-qubit gates differ.

    The same arguments give the same tiling, unless an integer program is stopped by the time limit;
    what it had found by then may depend on the machine. A cache keeps it.

    Args:
        circuit: the template, on n qubits, without measurements.
        target: the backend's.
        num_patches: exactly so many, with the greatest product of fidelities; 1 is `place`. None:
            those with the greatest `information`; one more may fit, and make values worse.
        gap: qubits between two patches, at least; 1: no coupling, working or not, joins two.
        min_fidelity_ratio: a patch is good enough with this part of the predicted fidelity of the
            best place of the circuit, on any shape; in (0, 1].
        seeds: of the transpiler, at least one.
        bad_qubits: never used.
        bad_edges: pairs of qubits between which no gate is used.
        cache: folder with earlier tilings, see `placement_cache.cache_folder`.
        time_limit: of all integer programs together, in seconds.

    Returns:
        The best patch first.

    Raises:
        BackendError: fewer than `num_patches` fit, the backend has no such qubits, or its gates
            cannot express the circuit.
        ValueError: an argument is out of range.
    """
    wanted = None if num_patches is None else positive_integer("num_patches", num_patches)
    _check(gap, min_fidelity_ratio, seeds, time_limit)
    bad_qubits = sorted({int(q) for q in bad_qubits})
    bad_edges = sorted({(int(min(edge)), int(max(edge))) for edge in bad_edges})
    if wanted == 1:
        one = place(
            circuit, target, seeds=seeds, bad_qubits=bad_qubits, bad_edges=bad_edges, cache=cache
        )
        return (one,)
    goal = _Goal(wanted, int(gap), float(min_fidelity_ratio), float(time_limit))
    if cache is None:
        return _tile(circuit, target, goal, seeds, bad_qubits, bad_edges)
    versions = ["tiling", _VERSION, patches.VERSION]
    arguments = [versions, astuple(goal), [int(seed) for seed in seeds], bad_qubits, bad_edges]
    key = placement_cache.key(circuit, target, arguments)
    found = _load(cache, key, circuit)
    if found is None:
        found = _tile(circuit, target, goal, seeds, bad_qubits, bad_edges)
        _store(cache, key, found)
    return found


def information(fidelities: Iterable[float]) -> float:
    """Of a shot, in units of that of a patch without errors: J / (mean of 1/fidelity^2)."""
    known = np.array(list(fidelities), np.float64)
    return float(_informations(known)[-1]) if len(known) else 0.0


def _informations(fidelities: Array) -> Array:
    """Of the first patch, of the first two, ..."""
    with np.errstate(divide="ignore", over="ignore"):  # a fidelity of 0 leaves nothing
        return np.arange(1, len(fidelities) + 1) ** 2 / np.cumsum(fidelities**-2.0)


@dataclass(frozen=True)
class _Goal:
    """What is asked for."""

    num_patches: int | None
    gap: int
    min_fidelity_ratio: float
    time_limit: float


@dataclass(frozen=True, eq=False)
class _Pool:
    """A circuit and its best place on each of many sets of qubits."""

    candidate: Candidate
    qubits: Sets = field(repr=False)
    """(M, n): row by row the qubits that carry wires 0..n-1."""
    losses: Array = field(repr=False)
    """(M,) predicted."""

    def cut(self, limit: float) -> _Pool:
        """Without the places of a loss above the limit."""
        good = self.losses <= limit + 1e-12
        return _Pool(self.candidate, self.qubits[good], self.losses[good])


@dataclass(frozen=True, eq=False)
class _Tiling:
    """Disjoint places of a pool."""

    pool: _Pool
    chosen: Indices
    is_proven: bool = False
    """Whether there is no better one in the pool, or none at all."""

    @property
    def losses(self) -> Array:
        return self.pool.losses[self.chosen]

    @property
    def information(self) -> float:
        return round(information(np.exp(-self.losses)), 12)

    @property
    def cost(self) -> tuple[int, int, int]:
        return self.pool.candidate.cost


def _check(gap: int, ratio: float, seeds: Sequence[int], time_limit: float) -> None:
    number_of_qubits("gap", gap)
    if not 0 < ratio <= 1:
        raise ValueError(f"min_fidelity_ratio must be above 0 and at most 1; got {ratio!r}.")
    if not len(seeds):
        raise ValueError("Expected at least one seed of the transpiler; got none.")
    if not time_limit > 0:
        raise ValueError(f"time_limit must be a positive number of seconds; got {time_limit!r}.")


def _tile(
    circuit: QuantumCircuit,
    target: Target,
    goal: _Goal,
    seeds: Sequence[int],
    bad_qubits: Sequence[int],
    bad_edges: Sequence[Qargs],
) -> tuple[Placement, ...]:
    device = read_device(target, circuit.num_qubits, bad_qubits, bad_edges)
    sets = patches.candidate_sets(circuit, device, _SETS, spread=True)
    exclusions = _exclusions(device, goal.gap)

    def pooled(shape: Shape, seeds: Sequence[int]) -> _Pool:
        return _pool(patches.on_shape(circuit, device, shape, seeds), device, sets)

    def greedily(pools: Sequence[_Pool]) -> list[_Tiling]:
        limit = _limit(tried, goal)
        return [_greedy(pool.cut(limit), exclusions, goal) for pool in pools]

    shapes = _shapes(device, sets)
    tried = [pooled(shape, seeds[: patches.FIRST_SEEDS]) for shape in shapes]
    ranked = sorted(zip(greedily(tried), tried, strict=True), key=lambda each: _rank(each[0], goal))
    first = [pool for _, pool in ranked[: patches.FINALISTS]]
    first += [pool for _, pool in ranked[patches.FINALISTS :] if _is_path(pool.candidate.shape)]
    further = seeds[patches.FIRST_SEEDS :]
    second = [pooled(pool.candidate.shape, further) for pool in first] if further else []
    tried += second
    finalists = [
        _preferred(each, goal)
        for each in zip(*(greedily(pools) for pools in (first, second) if pools), strict=True)
    ]
    seconds = goal.time_limit / len(finalists)
    tilings = [_optimised(tiling, exclusions, goal, seconds) for tiling in finalists]
    best = _preferred(tilings, goal)
    if goal.num_patches is not None and len(best.chosen) < goal.num_patches:
        raise _too_few(circuit, goal, tilings)
    return _placements(best, device, circuit.name)


def _shapes(device: Device, sets: Sets) -> list[Shape]:
    """Those that `place` tries, and the path."""
    shapes = regions.group_by_shape(device, sets)
    tried, left = shapes[: patches.SHAPES], shapes[patches.SHAPES :]
    if any(_is_path(shape) for shape in tried):
        return tried
    if paths := [shape for shape in left if _is_path(shape)]:
        return tried + paths
    edges = tuple(itertools.pairwise(range(sets.shape[1])))
    embeddings, _ = regions.spanning_embeddings(device, sets, edges)
    return [*tried, Shape(edges, embeddings)] if len(embeddings) else tried


def _is_path(shape: Shape) -> bool:
    ends = [wire for edge in shape.edges for wire in edge]
    is_open = len(shape.edges) <= max(len(set(ends)) - 1, 0)  # connected, so a tree
    return is_open and all(ends.count(wire) <= 2 for wire in ends)


def _pool(candidate: Candidate, device: Device, sets: Sets) -> _Pool:
    circuit = candidate.circuit
    edges = {(min(w), max(w)) for _, w in regions.gates_of(circuit) if len(w) == 2}
    embeddings, which = regions.spanning_embeddings(device, sets, edges)
    profile = regions.profile(circuit, device.durations)
    losses = regions.predicted_losses(device, profile, embeddings)
    order = np.lexsort((np.round(losses, 12), which))  # the first of equals, whatever the last bit
    _, first = np.unique(which[order], return_index=True)
    best = order[first]
    return _Pool(candidate, embeddings[best], losses[best])


def _limit(pools: Iterable[_Pool], goal: _Goal) -> float:
    best = min(float(pool.losses.min(initial=np.inf)) for pool in pools)
    return best - math.log(goal.min_fidelity_ratio)


def _exclusions(device: Device, gap: int) -> Mask:
    """(R, N): groups of qubits of which two patches may not each use one.

    Two qubits at a distance of at most `gap` are in one group: the ball around the middle of the
    way between them, which is a qubit or, for an odd gap, a coupling.
    """
    size = device.num_qubits
    joined = device.coupled.copy()
    for pair in device.target.qargs or ():  # couplings that do not work transmit crosstalk too
        if pair is not None and len(pair) == 2:
            joined[pair] = joined[pair[::-1]] = True
    balls = np.eye(size, dtype=bool)
    for _ in range(min(gap // 2, size)):
        balls = balls | (balls.astype(np.float32) @ joined.astype(np.float32) > 0)
    if gap % 2 == 0:
        return balls
    first, second = np.nonzero(np.triu(joined))
    return np.concatenate([balls[first] | balls[second], balls[~joined.any(1)]])


def _touched(pool: _Pool, exclusions: Mask) -> Mask:
    """(R, M) whether a place uses a qubit of a group."""
    return np.any(exclusions[:, pool.qubits], axis=2)


def _greedy(pool: _Pool, exclusions: Mask, goal: _Goal) -> _Tiling:
    """The better of two: the best places first, or those first that hinder the fewest others."""
    touched = _touched(pool, exclusions)
    overlap = touched.astype(np.float32)

    def by_loss(free: Mask) -> Array:
        return pool.losses

    def by_hindrance(free: Mask) -> Array:
        hindered = overlap.T @ (overlap @ free.astype(np.float32))
        return hindered.astype(np.float64) + 1e-6 * pool.losses

    ways = [_taken(touched, order) for order in (by_loss, by_hindrance)]
    return min((_Tiling(pool, _cut(pool, way, goal)) for way in ways), key=lambda t: _key(t, goal))


def _taken(touched: Mask, order: Callable[[Mask], Array]) -> Indices:
    """Places taken one by one, the first in an order, until none is free."""
    free = np.ones(touched.shape[1], bool)
    taken: list[int] = []
    while free.any():
        taken.append(int(np.argmin(np.where(free, np.round(order(free), 12), np.inf))))
        free &= ~touched[touched[:, taken[-1]]].any(0)
    return np.array(taken, np.int64)


def _cut(pool: _Pool, chosen: Indices, goal: _Goal) -> Indices:
    """No more than are wanted, or than are worth it, the best first."""
    best_first = chosen[np.argsort(np.round(pool.losses[chosen], 12), kind="stable")]
    if goal.num_patches is not None or not len(chosen):
        return best_first[: goal.num_patches]
    worth = _informations(np.exp(-pool.losses[best_first]))
    return best_first[: int(np.argmax(np.round(worth, 12))) + 1]


def _key(tiling: _Tiling, goal: _Goal) -> tuple[int, float]:
    """What is minimised on one shape."""
    count = len(tiling.chosen)
    if goal.num_patches is None:
        return 0, -tiling.information
    if goal.num_patches == count:
        return -count, round(float(tiling.losses.sum()), 12)
    return -count, -tiling.information


def _rank(tiling: _Tiling, goal: _Goal) -> tuple[int, float, tuple[int, int, int]]:
    """Of a shape among others: by information, where all have as many patches as are wanted."""
    missing = 0 if goal.num_patches is None else goal.num_patches - len(tiling.chosen)
    return missing, -tiling.information, tiling.cost


def _preferred(tilings: Sequence[_Tiling], goal: _Goal) -> _Tiling:
    """The shortest circuit of those whose tilings are predicted to be about equally good.

    As `place` has it: losses up to `patches.NEARLY` times the best one count as equal, here of the
    mean patch. Where a number of patches is wanted, fewer than another shape has are no choice.
    """
    if goal.num_patches is not None:
        most = max(len(tiling.chosen) for tiling in tilings)
        tilings = [tiling for tiling in tilings if len(tiling.chosen) == most]
    best = max(tilings, key=lambda tiling: tiling.information)
    mean_square = best.information / max(len(best.chosen), 1)  # the harmonic mean
    enough = best.information * mean_square ** (patches.NEARLY - 1)
    nearly = (tiling for tiling in tilings if tiling.information >= enough)
    return min(nearly, key=lambda tiling: (tiling.cost, -tiling.information))


def _optimised(tiling: _Tiling, exclusions: Mask, goal: _Goal, seconds: float) -> _Tiling:
    """The better of a tiling and of what integer programs find in its pool."""
    until = time.monotonic() + seconds
    scales = _SCALES if goal.num_patches is None else _SCALES[:1]
    left = list(scales)
    while left and (now := time.monotonic()) < until:
        better = _programmed(tiling, exclusions, goal, until - now, left.pop(0))
        if goal.num_patches is None and _key(better, goal) < _key(tiling, goal):
            left = list(scales)
        tiling = better
    return tiling


def _programmed(
    tiling: _Tiling, exclusions: Mask, goal: _Goal, seconds: float, scale: float
) -> _Tiling:
    """The better of a tiling and of what an integer program finds in its pool.

    Args:
        tiling: to begin with.
        exclusions: see `_exclusions`.
        goal: of the program.
        seconds: that it may take.
        scale: of what a poor patch is charged, where no number of patches is wanted.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # a slow import
    from scipy.sparse import csr_array

    pool = tiling.pool
    if not len(pool.losses):
        return replace(tiling, is_proven=True)
    if goal.num_patches is None:
        # The information, J^2 / S with S the sum of 1/F^2, is the largest value that 2tJ - t^2 S
        # has for any t, at t = J/S. With this tiling's t a sum over patches is left to maximise,
        # and what has more of it has more information as well. Others may have it at another t.
        inverse = np.exp(2 * (pool.losses - tiling.losses.min()))
        worth = 2 - scale * inverse / inverse[tiling.chosen].mean()
        kept = np.flatnonzero(worth > 0)
    else:
        # One patch more is worth more than all qualities together, which are at most 1 each.
        spread = max(float(np.ptp(pool.losses)), 1e-9)
        worth = 1 + (pool.losses.max() - pool.losses) / spread / (goal.num_patches + 1)
        kept = np.arange(len(worth))
    touched = np.unique(_touched(pool, exclusions)[:, kept], axis=0).astype(np.float64)
    limits = [LinearConstraint(csr_array(touched), ub=1)]
    if goal.num_patches is not None:
        limits.append(LinearConstraint(np.ones((1, len(kept))), ub=goal.num_patches))
    found = milp(
        -np.round(worth[kept], 9),
        constraints=limits,
        integrality=np.ones(len(kept), np.int64),
        bounds=Bounds(0, 1),
        options={"time_limit": seconds, "mip_rel_gap": 1e-5},
    )
    is_proven = found.status == 0
    if found.x is None:
        return tiling
    chosen = _cut(pool, kept[found.x > 0.5], goal)
    better = min((replace(tiling, chosen=chosen), tiling), key=lambda t: _key(t, goal))
    return replace(better, is_proven=is_proven)


def _too_few(circuit: QuantumCircuit, goal: _Goal, tilings: Sequence[_Tiling]) -> PatchesError:
    fit = max(len(tiling.chosen) for tiling in tilings)
    is_proven = all(tiling.is_proven for tiling in tilings)
    stopped = "" if is_proven else f" until the search was stopped after {goal.time_limit:g} s"
    raised = "" if is_proven else "raise time_limit, "
    gap = "or gap, " if goal.gap else ""
    return PatchesError(
        f"Expected {goal.num_patches} disjoint patches for the {circuit.num_qubits} qubits of "
        f"{circuit.name!r}; found {fit} with gap={goal.gap} and "
        f"min_fidelity_ratio={goal.min_fidelity_ratio:g}{stopped}. Ask for at most {fit} (None: as "
        f"many as are worth it), {raised}lower min_fidelity_ratio, {gap}or use a larger backend."
    )


def _placements(tiling: _Tiling, device: Device, name: str) -> tuple[Placement, ...]:
    """Patches with circuits in the gates and directions that their very qubits have."""
    sets = np.sort(tiling.pool.qubits[tiling.chosen], axis=1)
    pool = _pool(tiling.pool.candidate, device, sets)  # of fewer sets, more ways are compared
    order = np.lexsort((*pool.qubits.T[::-1], np.round(pool.losses, 12)))
    circuits: list[QuantumCircuit] = []
    placements = []
    for qubits in pool.qubits[order]:
        at = tuple(int(q) for q in qubits)
        part = restrict_target(device.target, at)
        circuit = next((known for known in circuits if is_isa(known, part)), None)
        if circuit is None:
            circuit = patches.finished(replace(pool.candidate, qubits=at), device, name).circuit
            circuits.append(circuit)
        profile = regions.profile(circuit, device.durations)
        (loss,) = regions.predicted_losses(device, profile, qubits[None])
        patch = Patch(at, math.exp(-loss))
        placements.append(Placement(circuit, pool.candidate.final, patch))
    return tuple(sorted(placements, key=lambda each: -round(each.patch.fidelity, 12)))


def _store(folder: Path, key: str, tiling: Sequence[Placement]) -> None:
    """One entry for each different circuit; the first one's tells the rest."""
    circuits = list({id(each.circuit): each.circuit for each in tiling}.values())
    which = {id(circuit): i for i, circuit in enumerate(circuits)}
    data = {
        "circuits": len(circuits),
        "final": tiling[0].final,
        "patches": [
            [each.patch.qubits, each.patch.fidelity, which[id(each.circuit)]] for each in tiling
        ],
    }
    for i, circuit in reversed(list(enumerate(circuits))):
        placement_cache.store(folder, _entry(key, i), circuit, {} if i else data)


def _load(folder: Path, key: str, template: QuantumCircuit) -> tuple[Placement, ...] | None:
    first = placement_cache.load(folder, _entry(key, 0), template)
    if first is None:
        return None
    circuit, data = first
    circuits = [circuit]
    try:
        for i in range(1, data["circuits"]):
            found = placement_cache.load(folder, _entry(key, i), template)
            if found is None:
                return None
            circuits.append(found[0])
        return tuple(
            Placement(circuits[i], tuple(data["final"]), Patch(tuple(qubits), fidelity))
            for qubits, fidelity, i in data["patches"]
        )
    except (KeyError, TypeError, ValueError, IndexError):  # another kind of entry is none
        return None


def _entry(key: str, index: int) -> str:
    return f"{key}-{index}" if index else key
