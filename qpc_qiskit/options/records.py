"""Every option of a network and of a training run, checked before anything is built.

An option that would have no effect is refused, so that a record of the options says what was done.
Sizes have bounds far above what anybody trains: options come out of files as well, and nothing is
to be built of one that asks for all memory there is.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from qpc_qiskit.options.fields import Flag, Options

MAX_SEED = 2**63 - 1  # what torch's generators take as a signed number
MAX_QUBITS = 14  # of a circuit
MAX_ROTATIONS = 1000  # blocks of an ansatz times its qubits
MAX_WEIGHTS = 2**30  # of a network, counted on the safe side
KERNEL_SIZE_WAS = "patch_size"  # "patch" means qubits of a device


@dataclass(frozen=True)
class Architecture:
    """What the options of one architecture mean, without building it."""

    text: str
    """What it is, in a line."""
    widest: "Callable[[NetConfig], int] | None" = None
    """Most channels that one of its pointwise layers reads; None where they cannot be chosen."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Where its defaults differ from those of `NetConfig`."""
    idle: tuple[str, ...] = ("kernel_size",)
    """Options that have no effect on it."""


_OF_CIRCUITS = ("num_layers", "ansatz", "num_qubits", "bias_channel", "init")
_OF_POINTWISE = (*_OF_CIRCUITS, "norm_after")
_CLASSICAL = ("kernel_size", "pointwise", *_OF_POINTWISE)
_PAPER = {"width": 64, "quantum_channels": 128, "hidden": 256, "dropout": 0.5}

ARCHITECTURES: dict[str, Architecture] = {
    "small": Architecture(
        "convolutional stem, pointwise layer, linear head", lambda net: net.width
    ),
    "small-classical": Architecture("its twin: 1x1 convolution, batch norm, ReLU", idle=_CLASSICAL),
    "paper-cnn": Architecture(
        "the paper's classical CNN: three 3x3 convolutions up to 2*width channels",
        defaults={"width": 64, "hidden": 256, "dropout": 0.5},
        idle=(*_CLASSICAL, "quantum_channels"),
    ),
    "paper-fig3a": Architecture(
        "the paper's Fig. 3(a): pointwise, 3x3 and ReLU, pointwise, behind one 3x3 convolution",
        lambda net: net.width,
        _PAPER,
    ),
    "paper-fig3b": Architecture(
        "its twin, Fig. 3(b): three convolutions, each with batch norm and ReLU",
        defaults=_PAPER,
        idle=_CLASSICAL,
    ),
    "strong": Architecture(
        "the block of Fig. 3(a) behind three 3x3 convolutions up to 2*width channels",
        lambda net: 2 * net.width,
        _PAPER,
    ),
    "strong-classical": Architecture(
        "the block of Fig. 3(b) behind the same stem", defaults=_PAPER, idle=_CLASSICAL
    ),
    "quanvolution": Architecture(
        "quantum circuits on windows of the image itself, then a linear head",
        lambda net: net.in_channels * net.kernel_size**2,
        idle=("width",),
    ),
    "mobilenet-tiny": Architecture(
        "two depthwise-separable blocks whose 1x1 convolutions are exchanged",
        lambda net: max(net.width, net.quantum_channels),
        idle=("kernel_size", "norm_after"),
    ),
    "resnet-bottleneck-tiny": Architecture(
        "two residual bottlenecks whose 1x1 convolutions are exchanged, shortcuts included",
        lambda net: max(net.width, net.quantum_channels),
        {"width": 8},
        ("kernel_size", "norm_after"),
    ),
}
"""Every architecture by the name that a `NetConfig` gives; `nets.BUILDERS` builds them."""


class NetConfig(Options):
    """Architecture of a network; together with the weights it is the whole model."""

    name: Annotated[
        Literal[
            "small",
            "small-classical",
            "paper-cnn",
            "paper-fig3a",
            "paper-fig3b",
            "strong",
            "strong-classical",
            "quanvolution",
            "mobilenet-tiny",
            "resnet-bottleneck-tiny",
        ],
        Flag(name="net"),
    ] = "small"
    """Architecture; `qpc nets` says what each is. It decides the defaults of width,
    quantum-channels, hidden and dropout."""
    in_channels: int = Field(1, ge=1, le=2**MAX_QUBITS)
    """Channels of an image."""
    image_size: int = Field(8, ge=4, le=2**14)
    """Height and width of an image."""
    num_classes: int = Field(10, ge=2, le=2**20)
    """Outputs of the network."""
    width: int = Field(16, ge=1, le=2**MAX_QUBITS)
    """Channels that 3x3 convolutions give, and the first pointwise layer of the paper's block; 64
    in the paper's networks."""
    quantum_channels: int = Field(32, ge=1, le=2**MAX_QUBITS)
    """Channels that the (last) pointwise layer gives; 128 in the paper's networks."""
    pointwise: Literal[
        "quantum",
        "classical",
        "conv",
        "conv-bn",
        "normalised",
        "quadratic",
        "frozen",
        "no-entanglement",
    ] = "quantum"
    """What stands where the quantum layers are: they, an ordinary 1x1 convolution, or a baseline
    with about as many parameters as they have."""
    num_layers: int = Field(3, ge=1, le=MAX_ROTATIONS)
    """Blocks of the ansatz."""
    ansatz: Literal["strongly_entangling", "figure1", "circuit_centric"] = "strongly_entangling"
    """Name of the ansatz."""
    num_qubits: int | None = Field(None, ge=1, le=MAX_QUBITS)
    """Qubits of a circuit; by default the fewest that hold the channels."""
    bias_channel: bool = False
    """Add a constant channel to every pixel before encoding."""
    init: Literal["uniform", "normal"] = "uniform"
    """First angles: all of the circle, or near zero (standard deviation 0.1)."""
    norm_after: Literal["none", "batch"] = "none"
    """Batch norm after each pointwise layer, which the paper's quantum branch has not."""
    kernel_size: int = Field(3, ge=1, le=2**7)
    """Height and width of the windows that a quanvolution reads."""
    hidden: int = Field(0, ge=0, le=2**20)
    """Units of a fully connected layer before the last one, or none; 256 in the paper's
    networks."""
    head_norm: Literal["none", "batch", "layer"] = "none"
    """Norm between that layer and its ReLU; with hidden units batch by default, since without one
    they die within some steps at the paper's learning rate."""
    dropout: float = Field(0.25, ge=0, lt=1)
    """Share of the features that training drops before the last layer; 0.5 in the paper's
    networks."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if KERNEL_SIZE_WAS in given:
            message = f"{KERNEL_SIZE_WAS} is called kernel_size now; this version reads it still"
            warnings.warn(message, DeprecationWarning, stacklevel=3)
            given = _renamed(given)
        name = given.get("name", "small")
        found = ARCHITECTURES.get(name) if isinstance(name, str) else None
        filled = {**found.defaults, **given} if found else dict(given)
        if filled.get("hidden", 0) != 0:
            filled.setdefault("head_norm", "batch")
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        architecture = ARCHITECTURES[self.name]
        self._refuse_idle(architecture.idle, f"on the network {self.name}")
        if self.hidden == 0:
            self._refuse_idle(("head_norm",), "without hidden units")
        if self.pointwise == "classical":
            self._refuse_idle(_OF_POINTWISE, "without a quantum layer")
        elif self.pointwise not in ("quantum", "frozen", "no-entanglement"):
            self._refuse_idle(("init",), "without a quantum layer")
        if architecture.widest is not None:
            self._check_circuit(architecture.widest(self) + self.bias_channel)
        self._check_size()
        return self

    @property
    def patch_size(self) -> int:
        """Until the next version: `kernel_size`."""
        message = f"{KERNEL_SIZE_WAS} is called kernel_size now; this version reads it still"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.kernel_size

    def told(self, exclude: Set[str] = frozenset()) -> str:
        """As JSON for digests: under the names by which old ledgers and studies know the fields."""
        told = self.model_dump_json(exclude=set(exclude))
        return told.replace('"kernel_size":', f'"{KERNEL_SIZE_WAS}":')

    def _check_circuit(self, encoded: int) -> None:
        """Refuse channels that the qubits do not hold, and an ansatz that is too long to build."""
        most = MAX_QUBITS if self.num_qubits is None else self.num_qubits
        if encoded > 2**most:
            raise ValueError(
                f"{most} qubits hold {2**most} channels, the layer reads {encoded}; give "
                f"{'' if self.num_qubits is None else 'more qubits or '}fewer channels"
            )
        num_qubits = self.num_qubits or max(1, math.ceil(math.log2(encoded)))
        if self.num_layers * num_qubits > MAX_ROTATIONS:
            raise ValueError(
                f"num_layers of {self.num_layers} on {num_qubits} qubits is too much: expected at "
                f"most {MAX_ROTATIONS // num_qubits}"
            )

    def _check_size(self) -> None:
        """Refuse a network whose weights would not fit; of every architecture it has fewer."""
        channels = max(2 * self.width, self.quantum_channels)
        features = channels * (self.image_size // 2 + 1) ** 2  # before the head, pooled once
        weights = 9 * channels * max(channels, self.in_channels)
        weights += features * (self.hidden or self.num_classes) + self.hidden * self.num_classes
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"the network would have up to {weights:,} weights, expected at most "
                f"{MAX_WEIGHTS:,}; give fewer channels, hidden units or classes, or smaller images"
            )


def _renamed(given: dict[str, Any]) -> dict[str, Any]:
    """Options under the names that they have now."""
    if KERNEL_SIZE_WAS in given and "kernel_size" in given:
        raise ValueError(
            f"{KERNEL_SIZE_WAS} is the old name of kernel_size; give the new one alone"
        )
    return {"kernel_size" if key == KERNEL_SIZE_WAS else key: given[key] for key in given}


def _as_written(given: Any) -> Any:
    """Files from before there was a head norm mean a network without one."""
    return {"head_norm": "none", **_renamed(given)} if isinstance(given, dict) else given


StoredNetConfig = Annotated[NetConfig, BeforeValidator(_as_written)]
"""A `NetConfig` in a record that is read back from a file."""


class TrainConfig(Options):
    """How a network is trained. The same options and data give the same weights on one machine."""

    epochs: int = Field(20, ge=1, le=10**6)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1, le=2**31)
    """Training images per step."""
    test_batch_size: int = Field(64, ge=1, le=2**31)
    """Images per step of an evaluation; changes nothing but memory and time."""
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """Update rule."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of the first epoch."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (adam, sgd, rmsprop) or decoupled decay (adamw)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of sgd and rmsprop."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the epochs; cosine goes from `lr` towards `eta_min`."""
    eta_min: float = Field(0.0, ge=0)
    """Where the cosine ends."""
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """Of the network's outputs; mse compares them with one-hot labels."""
    augment: Literal["none", "flips", "flips-crops"] = "none"
    """Training images as they are, flipped left-right at random, or also moved at random by up to
    an eighth of their size, with black where nothing was."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Decides initial weights, order of images, dropout and flips."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of weights and arithmetic."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU when torch finds one."""
    devices: int = Field(1, ge=1, le=2**10)
    """Processes on each machine, one per GPU or, on CPUs, sharing the cores; a batch is divided
    between all processes."""
    num_nodes: int = Field(1, ge=1, le=2**16)
    """Machines; start the same command on each with MASTER_ADDR, MASTER_PORT and NODE_RANK set."""
    engine: Literal["exact", "noisy"] = "exact"
    """What evaluates the quantum layers; noisy trains a network for the noise that it will see."""
    noise: str | None = None
    """Of the noisy engine: a device's name, a channel such as depolarizing:0.01, or another word
    that `qpc evaluate --noise` takes."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.engine == "noisy" and self.noise is None:
            raise ValueError("the noisy engine needs noise, such as depolarizing:0.01")
        if self.engine != "noisy":
            self._refuse_idle(("noise",), f"with the {self.engine} engine")
        if self.optimizer not in ("sgd", "rmsprop"):
            self._refuse_idle(("momentum",), f"with {self.optimizer}")
        if self.schedule == "constant":
            self._refuse_idle(("eta_min",), "with a constant learning rate")
        elif self.eta_min > self.lr:
            raise ValueError(f"eta_min ({self.eta_min}) must not exceed lr ({self.lr})")
        if self.devices * self.num_nodes > self.batch_size:
            raise ValueError(
                f"{self.devices * self.num_nodes} processes cannot share a batch of "
                f"{self.batch_size} images; give a larger batch_size or fewer devices"
            )
        return self


OF_DATA = ("in_channels", "image_size", "num_classes")
"""Fields of a `NetConfig` that the data decide."""
IMAGE_SHAPES = {"digits": (1, 8), "fashion-mnist": (1, 28), "cifar10": (3, 32)}
"""Channels and size of the images of each data set; all have ten classes."""


class DataSource(Options):
    """What to ask `load` for to get the same images again; where files have moved, say so anew."""

    name: Annotated[Literal["digits", "fashion-mnist", "cifar10"], Flag(name="data")] = "digits"
    """Data set."""
    data_dir: Annotated[str | None, Flag(is_path=True)] = None
    """Folder with its files; without one it is bundled (digits) or downloaded from OpenML."""
    train_images: int | None = Field(None, ge=1)
    """Train on a random subset of this size, the same every time."""
    test_images: int | None = Field(None, ge=1)
    """Test on a random subset of this size, the same every time."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "digits":
            self._refuse_idle(("data_dir",), "with the digits, which come with scikit-learn")
        return self
