"""What was chosen where the paper leaves a choice: one entry for each of the ambiguities A1 to A27.

Each entry is computed from the configuration, the layers' own statement of their conventions, the
training options or the data, so that the table cannot claim what was not done.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qpc_qiskit.options import NetConfig, TrainConfig

Conventions = Mapping[str, Any]

UNKNOWN = "not recorded"
NOT_QUANTUM = "no quantum layer"


def named_choices(
    net: NetConfig,
    layers: Mapping[str, Conventions],
    training: TrainConfig | None = None,
    data: str | None = None,
    engines: Sequence[str] = (),
) -> dict[str, str]:
    """Name the choice made for each ambiguity of the paper.

    Args:
        net: the network.
        layers: conventions of each quantum layer by its name in the network.
        training: how it was trained; None when it was not, or not by this package.
        data: provenance of the data, in words.
        engines: names of the engines that evaluated the quantum layers in training.

    Returns:
        One sentence or less for each of "A1" to "A27", in order.
    """
    table = {
        **_architecture(net, layers),
        **(_quantum(net, layers) if layers else dict.fromkeys(_QUANTUM, NOT_QUANTUM)),
        **(_gradients(engines) if layers else dict.fromkeys(("A14", "A15"), NOT_QUANTUM)),
        **(_training(training) if training else dict.fromkeys(("A22", "A23"), UNKNOWN)),
        "A24": data or UNKNOWN,
        "A25": "accuracy on the training and on the test split, both reported",
        "A27": "no claim is made about global convolution, fewer qubits or speed",
    }
    return {code: table[code] for code in sorted(table, key=lambda code: int(code[1:]))}


def _architecture(net: NetConfig, layers: Mapping[str, Conventions]) -> dict[str, str]:
    where = ", ".join(layers) or "none"
    return {
        "A1": f"network '{net.name}': convolutional stem, pointwise layer, linear head; "
        f"quantum layers: {where}",
        "A2": f"{net.in_channels} image channels go through a classical stem to {net.width}",
        "A16": (
            "no batch norm and no activation after the quantum layer; both after stem convolutions"
            if layers
            else "batch norm and ReLU after every convolution"
        ),
        "A17": "raw expectation values in [-1, 1]" if layers else NOT_QUANTUM,
        "A21": f"2x2 max-pools in the stem, dropout {net.dropout:g}, one linear layer",
        "A26": "a classical twin (1x1 convolution, batch norm, ReLU) of the same channels: "
        "'small-classical'",
    }


_QUANTUM = (*(f"A{i}" for i in range(3, 14)), "A18", "A19", "A20")

_ANSATZ = {
    "strongly_entangling": "RZ RX RZ on each qubit and a CNOT ring (strongly entangling layers)",
    "figure1": "RX RZ on each qubit and a CNOT ring (the paper's Fig. 1)",
    "circuit_centric": "the paper's equation: RZ RX RZ, then controlled phases and RX",
}
_RING = {"figure1": "ring, each qubit controls the next"}


def _quantum(net: NetConfig, layers: Mapping[str, Conventions]) -> dict[str, str]:
    def each(text: Callable[[Conventions], str]) -> str:
        """The text of all layers, once where they agree."""
        texts = {name: text(layer) for name, layer in layers.items()}
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return "; ".join(f"{name}: {text}" for name, text in texts.items())

    def convention(*keys: str) -> str:
        return each(lambda layer: "; ".join(str(layer["conventions"][key]) for key in keys))

    bias = "; a constant bias channel is added" if net.bias_channel else ""
    rule = "given" if net.num_qubits else "the fewest that hold the encoded channels"
    return {
        "A3": each(
            lambda layer: (
                f"round up: {layer['num_kernels']} circuits of {layer['num_qubits']} "
                "qubits; surplus maps are cropped"
            )
        ),
        "A4": each(lambda layer: f"{layer['num_qubits']} qubits: {rule}"),
        "A5": convention("padding"),
        "A6": convention("zero_pixel") + (f"{bias}, so there is none" if bias else ""),
        "A7": convention("norm") + bias,
        "A8": convention("sign"),
        "A9": each(
            lambda layer: (
                f"{layer['ansatz']}: {_ANSATZ.get(layer['ansatz'], 'a circuit')}; "
                f"{layer['num_weights']} weights per circuit"
            )
        ),
        "A10": "rotations, then entanglers; the first block acts first",
        "A11": each(
            lambda layer: _RING.get(layer["ansatz"], "ring of range l mod (n-1) + 1 in block l")
        ),
        "A12": each(lambda layer: f"{layer['num_layers']} blocks"),
        "A13": f"init '{net.init}'",
        "A18": convention("channel_order", "qubit_order"),
        "A19": convention("feature_order"),
        "A20": "weights shared by all pixels; none shared between circuits or layers",
    }


def _gradients(engines: Sequence[str]) -> dict[str, str]:
    if not engines:
        return dict.fromkeys(("A14", "A15"), UNKNOWN)
    used = ", ".join(sorted(set(engines)))
    if used == "exact":
        return {
            "A14": "analytic, by the exact engine",
            "A15": "analytic, through the normalisation of the pixel",
        }
    return dict.fromkeys(("A14", "A15"), f"vector-Jacobian products of: {used}")


def _training(config: TrainConfig) -> dict[str, str]:
    schedule = f"cosine to {config.eta_min:g}" if config.schedule == "cosine" else "constant"
    return {
        "A22": f"{config.optimizer}, lr {config.lr:g}, {schedule} over {config.epochs} epochs, "
        f"batch {config.batch_size} (test {config.test_batch_size}), weight decay "
        f"{config.weight_decay:g}, momentum {config.momentum:g}, per-channel normalisation, "
        f"augmentation {config.augment}, seed {config.seed}, {config.dtype}",
        "A23": {
            "cross-entropy": "softmax cross-entropy of the logits, one class per image",
            "mse": "mean squared difference of logits and one-hot labels, one class per image",
        }[config.loss],
    }
