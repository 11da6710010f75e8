"""How good a run's predictions are, beside the exact engine, noiseless Aer and a noisy copy.

All of them evaluate the same images, those of which every value was measured; simulations that
would take long evaluate the first of these, and every figure tells of how many images it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardware_runs.checkpoints.checkpoint_runs import DIGEST, Work
from hardware_runs.durable_engine.beginning import digest_of
from hardware_runs.durable_engine.status import noise_of
from hardware_runs.ledger import Run
from hardware_runs.reports.replay import Replayed
from noise_models.words import is_device, parse_noise
from qpc_qiskit.backends.destinations import calibration_time
from qpc_qiskit.backends.named import AER, find_backend
from qpc_qiskit.connector import use_engine
from qpc_qiskit.data.sources import CLASS_NAMES
from qpc_qiskit.engines import Engine, EstimatorEngine, NoisyEngine
from qpc_qiskit.errors import BackendError, MissingExtra, QPCError
from qpc_qiskit.nets import quantum_layers
from qpc_qiskit.options.engine import EngineOptions, shots_of
from qpc_qiskit.training.evaluation import accuracy_interval, compare, predict, score

MAX_IMAGES = 256
MAX_ROWS = 20_000
"""Pixels times kernels that simulations evaluate by default: Aer does some hundred a second."""
MOST_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Predictions of one engine for images of which everything was measured."""

    engine: str
    """`exact`, `aer`, `noisy` or `measured`."""
    what: str
    """The same in words."""
    num_images: int
    """The first so many of the complete ones."""
    num_correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    """Wilson's, 95 %."""
    loss: float
    agreement: float
    """Share of the images with the same prediction as the exact engine's."""
    agreement_interval: tuple[float, float]
    """Wilson's, 95 %."""
    max_logit_difference: float
    """From the exact engine's logits."""
    measured_accuracy: float
    """Of the measured values on the same images."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image with its predictions."""

    image: int
    """Its number in the run."""
    label: str
    exact: str
    """Prediction."""
    measured: str
    """Prediction."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What is said of images; empty where none is complete."""

    engines: tuple[Scored, ...]
    confusion: Mapping[str, NDArray[np.int64]]
    """By engine, of all complete images, (true class, predicted class)."""
    class_names: tuple[str, ...]
    shown: tuple[Shown, ...]
    """Those on which exact and measured differ first."""
    pictures: NDArray[Any] = field(repr=False)
    """(S, C, H, W) of `shown`: bytes, or floats in [0, 1]."""
    problems: tuple[str, ...]
    """What was not computed, and why."""


def scores(
    work: Work,
    run: Run,
    replayed: Replayed,
    *,
    num_simulated: int | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> Scores:
    """Compare what was measured with what would be expected.

    Args:
        work: of the run.
        run: the run.
        replayed: what the network makes of the measured values.
        num_simulated: complete images that Aer and the noisy copy evaluate too; None: as many as
            `MAX_ROWS` and `MAX_IMAGES` allow; 0: none.
        on_step: told what is going on.
    """
    names = CLASS_NAMES.get(work.task.data["name"]) or tuple(
        map(str, range(replayed.logits.shape[1]))
    )
    complete = torch.from_numpy(replayed.complete)
    if not len(complete):
        return Scores((), {}, names, (), np.zeros((0, 1, 1, 1)), ())
    labels, measured = work.labels[complete], replayed.logits[complete]
    on_step("Exact engine")
    exact = _logits(work, complete, "exact")

    def scored(engine: str, what: str, logits: Tensor) -> Scored:
        count = len(logits)
        found = score(logits, labels[:count], work.task.loss)
        beside = compare(logits, exact[:count])
        return Scored(
            engine=engine,
            what=what,
            num_images=count,
            num_correct=round(found.accuracy * count),
            accuracy=found.accuracy,
            accuracy_interval=accuracy_interval(found.accuracy, count),
            loss=found.loss,
            agreement=beside.agreement,
            agreement_interval=accuracy_interval(beside.agreement, count),
            max_logit_difference=beside.max_logit_difference,
            measured_accuracy=score(measured[:count], labels[:count]).accuracy,
        )

    found = [scored("exact", "exact engine", exact)]
    problems = []
    sample = complete[: _num_simulated(work, len(complete), num_simulated)]
    if len(sample):
        for engine, open_it in (("aer", _aer), ("noisy", _noisy_copy)):
            on_step("Noiseless Aer" if engine == "aer" else "Noisy copy")
            try:
                made, what = open_it(run)
                found.append(scored(engine, what, _logits(work, sample, made)))
            except QPCError as error:
                problems.append(str(error))
    else:
        problems.append("Noiseless Aer and a noisy copy were not asked for.")
    found.append(scored("measured", f"measured on {run.settings['backend']}", measured))
    shown = _shown(complete, labels, exact, measured)
    return Scores(
        engines=tuple(found),
        confusion={
            name: _confusion(labels, logits, len(names))
            for name, logits in (("exact", exact), ("measured", measured))
        },
        class_names=names,
        shown=tuple(
            Shown(
                image=int(complete[i]),
                label=names[int(labels[i])],
                exact=names[int(exact[i].argmax())],
                measured=names[int(measured[i].argmax())],
            )
            for i in shown
        ),
        pictures=_pictures(work.images[complete[shown]]),
        problems=tuple(problems),
    )


def _logits(work: Work, images: Tensor, engine: str | Engine) -> Tensor:
    with use_engine(work.network, engine):
        return predict(work.network, work.images[images], work.task.batch_size)


def _num_simulated(work: Work, num_complete: int, asked: int | None) -> int:
    if asked is not None:
        return min(asked, num_complete)
    layers = quantum_layers(work.network)
    rows = sum(
        count // work.task.num_images * layers[name].spec.num_kernels
        for name, count in work.task.pixels.items()
    )
    return min(num_complete, MAX_IMAGES, max(1, MAX_ROWS // max(rows, 1)))


def _aer(run: Run) -> tuple[Engine, str]:
    """Without noise and shots: it must give what the exact engine does."""
    return EstimatorEngine.from_backend(AER), "noiseless Aer, exact values"


class NoCopy(QPCError):
    """There is no noisy copy of what a run ran on."""


def _noisy_copy(run: Run) -> tuple[Engine, str]:
    """Noise as known on this machine, with the run's encoder and shots.

    Raises:
        NoCopy: of this backend there is none.
    """
    begun = EngineOptions.of_run(run.settings)
    noise, what = _noise_of_copy(run)
    shots = shots_of(begun.precision) if begun.precision else None
    options: dict[str, Any] = {"shots": shots, "seed": begun.seed or 0} if shots else {}
    if begun.absorb_tail and shots is None:
        options["absorb_tail"] = True
    engine = NoisyEngine(noise, encoder=begun.encoder, **options)
    told = "exact values" if shots is None else f"{shots:,} shots for each value"
    return engine, f"noisy copy: {what}, {told}, nothing mitigated"


def _noise_of_copy(run: Run) -> tuple[Any, str]:
    backend, word = str(run.settings["backend"]), noise_of(run.settings)
    if backend == AER:
        if word is None:
            raise NoCopy("No noisy copy: the run was on Aer without noise.")
        if word.startswith(DIGEST):
            raise NoCopy("No noisy copy: the noise model is one that only the run's script has.")
        if not is_device(word):
            found = parse_noise(word)
            digest = run.settings.get("engine_options", {}).get("noise_model")
            if isinstance(found, str) or digest_of(found) != digest:
                raise NoCopy(f"No noisy copy: the noise {word} is not what it was then.")
            return found, f"noise {word}"
        backend = word
    name = f"fake_{backend.removeprefix('fake_').removeprefix('ibm_')}"
    try:
        device = find_backend(name)
    except MissingExtra as error:
        raise NoCopy(f"No noisy copy. {error}") from error
    except BackendError:
        raise NoCopy(f"No noisy copy: no snapshot of {backend} comes with IBM's client.") from None
    date = calibration_time(device)
    calibrated = "at a time that it does not tell" if date is None else f"on {date[:10]}"
    return device, f"snapshot {name} (calibrated {calibrated}) on its best patch"


def _confusion(labels: Tensor, logits: Tensor, num_classes: int) -> NDArray[np.int64]:
    found = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(found, (labels.numpy(), logits.argmax(1).numpy()), 1)
    return found


def _shown(complete: Tensor, labels: Tensor, exact: Tensor, measured: Tensor) -> list[int]:
    """Of the complete images, first those whose predictions differ, then the others in order."""
    differs = (exact.argmax(1) != measured.argmax(1)).tolist()
    return sorted(range(len(complete)), key=lambda i: not differs[i])[:MOST_SHOWN]


def _pictures(images: Tensor) -> NDArray[Any]:
    """(S, C, H, W) as they are; of other than three channels the first alone, as grey."""
    kept = images if images.shape[1] == 3 else images[:, :1]
    return kept.numpy()
