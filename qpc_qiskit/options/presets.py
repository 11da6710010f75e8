"""Named sets of options for a network and its training: defaults that single options override."""

from typing import Any

from pydantic import Field

from qpc_qiskit.options.fields import Options


class Preset(Options):
    """Options of a network and of its training, by field."""

    text: str
    """What it is for, in a line."""
    net: dict[str, Any]
    """Of a `NetConfig`."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Of a `TrainConfig`."""


# What the paper states of its training (A22); what it does not is as in `TrainConfig`.
_PAPER_TRAINING = {
    "optimizer": "adam",
    "lr": 0.01,
    "schedule": "cosine",
    "batch_size": 128,
    "test_batch_size": 64,
    "augment": "none",
}
_STRONG_TRAINING = {"optimizer": "adam", "lr": 0.003, "schedule": "cosine", "augment": "flips"}

PRESETS = {
    "paper-literal": Preset(
        text="the paper's Fig. 3(a), trained as the paper says",
        net={"name": "paper-fig3a"},
        training=_PAPER_TRAINING,
    ),
    "paper-literal-twin": Preset(
        text="the paper's Fig. 3(b), trained alike",
        net={"name": "paper-fig3b"},
        training=_PAPER_TRAINING,
    ),
    "paper-cnn": Preset(
        text="the three convolutions of the paper's text, trained alike",
        net={"name": "paper-cnn"},
        training=_PAPER_TRAINING,
    ),
    "strong": Preset(
        text="Fig. 3(a) behind three convolutions; a lower learning rate, left-right flips",
        net={"name": "strong"},
        training=_STRONG_TRAINING,
    ),
    "strong-twin": Preset(
        text="Fig. 3(b) behind the same convolutions, trained alike",
        net={"name": "strong-classical"},
        training=_STRONG_TRAINING,
    ),
}
"""Every preset by its name on the command line."""
