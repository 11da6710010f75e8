"""What noise-aware training buys: digits, trained clean and under noise, tested under both.

Every network is trained with the same options and data, several seeds each; the test images are the
same for all. *1,024 shots*: values drawn from the exact noisy distribution. *Aer*: the device's
noise through `EstimatorEngine`, shot by shot, on the first images only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.common import Figure, Report, Settings, Table
from benchmarks.common import torch_threads as threads
from noise_models.words import parse_noise
from qpc_qiskit import EstimatorEngine, use_engine
from qpc_qiskit.data.images import load
from qpc_qiskit.engines import NoisyEngine
from qpc_qiskit.grid.statistics import mean_interval, paired_test
from qpc_qiskit.nets import build_net, config_for
from qpc_qiskit.options.records import TrainConfig
from qpc_qiskit.training.evaluation import predict, score
from qpc_qiskit.training.trainer import train

NOISES = ("depolarizing:0.05", "depolarizing:0.1", "fake_torino")
DEVICE = "fake_torino"
SHOTS = 1024
SEEDS, AER_IMAGES = 8, 60
CLEAN = "clean"

Accuracies = dict[tuple[str, str], list[float]]
"""(trained under, tested under) -> of each seed."""


def run(settings: Settings) -> Report:
    noises = settings.pick(NOISES, NOISES[-1:])
    seeds = settings.pick(SEEDS, 2)
    found: Accuracies = {}
    with threads(settings.threads):
        for seed in range(seeds):
            for trained in (CLEAN, *noises):
                for tested, accuracy in _tested(settings, trained, noises, seed):
                    found.setdefault((trained, tested), []).append(accuracy)
                print(trained, seed, flush=True)
    report = Report("Noise-aware training", [_accuracies(found), _gains(found, noises)])
    report.figures = list(_figures(found, noises))
    report.notes = [
        " ".join(__doc__.split("\n\n", 1)[1].split()),
        f"{seeds} seeds; 95 % intervals are Student's, over seeds. p: Wilcoxon, of pairs with the "
        "same seed. The depolarizing noise follows every sx and x (one qubit) and cx (two); its "
        "number is Qiskit's parameter. The circuit has 4 qubits, 11 two-qubit gates in the encoder "
        "and 12 in the ansatz.",
    ]
    return report


def _tested(
    settings: Settings, trained: str, noises: tuple[str, ...], seed: int
) -> Iterator[tuple[str, float]]:
    """Train one network; what it is tested under, and its accuracy."""
    data = load("digits")
    noise = None if trained == CLEAN else trained
    config = TrainConfig(
        seed=seed,
        epochs=settings.pick(20, 1),
        **({} if noise is None else {"engine": "noisy", "noise": noise}),
    )
    net = build_net(config_for(data), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        engine = None if noise is None else NoisyEngine(parse_noise(noise))
        train(net, data, config, Path(folder) / "run", progress=False, engine=engine)

    def accuracy(engine: object, count: int | None = None) -> float:
        images, labels = data.test_images[:count], data.test_labels[:count]
        with use_engine(net, engine):
            return score(predict(net, images, 64), labels).accuracy

    yield "no noise", accuracy("exact")
    for word in noises:
        made = parse_noise(word)
        yield word, accuracy(NoisyEngine(made))
        yield f"{word}, {SHOTS:,} shots", accuracy(NoisyEngine(made, shots=SHOTS, seed=seed))
    if trained in (CLEAN, DEVICE):
        count = settings.pick(AER_IMAGES, 4)
        with EstimatorEngine.from_backend("aer", noise_model=DEVICE, shots=SHOTS, seed=seed) as aer:
            yield f"{DEVICE} through Aer, {SHOTS:,} shots, {count} images", accuracy(aer, count)


def _accuracies(found: Accuracies) -> Table:
    tests = list(dict.fromkeys(tested for _, tested in found))
    rows = []
    for tested in tests:
        row: dict[str, object] = {"tested under": tested}
        for trained in dict.fromkeys(trained for trained, _ in found):
            values = found.get((trained, tested))
            row[f"trained {'clean' if trained == CLEAN else f'under {trained}'}"] = (
                "-" if values is None else _text(values)
            )
        rows.append(row)
    return Table("Test accuracy, %", rows)


def _gains(found: Accuracies, noises: tuple[str, ...]) -> Table:
    """Trained under a noise against trained clean, tested under that noise."""
    rows = []
    for word in noises:
        for tested in (word, f"{word}, {SHOTS:,} shots", "no noise"):
            aware, clean = found[word, tested], found[CLEAN, tested]
            test = paired_test(aware, clean)
            rows.append(
                {
                    "trained under": word,
                    "tested under": tested,
                    "gain over clean training": _text(np.subtract(aware, clean)),
                    "p": "-" if test is None else f"{test.p_value:.3g}",
                }
            )
    return Table("What training under the noise gains, percentage points", rows)


def _text(values: object) -> str:
    found = mean_interval(100 * np.asarray(values))
    return f"{found.mean:.1f} ({found.low:.1f} to {found.high:.1f})"


def _figures(found: Mapping[tuple[str, str], list[float]], noises: tuple[str, ...]) -> Iterator:
    for word in noises:
        gain = mean_interval(100 * np.subtract(found[word, word], found[CLEAN, word]))
        yield Figure(
            f"gain under {word}, percentage points", "lower end > 0",
            f"{gain.mean:.1f} ({gain.low:.1f} to {gain.high:.1f})", gain.low > 0,
        )  # fmt: skip
