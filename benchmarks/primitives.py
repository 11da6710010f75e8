"""The estimator engine against the stock `TorchConnector(EstimatorQNN)`, both on noiseless Aer.

Both layers give one kernel's exact values for the same pixels, and both sides' primitives are
counted. `stock` asks the very estimator that our engine asks (`AerEstimator`), so that the ratio is
that of what they ask for; `stock, EstimatorV2` asks Aer's own. The stock network's inputs are our
encoder's angles (computing them is not timed), since with Qiskit's own amplitude encoding,
`raw_feature_vector`, gradients fail, see below. So it has gradients by weights only, where a
training step of ours also has those by pixels; ours is given with and without. Step: forward and
backward.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from qiskit.primitives import StatevectorEstimator
from qiskit_aer.primitives import EstimatorV2
from qiskit_machine_learning.circuit.library import raw_feature_vector
from qiskit_machine_learning.gradients import ParamShiftEstimatorGradient
from qiskit_machine_learning.neural_networks import EstimatorQNN

from benchmarks.common import Figure, Report, Settings, Table, interleaved
from benchmarks.common import torch_threads as threads
from benchmarks.stock_peer import SpyingEstimator, stock_inputs, stock_layer
from benchmarks.workload import Workload
from qpc_qiskit import EstimatorEngine, PointwiseConnector
from qpc_qiskit.backends.aer import AerEstimator
from qpc_qiskit.circuits.ansatz import make_ansatz

QUBITS = (2, 4, 6)
FORWARD_PIXELS = 64
STEP_PIXELS = {2: 8, 4: 4, 6: 2}
"""By n: few, since the stock layer takes seconds for each."""
TOLERANCE = 1e-5
"""The stock layer works in float32."""
STOCK, AERS_OWN = "stock", "stock, EstimatorV2"


def run(settings: Settings) -> Report:
    seconds = Table("Seconds for all pixels of one kernel")
    asked = Table("What the primitives were asked for")
    report = Report("Estimator engine against EstimatorQNN on Aer", [seconds, asked])
    with threads(settings.threads):
        for n in settings.pick(QUBITS, QUBITS[:1]):
            _measure(n, settings, seconds, asked)
            print(*seconds.rows[-3:], sep="\n", flush=True)
    for row in asked.rows:
        report.figures.append(
            Figure(f"executions, {row['pass']}, n = {row['n']}, {row['pixels']} pixels",
                   f"= {row['formula']}", f"{row['executions']:,}", row["as predicted"] == "yes")
        )  # fmt: skip
    report.notes = [
        __doc__.split("\n\n", 1)[1].replace("\n", " ").strip(),
        "executions: rows of all PUBs; R rotations in a kernel, C = 2**n channels, N pixels, "
        "K = 1 kernel. Ours runs every row (`dedupe_grid=None`); rows whose factor is zero are not "
        "sent, of which these pixels have none.",
        f"`EstimatorQNN` with `raw_feature_vector`: {_amplitude_encoding()}",
    ]
    return report


def _measure(n: int, settings: Settings, seconds: Table, asked: Table) -> None:
    work = Workload(channels=2**n, kernels=1, qubits=n, dtype=torch.float64)
    few, many = settings.pick((STEP_PIXELS[n], FORWARD_PIXELS), (2, 4))
    pixels, cotangent = work.pixels(many), work.cotangent(few).flatten(1)
    spies = {
        "ours": SpyingEstimator(AerEstimator()),
        STOCK: SpyingEstimator(AerEstimator()),
        AERS_OWN: SpyingEstimator(EstimatorV2()),
    }
    work.layer.engine = EstimatorEngine(spies["ours"], dedupe_grid=None)
    stocks = {name: stock_layer(work, 0, spies[name]) for name in (STOCK, AERS_OWN)}
    angles = stock_inputs(work, 0, pixels)

    def ours(passes: str) -> tuple[torch.Tensor, ...]:
        if passes == "forward":
            with torch.no_grad():
                return (PointwiseConnector.forward(work.layer, pixels),)
        leaf = pixels[:few].detach().requires_grad_("pixels" in passes)
        work.layer.weight.grad = None
        features = PointwiseConnector.forward(work.layer, leaf)
        features.backward(cotangent)
        return features.detach(), work.layer.weight.grad[0], leaf.grad

    def theirs(name: str, passes: str) -> tuple[torch.Tensor, ...]:
        stock = stocks[name]
        if passes == "forward":
            with torch.no_grad():
                return (stock(angles),)
        stock.weight.grad = None
        features = stock(angles[:few])
        features.backward(cotangent.to(features.dtype))
        return features.detach(), stock.weight.grad

    rotations, channels = work.spec.ansatz.num_angles, work.channels
    passes = {
        "forward": ("N K", many),
        "step (weights)": ("N K (1 + 2R)", few * (1 + 2 * rotations)),
        "step (weights, pixels)": ("N K (1 + 2R + 2C)", few * (1 + 2 * rotations + 2 * channels)),
    }
    differences = {name: _assert_agreement(ours, theirs, name) for name in stocks}
    timings = interleaved(
        {(who, p): _call(ours, theirs, who, p) for p in passes for who in _sides(p)},
        rounds=settings.pick(5, 1),
        min_rounds=settings.pick(2, 1),
        budget_seconds=settings.pick(60, 5),
        slice_seconds=0.2,
        warm_up=False,  # the comparison has run all
    )
    best = {key: timing.best for key, timing in timings.items()}
    for p, (formula, expected) in passes.items():
        case = {"n": n, "pass": p, "pixels": many if p == "forward" else few}
        their_pass = "forward" if p == "forward" else "step (weights)"
        fastest = min(best[name, their_pass] for name in stocks)
        seconds.rows.append(
            {
                **case,
                "ours": best["ours", p],
                **{name: best[name, their_pass] for name in stocks},
                "stock / ours": best[STOCK, their_pass] / best["ours", p],
                "fastest stock / ours": fastest / best["ours", p],
                "largest difference": max(differences.values()),
                "median / best": max(timings[who, p].median / best[who, p] for who in _sides(p)),
            }
        )
        mine = spies["ours"].counts(lambda p=p: ours(p))
        stock = spies[STOCK].counts(lambda p=their_pass: theirs(STOCK, p))
        asked.rows.append(
            {
                **case,
                "jobs": mine.jobs,
                "PUBs": mine.pubs,
                "executions": mine.executions,
                "formula": formula,
                "as predicted": "yes" if mine.executions == expected else f"no: {expected}",
                "stock jobs": stock.jobs,
                "stock PUBs": stock.pubs,
                "stock executions": stock.executions,
                "stock / our executions": stock.executions / mine.executions,
            }
        )


def _sides(passes: str) -> tuple[str, ...]:
    """The stock layer has no gradients by pixels: its step is that by weights."""
    return ("ours",) if "pixels" in passes else ("ours", STOCK, AERS_OWN)


def _call(ours, theirs, who: str, passes: str):
    return (lambda: ours(passes)) if who == "ours" else (lambda: theirs(who, passes))


def _assert_agreement(ours, theirs, name: str) -> float:
    """Largest difference of values, and of gradients by weights in units of the largest."""
    mine = *ours("forward"), *ours("step (weights, pixels)")[:2]
    stock = *theirs(name, "forward"), *theirs(name, "step (weights)")
    largest = 0.0
    for what, a, b in zip(("values", "values", "gradient by weights"), mine, stock, strict=True):
        scale = 1.0 if what == "values" else float(a.abs().max())
        difference = float((a - b).abs().max()) / scale
        if not (math.isfinite(difference) and difference < TOLERANCE):
            raise AssertionError(f"{name} disagrees on {what}: {difference:.1e}")
        largest = max(largest, difference)
    return largest


def _amplitude_encoding() -> str:
    """What comes of Qiskit's own amplitude encoding: texts of errors."""
    features, ansatz = raw_feature_vector(4), make_ansatz("strongly_entangling", 2, 1)
    told = []
    for estimator in (EstimatorV2(), StatevectorEstimator()):
        network = EstimatorQNN(
            circuit=features.compose(ansatz.circuit),
            estimator=estimator,
            input_params=list(features.parameters),
            weight_params=list(ansatz.parameters),
            gradient=ParamShiftEstimatorGradient(estimator),
            default_precision=0.0,
        )
        for name in ("forward", "backward"):
            try:
                getattr(network, name)(np.full((1, 4), 0.5), np.zeros(len(ansatz.parameters)))
                outcome = "runs"
            except Exception as error:  # noqa: BLE001 - its text is what is wanted
                outcome = f"`{type(error).__name__}: {' '.join(str(error).split())}`"
            told.append(f"{name} with {type(estimator).__name__}: {outcome}")
    return "; ".join(told) + "."
