"""Every option of a network and of a training run, checked before anything is built.

An option that would have no effect is refused, so that a record of the options says what was done.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Options(BaseModel):
    """Base of the option records: frozen, and an unknown name is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def _refuse_idle(self, names: tuple[str, ...], why: str) -> None:
        """Refuse options that differ from their defaults although nothing reads them."""
        fields = type(self).model_fields
        idle = [name for name in names if getattr(self, name) != fields[name].default]
        if idle:
            raise ValueError(f"{', '.join(idle)} would have no effect {why}; leave it out")


class NetConfig(Options):
    """Architecture of a network; together with the weights it is the whole model."""

    name: Literal["small", "small-classical"] = "small"
    """Architecture; the twin has a 1x1 convolution, batch norm and ReLU for the quantum layer."""
    in_channels: int = Field(1, ge=1)
    """Channels of an image."""
    image_size: int = Field(8, ge=4)
    """Height and width of an image."""
    num_classes: int = Field(10, ge=2)
    """Outputs of the network."""
    width: int = Field(16, ge=1)
    """Channels that the quantum layer reads, given by 3x3 convolutions."""
    quantum_channels: int = Field(32, ge=1)
    """Channels that the quantum layer, or its twin, gives."""
    num_layers: int = Field(3, ge=1)
    """Blocks of the ansatz."""
    ansatz: Literal["strongly_entangling", "figure1", "circuit_centric"] = "strongly_entangling"
    """Name of the ansatz."""
    num_qubits: int | None = Field(None, ge=1, le=14)
    """Qubits of a circuit; by default the fewest that hold the channels."""
    bias_channel: bool = False
    """Add a constant channel to every pixel before encoding."""
    init: Literal["uniform", "normal"] = "uniform"
    """First angles: all of the circle, or near zero (standard deviation 0.1)."""
    dropout: float = Field(0.25, ge=0, lt=1)
    """Share of the features that training drops before the last layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "small-classical":
            names = ("num_layers", "ansatz", "num_qubits", "bias_channel", "init")
            self._refuse_idle(names, "without a quantum layer")
        encoded = self.width + self.bias_channel
        if self.num_qubits is not None and encoded > 2**self.num_qubits:
            raise ValueError(
                f"{self.num_qubits} qubits hold {2**self.num_qubits} channels, the layer reads "
                f"{encoded}; give more qubits or a smaller width"
            )
        return self


class TrainConfig(Options):
    """How a network is trained. The same options and data give the same weights on one machine."""

    epochs: int = Field(20, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1)
    """Training images per step."""
    test_batch_size: int = Field(64, ge=1)
    """Images per step of an evaluation; changes nothing but memory and time."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Update rule."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of the first epoch."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (adam, sgd) or decoupled decay (adamw)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of sgd."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the epochs; cosine goes from `lr` towards `eta_min`."""
    eta_min: float = Field(0.0, ge=0)
    """Where the cosine ends."""
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """Of the network's outputs; mse compares them with one-hot labels."""
    augment: Literal["none", "flips"] = "none"
    """Random left-right flips of training images, or nothing."""
    seed: int = Field(0, ge=0)
    """Decides initial weights, order of images, dropout and flips."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of weights and arithmetic."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU when torch finds one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.optimizer != "sgd":
            self._refuse_idle(("momentum",), f"with {self.optimizer}")
        if self.schedule == "constant":
            self._refuse_idle(("eta_min",), "with a constant learning rate")
        elif self.eta_min > self.lr:
            raise ValueError(f"eta_min ({self.eta_min}) must not exceed lr ({self.lr})")
        return self


class DataSource(Options):
    """What to ask `load` for to get the same images again; where files have moved, say so anew."""

    name: Literal["digits", "fashion-mnist", "cifar10"] = "digits"
    """Data set."""
    data_dir: str | None = None
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
