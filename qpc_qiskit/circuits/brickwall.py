"""The brickwall encoder: a shallow circuit whose angles are fitted to each pixel's direction.

RY on every qubit, then layers of CZ(a, a+1) RY(a) RY(a+1) on alternate pairs of neighbours. On six
qubits its two-qubit depth is 13, against 57 gates one after another in the exact multiplexor. The
price is a fit for every direction, which ends within a tolerance. An infidelity
1 - <state|direction>**2 moves no feature by more than `error_bound` of it.

A fit without `known` angles does not depend on what stands beside a direction in the batch, nor on
the number of threads, but for rounding, which a descent magnifies: angles move by some 1e-4, and of
a few directions more. With `known` angles it also depends on what is known.

Should a fit fail, `Encoder.fallback` names what to take instead: a brickwall that is two layers
deeper, and after one that is deeper than usual the multiplexor. The deeper one prepares whatever
the other does: CZ gates do nothing to |0...0>, so the first rotations may as well stand behind the
CZ gates of two layers more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from torch import Tensor

from qpc_qiskit.circuits.brickwall_fit import Brickwall, Fitter
from qpc_qiskit.circuits.encoder import PARAMETER_NAME, Encoded, Encoder
from qpc_qiskit.common.threads import run_in_workers, split_ranges
from qpc_qiskit.options.economy import BRICKWALL, ENCODERS

DEPTHS = {1: 0, 2: 1, 3: 3, 4: 5, 5: 8, 6: 13, 7: 22}
"""Number of qubits -> layers from which on every direction is reached."""
TOLERANCE = 1e-8
"""Infidelity at which a fit ends: no feature is wrong by more than 2e-4."""
FAILURE = 1e-5
"""Infidelity beyond which a fit has failed: a feature may be wrong by more than 6e-3."""
RESTARTS = 8
MAX_ITERATIONS = 40
WARM_OVERLAP = 0.5
"""|<known|direction>| from which on the known angles are a better start than the fixed one."""
FLOAT32_TOLERANCE = 1e-9
"""Down to it a fit in float32 is enough; beyond, float64 takes over from there."""
LEAST_PIXELS = 32
"""For one worker."""
SEARCHED_PIXELS = 256
"""Pixels whose overlaps with all known directions are computed at a time."""
WINDOW_NUMBERS = 2**20
"""Derivatives of the pixels that are at work together, about."""
STARTS_SEED = 5
"""Of the common starting angles: that with the fewest iterations among forty."""

Progress = Callable[[int, int], None]
"""Called with the number of pixels that are done, and of all."""


@dataclass(frozen=True, eq=False)
class Known:
    """Directions whose angles are known, to start from."""

    directions: Tensor
    """(M, C) unit vectors, float64."""
    angles: Tensor
    """(M, E) radians, float64."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Angles of a batch of directions."""

    angles: Tensor
    """(N, E) radians, float64: the best that were found."""
    infidelity: Tensor
    """(N,) float64, 1 - <state|direction>**2, computed from these angles in float64."""
    num_warm: int
    """Pixels that started from known angles."""
    num_restarted: int
    """Pixels that were not within tolerance after their first start."""
    num_iterations: Tensor
    """(N,) int64, over all starts."""

    @property
    def failed(self) -> Tensor:
        """Indices of the pixels beyond `FAILURE`, int64."""
        return torch.nonzero(self.infidelity > FAILURE)[:, 0]


class AngleCache:
    """Fitted angles by direction, so that no direction is fitted twice; the oldest use goes first.

    Safe to share between threads, and between brickwalls of different shapes.

    Args:
        capacity: number of directions that it holds at most.
        warms: whether new fits start from the nearest direction in it: faster, and their last bits
            depend on what was fitted before.

    Raises:
        ValueError: capacity below 1.
    """

    def __init__(self, capacity: int = 8192, *, warms: bool = True) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity!r}.")
        self.capacity, self.warms = capacity, warms
        self._rows: OrderedDict[_Key, _Row] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> tuple[Callable[[], AngleCache], tuple[()]]:
        """A copy begins empty: it is a cache."""
        return partial(AngleCache, self.capacity, warms=self.warms), ()

    def get(self, keys: Iterable[_Key]) -> dict[_Key, _Row]:
        """Those of the directions that are here; they are now the ones used last."""
        with self._lock:
            found = {key: self._rows[key] for key in keys if key in self._rows}
            for key in found:
                self._rows.move_to_end(key)
            return found

    def put(self, key: _Key, row: _Row) -> None:
        """Keep the row of a direction."""
        with self._lock:
            self._rows[key] = row
            self._rows.move_to_end(key)
            while len(self._rows) > self.capacity:
                self._rows.popitem(last=False)

    def known(self, shape: Brickwall) -> Known | None:
        """All directions of one shape whose fit succeeded; None: there are none."""
        with self._lock:
            rows = [row for key, row in self._rows.items() if key[0] == shape]
        rows = [row for row in rows if row.infidelity <= FAILURE]
        if not rows:
            return None
        return Known(
            torch.stack([row.direction for row in rows]), torch.stack([row.angles for row in rows])
        )


@dataclass(frozen=True, eq=False)
class _Row:
    """What a cache keeps of a direction, on the CPU."""

    direction: Tensor
    angles: Tensor
    infidelity: float


_Key = tuple[Brickwall, bytes]


def brickwall(
    num_qubits: int,
    depth: int | None = None,
    *,
    cache: AngleCache | None = None,
    on_progress: Progress | None = None,
) -> Encoder:
    """RY on every qubit, then layers of CZ and RY on neighbours, with fitted angles.

    Args:
        num_qubits: 1 to 7; beyond, fits take too long and the circuit is too deep.
        depth: layers; None: as many as every direction needs. With fewer, fits fail.
        cache: where fitted angles are kept and new fits find their starts; None: nowhere.
        on_progress: see `fit`.

    Raises:
        ValueError: an argument is out of range.
    """
    shape = checked_shape(num_qubits, depth)
    encoder = _brickwall(shape)
    if cache is None and on_progress is None:
        return encoder
    encoding = partial(encode, shape=shape, cache=cache, on_progress=on_progress)
    return replace(encoder, encode=encoding)


def checked_shape(num_qubits: int, depth: int | None = None) -> Brickwall:
    """The gates of a brickwall.

    Raises:
        ValueError: an argument is out of range.
    """
    if num_qubits not in DEPTHS:
        raise ValueError(
            f"The brickwall encoder takes 1 to {max(DEPTHS)} qubits, got {num_qubits!r}. Use the "
            "multiplexor, or a layer with fewer input channels."
        )
    if depth is None:
        depth = DEPTHS[num_qubits]
    elif depth < 0 or (num_qubits == 1 and depth):
        raise ValueError(
            f"depth must be 0 for one qubit and at least 0 for more, got {depth!r} for "
            f"{num_qubits}."
        )
    return Brickwall(num_qubits, depth)


@cache
def _brickwall(shape: Brickwall) -> Encoder:
    angles = ParameterVector(PARAMETER_NAME, shape.num_angles)
    circuit = QuantumCircuit(shape.num_qubits, name="brickwall")
    angle = iter(angles)
    for qubits, pairs in zip(shape.rotated, ((), *shape.pairs), strict=True):
        for a in pairs:
            circuit.cz(a, a + 1)
        for qubit in qubits:
            circuit.ry(next(angle), qubit)
    usual = DEPTHS[shape.num_qubits]
    return Encoder(
        BRICKWALL if shape.depth == usual else f"{BRICKWALL}:{shape.depth}",
        circuit,
        tuple(angles),
        partial(encode, shape=shape),
        fallback=ENCODERS[0]
        if shape.depth > usual or shape.num_qubits == 1
        else f"{BRICKWALL}:{shape.depth + 2}",
    )


def encode(
    directions: Tensor,
    shape: Brickwall,
    cache: AngleCache | None = None,
    on_progress: Progress | None = None,
) -> Encoded:
    """Angles of a brickwall for canonical directions, equal ones fitted once.

    Args:
        directions: (N, C) unit vectors, C <= 2**n; missing channels are zero.
        shape: the gates.
        cache: directions in it are not fitted again; others are put in, and start from the nearest
            in it if it `warms`.
        on_progress: see `fit`; not told if nothing is to be fitted.
    """
    padded = _checked(directions, shape)
    rows = padded.cpu()
    keys: list[_Key] = [(shape, row.tobytes()) for row in rows.numpy()]
    places: dict[_Key, int] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, place)
    found = {} if cache is None else cache.get(places)
    new = [key for key in places if key not in found]
    wanted = rows[[places[key] for key in new]].to(directions.device)
    known = cache.known(shape) if cache is not None and cache.warms else None
    told = on_progress if new else None
    done = fit(wanted, shape.num_qubits, shape.depth, known=known, on_progress=told)
    fitted = zip(new, wanted.cpu(), done.angles.cpu(), done.infidelity.tolist(), strict=True)
    for key, direction, angle_row, infidelity in fitted:
        # Clones: a view would keep the whole batch in memory.
        row = found[key] = _Row(direction.clone(), angle_row.clone(), infidelity)
        if cache is not None:
            cache.put(key, row)
    angles = [rows.new_empty(0, shape.num_angles), *(found[key].angles[None] for key in keys)]
    infidelities = torch.tensor([found[key].infidelity for key in keys], dtype=torch.float64)
    return Encoded(
        torch.cat(angles).to(directions.device),
        infidelities.to(directions.device),
        done.num_restarted,
        int((infidelities > FAILURE).sum()),
    )


def error_bound(infidelity: Tensor) -> Tensor:
    """How far any feature <Z> may lie from that of the exact direction: 2 * sqrt(infidelity).

    Two pure states are a trace distance of sqrt(1 - F) apart, and Z has eigenvalues -1 and 1.
    """
    return 2 * infidelity.clamp(min=0).sqrt()


@torch.no_grad()
def fit(
    directions: Tensor,
    num_qubits: int,
    depth: int | None = None,
    *,
    known: Known | None = None,
    warm_overlap: float = WARM_OVERLAP,
    tolerance: float = TOLERANCE,
    restarts: int = RESTARTS,
    max_iterations: int = MAX_ITERATIONS,
    on_progress: Progress | None = None,
) -> Fit:
    """Angles of a brickwall for each direction.

    A pixel starts from the angles of the known direction nearest to it, up to sign, if that is near
    enough; otherwise from angles that are the same for all. A pixel that is not within tolerance
    then starts again from other such angles, and so on; the best end counts.

    Args:
        directions: (N, C) unit vectors, C <= 2**n, float32 or float64; missing channels are zero.
        num_qubits: n.
        depth: layers; None: as many as every direction needs.
        known: directions with their angles, for this n and depth.
        warm_overlap: |<known|direction>| from which on a pixel starts from known angles.
        tolerance: infidelity at which a pixel is done.
        restarts: at most so many for a pixel.
        max_iterations: of one start.
        on_progress: told of pixels within tolerance, perhaps from another thread but never by two
            at once; at the end that all are done.

    Returns:
        The fit, on the device of `directions`.

    Raises:
        ValueError: an argument is out of range, or a direction is no unit vector.
    """
    shape = checked_shape(num_qubits, depth)
    _check_bounds(tolerance, restarts, max_iterations)
    wanted = _checked(directions, shape)
    done = _Counter(len(wanted), on_progress)
    starts = _starts(shape, restarts + 1).to(wanted.device)
    # Zero pixels are |0...0>, which needs no rotation.
    first, num_warm = torch.where(wanted[:, :1] == 1, 0.0, starts[0]), 0
    if known is not None:
        first, num_warm = _nearest(wanted, shape, known, first, warm_overlap)
    attempt = partial(
        _attempt, shape=shape, tolerance=tolerance, max_iterations=max_iterations, done=done
    )
    angles, infidelity, iterations = attempt(wanted, first)
    left = torch.nonzero(infidelity > tolerance)[:, 0]
    num_restarted = len(left)
    # A warm start that failed has the common start still before it.
    for start in starts if num_warm else starts[1:]:
        if len(left) == 0:
            break
        new_angles, new_infidelity, more = attempt(wanted[left], start.expand(len(left), -1))
        iterations[left] += more
        is_better = new_infidelity < infidelity[left]
        angles[left[is_better]] = new_angles[is_better]
        infidelity[left[is_better]] = new_infidelity[is_better]
        left = left[new_infidelity > tolerance]
    done.finish()
    return Fit(angles, infidelity, num_warm, num_restarted, iterations)


def _attempt(
    directions: Tensor,
    starts: Tensor,
    *,
    shape: Brickwall,
    tolerance: float,
    max_iterations: int,
    done: _Counter,
) -> tuple[Tensor, Tensor, Tensor]:
    """Angles (N, E), infidelities (N,) and iterations (N,) from one start for each direction."""
    precisions = [(torch.float32, max(tolerance, FLOAT32_TOLERANCE))]
    if tolerance < FLOAT32_TOLERANCE:
        precisions.append((torch.float64, tolerance))
    window = min(4096, max(64, WINDOW_NUMBERS // (shape.num_angles * 2**shape.num_qubits)))

    def work(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        wanted, angles = directions[part], starts[part]
        iterations = torch.zeros(len(wanted), dtype=torch.int64, device=wanted.device)
        for dtype, goal in precisions:
            found = Fitter(shape, dtype, wanted.device).descend(
                wanted,
                angles,
                tolerance=goal / 2,  # of the squared residual, with room for its rounding
                max_iterations=max_iterations,
                window=window,
                on_done=done.add if goal == precisions[-1][1] else _ignore,
            )
            angles, iterations = found.angles, iterations + found.num_iterations
        angles = angles.to(torch.float64)
        return angles, infidelity_of(wanted, angles, shape), iterations

    ranges = split_ranges(len(directions), LEAST_PIXELS, directions.device)
    angles, infidelity, iterations = zip(
        *run_in_workers(work, ranges, directions.device), strict=True
    )
    return torch.cat(angles), torch.cat(infidelity), torch.cat(iterations)


def infidelity_of(directions: Tensor, angles: Tensor, shape: Brickwall) -> Tensor:
    """1 - <state|direction>**2 for unit vectors (N, 2**n) and angles (N, E), float64."""
    states = Fitter(shape, torch.float64, angles.device).states(angles)
    sign = torch.where((states * directions).sum(1, keepdim=True) < 0, -1.0, 1.0)
    distance = (states - sign * directions).square().sum(1)  # without the cancellation of 1 - F
    return distance * (1 - distance / 4)


def _nearest(
    directions: Tensor, shape: Brickwall, known: Known, otherwise: Tensor, warm_overlap: float
) -> tuple[Tensor, int]:
    """Starting angles (N, E), and how many of them are known ones."""
    at = directions.device
    others = _checked(known.directions.to(at), shape)
    if known.angles.shape != (len(others), shape.num_angles):
        raise ValueError(
            f"Expected known angles of shape {(len(others), shape.num_angles)}, one row for each "
            f"known direction, got {tuple(known.angles.shape)}."
        )
    if len(others) == 0 or len(directions) == 0:
        return otherwise, 0
    searched, others = directions.to(torch.float32), others.to(torch.float32)
    overlaps, indices = zip(  # in parts: all overlaps at once may be gigabytes
        *((part @ others.T).abs().max(1) for part in searched.split(SEARCHED_PIXELS)), strict=True
    )
    is_near = torch.cat(overlaps) >= warm_overlap
    angles = known.angles.to(at, torch.float64)[torch.cat(indices)]
    return torch.where(is_near[:, None], angles, otherwise), int(is_near.sum())


def _starts(shape: Brickwall, count: int) -> Tensor:
    """(count, E) float64: angles drawn uniformly, the same every time.

    Starts with the greatest overlap, or the least predicted step, among hundreds were no better.
    """
    generator = torch.Generator().manual_seed(STARTS_SEED)
    uniform = torch.rand(count, shape.num_angles, generator=generator, dtype=torch.float64)
    return (2 * uniform - 1) * torch.pi


def _checked(directions: Tensor, shape: Brickwall) -> Tensor:
    """Directions (N, C) padded to (N, 2**n) float64, normalised to rounding.

    Raises:
        ValueError: not of that form.
    """
    size = 2**shape.num_qubits
    if directions.ndim != 2 or directions.shape[1] > size:
        raise ValueError(
            f"Expected directions (N, C) with at most {size} channels on {shape.num_qubits} "
            f"qubits, got shape {tuple(directions.shape)}."
        )
    padded = directions.to(torch.float64)
    padded = torch.nn.functional.pad(padded, (0, size - directions.shape[1]))
    norm = torch.linalg.vector_norm(padded, dim=1)
    wrong = torch.nonzero(~((norm - 1).abs() <= 1e-4))  # NaN is wrong, too
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"Expected unit vectors, but direction {first} of {len(norm)} has norm "
            f"{float(norm[first]):.6g}. Use canonical_directions."
        )
    norm = torch.where((norm - 1).abs() <= 1e-13, 1.0, norm)  # canonical ones keep their bits
    return padded / norm[:, None] + 0.0  # no -0.0, which would be another key of the cache


def _check_bounds(tolerance: float, restarts: int, max_iterations: int) -> None:
    if not 1e-15 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 1e-15 and below 1, got {tolerance!r}.")
    if restarts < 0 or max_iterations < 1:
        raise ValueError(
            f"restarts must be at least 0 and max_iterations at least 1, got {restarts!r} and "
            f"{max_iterations!r}."
        )


class _Counter:
    """Pixels that are done, told to `on_progress` by one thread at a time."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self._total, self._on_progress = total, on_progress
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done = min(self._done + count, self._total)
            if self._on_progress is not None and count > 0 and self._done < self._total:
                self._on_progress(self._done, self._total)

    def finish(self) -> None:
        self._done = self._total
        if self._on_progress is not None:
            self._on_progress(self._total, self._total)


def _ignore(_: int) -> None:
    """Nobody counts the pixels of a first, coarser pass."""
