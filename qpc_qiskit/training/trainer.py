"""Training a network with Lightning, so that it can be stopped and resumed without a trace.

A run is a folder:

    run.json                          what is trained, how, on which data
    last.ckpt                         Lightning's state after the last finished epoch
    metrics.csv, curves.png           loss and accuracy of every finished epoch
    seconds.csv                       how long each took
    model.safetensors, model.json     the finished network (see `checkpoint`)

Everything random in an epoch (order of the images, flips, dropout) is derived from the seed and the
number of the epoch, and the learning rate from the latter. A run that was stopped between two
epochs and resumed ends with the same bits as one that was not, on the same machine.

Loss and accuracy of both splits are taken after each epoch in a pass of their own, in evaluation
mode with fixed weights: the training figures are not running averages over a moving network with
dropout. That pass costs about a third of an epoch.

With more than one device or node the run is shared by several processes, see `processes`. The first
one alone writes the files.
"""

import hashlib
import logging
import math
import shlex
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qpc_qiskit.common.extras import importing
from qpc_qiskit.common.files import written_aside
from qpc_qiskit.common.interrupts import Interrupts, StopRequested, deferred_interrupts
from qpc_qiskit.common.metrics import EpochMetrics
from qpc_qiskit.common.progress import Progress, busy
from qpc_qiskit.connector import use_engine
from qpc_qiskit.data.images import ImageData, unit_images
from qpc_qiskit.engines import Engine
from qpc_qiskit.errors import CheckpointError, EngineError, QPCError
from qpc_qiskit.nets import ImageClassifier, check_data
from qpc_qiskit.options.records import TrainConfig
from qpc_qiskit.plots.figures import plot_curves
from qpc_qiskit.training.checkpoint import DataRecord, make_record, save
from qpc_qiskit.training.evaluation import loss_of, predict, score
from qpc_qiskit.training.processes import Team, is_main_process, prepare_environment
from qpc_qiskit.training.runs import (
    CURVES_FILE,
    STATE_FILE,
    RunRecord,
    begin_run,
    check_resumable,
    note_seconds,
    parse_history,
    read_state,
    write_metrics,
)

with importing("train", "Training"):
    import lightning
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.strategies import DDPStrategy

__all__ = ["EpochMetrics", "TrainConfig", "TrainingInterrupted", "learning_rate", "train"]


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal; every finished epoch is on disk."""


def train(
    model: ImageClassifier,
    data: ImageData,
    config: TrainConfig,
    out_dir: Path | str,
    *,
    resume: bool = False,
    force: bool = False,
    progress: bool | Progress = True,
    engine: Engine | None = None,
) -> list[EpochMetrics]:
    """Train a network, or go on with training it, and write the finished checkpoint.

    Args:
        model: trained in place; its normalisation constants are set from the training images and
            its precision from `config`. On return it is on the CPU, in evaluation mode.
        data: the images; their shape and classes must be those of the network.
        config: how to train.
        out_dir: folder of the run, see the module docstring.
        resume: go on after the last finished epoch of the run in `out_dir`, which must have been
            begun with the same network, options and data.
        force: overwrite a run in `out_dir`.
        progress: what is told how far it is; True: a bar, and a line per epoch, on stderr.
        engine: evaluates the quantum layers, in the epochs' loss and accuracy as well; it belongs
            to the options, which name it and its noise. None: the layers' own.

    Returns:
        The metrics of every epoch, those before a resumption included.

    Raises:
        DataError: the data do not fit the network.
        CheckpointError: `out_dir` holds a run and neither `resume` nor `force` is given, or the run
            cannot be resumed.
        EngineError: a GPU was asked for and there is none.
        QPCError: the loss is no longer finite.
        TrainingInterrupted: Ctrl-C or SIGTERM came.
    """
    if resume and force:
        raise ValueError("resume and force contradict each other; give one.")
    if config.engine != ("exact" if engine is None else engine.name):
        given = "none" if engine is None else repr(engine.name)
        raise ValueError(
            f"The options say that the {config.engine!r} engine trains, and {given} is given; give "
            "the one they say."
        )
    out_dir = Path(out_dir)
    accelerator = _accelerator(config)
    check_data(model.config, data)
    run = RunRecord(net=model.config, training=config, data=DataRecord.of(data))
    is_main = is_main_process(config)
    if resume:
        check_resumable(out_dir, run)
    elif is_main:
        begin_run(out_dir, run, force=force)
    state = read_state(out_dir) if resume else None
    history = parse_history(state["history"]) if state else []

    model.to(getattr(torch, config.dtype)).train()
    model.normalise.set(*data.channel_stats())
    chosen = nullcontext() if engine is None else use_engine(model, engine)
    shown = progress if is_main else False
    bars = nullcontext(shown) if isinstance(shown, Progress) else busy(enabled=shown)
    with chosen, deferred_interrupts() as interrupts, _own_random_state(), bars as bar:
        task = _Task(model, data, config, out_dir, history, interrupts, bar)
        try:
            if state is not None and len(history) == config.epochs:
                task.load_state_dict(state["state_dict"])
            else:
                _fit(task, accelerator, state)
            if is_main:
                _plot(out_dir, model, data, task.history)
        except (StopRequested, SystemExit) as stop:  # Lightning makes SIGTERM a SystemExit
            if not is_main:  # the first process says it; Lightning kills all if one fails
                raise SystemExit(0) from stop
            with suppress(StopRequested):  # asked twice: without a figure, then
                _plot(out_dir, model, data, task.history)
            raise TrainingInterrupted(_stopped(out_dir, task.history, config)) from stop
    model.to("cpu").eval()
    if not is_main:
        return task.history
    write_metrics(out_dir, task.history)
    metrics = asdict(task.history[-1])
    with nullcontext() if engine is None else use_engine(model, engine):  # the record names it
        save(out_dir, model, make_record(model, run.data, config, metrics))
    return task.history


def _plot(
    out_dir: Path, model: ImageClassifier, data: ImageData, history: list[EpochMetrics]
) -> None:
    if history:
        plot_curves(out_dir / CURVES_FILE, history, f"{model.config.name}, {data.name}")


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch, counted from 0.

    The cosine is that of torch's `CosineAnnealingLR` with T_max = epochs, one step per epoch.
    """
    if config.schedule == "constant":
        return config.lr
    share = (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return config.eta_min + (config.lr - config.eta_min) * share


class _Batches:
    """The batches of one epoch, in an order that only the seed and the epoch decide.

    A process of several draws whole batches, as all others do, and gives its share of each.
    """

    def __init__(
        self, data: ImageData, config: TrainConfig, epoch: int, team: Team | None = None
    ) -> None:
        self._data, self._config, self._epoch = data, config, epoch
        self._team = team or Team()

    def __len__(self) -> int:
        return math.ceil(len(self._data.train_labels) / self._config.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seed = _derived_seed(self._config.seed, self._epoch, "batches")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self._data.train_labels), generator=generator)
        for batch in order.split(self._config.batch_size):
            images = self._data.train_images[batch]
            if self._config.augment != "none":
                flipped = torch.rand(len(batch), generator=generator) < 0.5
                images[flipped] = images[flipped].flip(-1)
            if self._config.augment == "flips-crops":
                images = _moved(images, generator)
            labels = self._data.train_labels[batch]
            yield self._team.share_of_batch(images), self._team.share_of_batch(labels)


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to an eighth of its size along both axes; black comes in."""
    count, _, height, width = images.shape
    reach = max(1, height // 8)
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, rows, columns, H, W)
    rows, columns = torch.randint(2 * reach + 1, (2, count), generator=generator)
    return windows[torch.arange(count), :, rows, columns]


class _Task(lightning.LightningModule):
    """One training run as Lightning sees it."""

    def __init__(
        self,
        model: ImageClassifier,
        data: ImageData,
        config: TrainConfig,
        out_dir: Path,
        history: list[EpochMetrics],
        interrupts: Interrupts,
        bar: Progress,
    ) -> None:
        super().__init__()
        self.model = model
        self.history = history
        self._data, self._config, self._out_dir = data, config, out_dir
        self._interrupts, self._bar = interrupts, bar
        self._started = time.perf_counter()
        self.is_restoring = False

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.is_restoring = True

    def on_train_start(self) -> None:
        self.is_restoring = False

    def train_dataloader(self) -> _Batches:
        return _Batches(self._data, self._config, self.current_epoch, self._team)

    @property
    def _team(self) -> Team:
        return Team(self.trainer.global_rank, self.trainer.world_size, self.device)

    def _stop_if_asked(self) -> None:
        """All processes stop at the same step, or those that go on would wait for the others."""
        if self._team.any(self._interrupts.requested):
            self._interrupts.requested = True
        self._interrupts.check()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _optimizer(self.model, self._config)

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter()
        rank = self._team.rank
        purpose = f"dropout {rank}" if rank else "dropout"
        torch.manual_seed(_derived_seed(self._config.seed, self.current_epoch, purpose))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self._config, self.current_epoch)
        num_images = 2 * len(self._data.train_labels) + len(self._data.test_labels)
        name = f"epoch {self.current_epoch + 1}/{self._config.epochs}"
        self._bar.begin(name, num_images, "images")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        self._stop_if_asked()
        images, labels = batch
        logits = self.model(unit_images(images, getattr(torch, self._config.dtype)))
        loss = loss_of(logits, labels, self._config.loss)
        if self._team.is_alone:
            self._bar.advance(len(labels))
            return loss
        first = batch_index * self._config.batch_size
        size = min(self._config.batch_size, len(self._data.train_labels) - first)
        self._bar.advance(size)
        return loss * self._team.weight(size)

    def on_train_epoch_end(self) -> None:
        epoch = self.current_epoch
        self._team.share_buffers(self.model)
        train_loss, train_accuracy = self._score(self._data.train_images, self._data.train_labels)
        test_loss, test_accuracy = self._score(self._data.test_images, self._data.test_labels)
        for name, loss in (("training", train_loss), ("test", test_loss)):
            if not math.isfinite(loss):
                raise QPCError(
                    f"The {name} loss is {loss} after epoch {epoch + 1}. Try a smaller learning "
                    f"rate than {self._config.lr:g}."
                )
        metrics = EpochMetrics(
            epoch + 1,
            learning_rate(self._config, epoch),
            train_loss,
            train_accuracy,
            test_loss,
            test_accuracy,
        )
        self.history.append(metrics)
        try:
            self._save_state(self._out_dir / STATE_FILE)
        except BaseException:  # a signal or a full disk: the epoch is not on disk
            self.history.pop()
            raise
        if self.trainer.is_global_zero:
            write_metrics(self._out_dir, self.history)
            note_seconds(self._out_dir, metrics.epoch, time.perf_counter() - self._started)
        self._bar.line(
            f"epoch {metrics.epoch}/{self._config.epochs}  loss {train_loss:.4f}  "
            f"accuracy {100 * train_accuracy:.2f} % train, {100 * test_accuracy:.2f} % test"
        )

    def _save_state(self, path: Path) -> None:
        if not self.trainer.is_global_zero:
            self.trainer.save_checkpoint(path)  # takes part in it, and writes nothing
            return
        with written_aside(path) as aside:
            self.trainer.save_checkpoint(aside)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = [asdict(metrics) for metrics in self.history]

    def _score(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        team = self._team
        if not team.is_alone:
            self._stop_if_asked()

        def on_batch(num_images: int) -> None:
            if team.is_alone:
                self._interrupts.check()
            self._bar.advance(num_images * team.count)

        mine = team.share(len(labels))
        logits = predict(self.model, images[mine], self._config.test_batch_size, on_batch)
        if team.is_alone:
            result = score(logits, labels, self._config.loss)
            return result.loss, result.accuracy
        sums = [0.0, 0.0]
        if count := len(labels[mine]):
            result = score(logits, labels[mine], self._config.loss)
            sums = [result.loss * count, round(result.accuracy * count)]
        loss, correct = team.sum(sums)
        return loss / len(labels), correct / len(labels)


class _CheckedState(TorchCheckpointIO):
    """Gives Lightning the state that was read and checked, and no other file.

    Args:
        state: of the training; None where it begins.
    """

    def __init__(self, state: dict[str, Any] | None) -> None:
        super().__init__()
        self._state = state

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """See `runs.read_state`."""
        if self._state is None:  # on a SLURM cluster Lightning looks for files of its own
            raise CheckpointError(f"{path}: a new training begins from no file; move it away.")
        return self._state


def _fit(task: _Task, accelerator: str, state: dict[str, Any] | None) -> None:
    config = task._config
    is_shared = config.devices * config.num_nodes > 1
    if is_shared:
        prepare_environment(config)
    with _quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            accelerator=accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=DDPStrategy() if is_shared else "auto",
            plugins=[LightningEnvironment(), _CheckedState(state)],
            reload_dataloaders_every_n_epochs=1,  # a new order of the images in every epoch
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=task._out_dir,
        )
        path = task._out_dir / STATE_FILE
        try:
            trainer.fit(task, ckpt_path=path if state else None, weights_only=True)
        except Exception as error:
            if not task.is_restoring or isinstance(error, StopRequested | QPCError):
                raise
            raise CheckpointError(
                f"{path}: expected the state of this training, found another "
                f"({type(error).__name__}). Begin it again with force=True or --force."
            ) from error


def _optimizer(model: ImageClassifier, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = model.parameters()
    if config.optimizer in ("sgd", "rmsprop"):
        with_momentum = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.RMSprop
        return with_momentum(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, weight_decay=config.weight_decay)


def _accelerator(config: TrainConfig) -> str:
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise EngineError(
            "A GPU was asked for (device cuda), but torch finds none. Use device auto or cpu."
        )
    return "gpu" if has_gpu and config.device != "cpu" else "cpu"


def _derived_seed(seed: int, epoch: int, purpose: str) -> int:
    digest = hashlib.sha256(f"{seed} {epoch} {purpose}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _stopped(out_dir: Path, history: list[EpochMetrics], config: TrainConfig) -> str:
    return (
        f"Stopped after {len(history)} of {config.epochs} epochs. Everything up to there is in "
        f"{out_dir}; go on with: qpc train --resume --out {shlex.quote(str(out_dir))}"
    )


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Leave torch's random state as it was found."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes on devices, tips and limits reached; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch 2.13 in a way that torch has deprecated.
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
