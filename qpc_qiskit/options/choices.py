"""What was chosen where the paper leaves a choice: one entry for each of the ambiguities A1 to A27.

Each entry is computed from the configuration, the layers' own statement of their conventions, the
training options or the data, so that the table cannot claim what was not done.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from qpc_qiskit.options.records import NetConfig, TrainConfig

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


_STEM_1 = "a 3x3 convolution to {width} channels with batch norm, ReLU and a 2x2 max-pool"
_STEM_3 = (
    "three 3x3 convolutions to {half}, {width} and {double} channels with batch norm and ReLU, 2x2 "
    "max-pools after the first two"
)
_STEM_SMALL = "3x3 convolutions to {width} channels with batch norm, ReLU and 2x2 max-pools"


class _Texts(NamedTuple):
    """What the builder of an architecture says of itself, with the configuration's numbers."""

    place: str
    """A1: where the pointwise layers sit."""
    before: str
    """A2: how the channels of an image become those that they read."""
    after: str
    """A16: batch norm and activations around them."""
    pools: str
    """A21: what makes the maps small."""
    rival: str
    """A26: what it is compared with."""


_SILENT = "no batch norm and no activation after the pointwise layers; {elsewhere}"
_TWIN = "its classical twin '{twin}', and '{name}' with pointwise 'classical', 'conv', 'conv-bn', "
_TWIN += "'normalised', 'quadratic', 'frozen' and 'no-entanglement'"
_IS_TWIN = "it is the classical twin of '{twin}'"
_EVERY = "batch norm and ReLU after every convolution"
_FIG3 = "pointwise to {width}, 3x3 convolution to {width}, pointwise to {quantum_channels}"

_ARCHITECTURE = {
    "small": _Texts(
        "convolutional stem, pointwise layer, linear head",
        _STEM_SMALL,
        _SILENT.format(elsewhere="both after stem convolutions"),
        "2x2 max-pools in the stem",
        _TWIN.replace("{twin}", "small-classical"),
    ),
    "small-classical": _Texts(
        "convolutional stem, 1x1 convolution, linear head",
        _STEM_SMALL,
        _EVERY,
        "2x2 max-pools in the stem",
        _IS_TWIN.replace("{twin}", "small"),
    ),
    "paper-cnn": _Texts(
        "the text's three convolutions expanding to {double} channels, nothing added to them",
        _STEM_3,
        _EVERY,
        "2x2 max-pools after the first two convolutions",
        "it is the classical network of the text; Fig. 3(b) is 'paper-fig3b'",
    ),
    "paper-fig3a": _Texts(
        "Fig. 3(a) behind a stem: " + _FIG3,
        _STEM_1,
        _SILENT.format(
            elsewhere="ReLU alone after the 3x3 convolution of Fig. 3(a), both in the stem"
        ),
        "2x2 max-pools in the stem and after the 3x3 convolution",
        _TWIN.replace("{twin}", "paper-fig3b") + ", and the text's network 'paper-cnn'",
    ),
    "paper-fig3b": _Texts(
        "Fig. 3(b) behind a stem: 1x1 convolution to {width}, 3x3 to {width}, 1x1 to "
        "{quantum_channels}",
        _STEM_1,
        _EVERY,
        "2x2 max-pools in the stem and after the 3x3 convolution of Fig. 3(b)",
        _IS_TWIN.replace("{twin}", "paper-fig3a"),
    ),
    "strong": _Texts(
        "Fig. 3(a) behind the text's three convolutions: " + _FIG3,
        _STEM_3,
        _SILENT.format(
            elsewhere="ReLU alone after the 3x3 convolution of Fig. 3(a), both in the stem"
        ),
        "2x2 max-pools after the first two convolutions",
        _TWIN.replace("{twin}", "strong-classical"),
    ),
    "strong-classical": _Texts(
        "Fig. 3(b) behind the text's three convolutions: 1x1 convolution to {width}, 3x3 to "
        "{width}, 1x1 to {quantum_channels}",
        _STEM_3,
        _EVERY,
        "2x2 max-pools after the first two convolutions",
        _IS_TWIN.replace("{twin}", "strong"),
    ),
    "quanvolution": _Texts(
        "not the paper's: the layer reads {kernel_size}x{kernel_size} windows of the raw image, at "
        "every position, then a linear head",
        "every {kernel_size}x{kernel_size} window of all image channels is one pixel of "
        "{window_values} channels, zeros around the image; no classical stem",
        _SILENT.format(elsewhere="there are no others"),
        "2x2 max-pools after the layer",
        "'small', which reads single pixels behind a classical stem",
    ),
    "mobilenet-tiny": _Texts(
        "not the paper's: every 1x1 convolution of two depthwise-separable blocks",
        "a 3x3 convolution to {width} channels with batch norm and ReLU",
        "batch norm and ReLU after every layer, as in the network that they were put into",
        "stride 2 in the second block (and in the first convolution of images above 16 pixels), "
        "then the mean of each map",
        "the same network with its own 1x1 convolutions (pointwise 'classical')",
    ),
    "resnet-bottleneck-tiny": _Texts(
        "not the paper's: every 1x1 convolution of two residual bottlenecks, shortcuts included",
        "a 3x3 convolution to {width} channels with batch norm and ReLU",
        "batch norm after every layer, ReLU after it or after the sum, as in the network that they "
        "were put into",
        "stride 2 in the second block (and in the first convolution of images above 16 pixels), "
        "then the mean of each map",
        "the same network with its own 1x1 convolutions (pointwise 'classical')",
    ),
}

_STANDS = {
    "classical": "ordinary 1x1 convolutions in the place of the quantum layers",
    "conv": "1x1 convolutions in two steps with about as many parameters as quantum layers",
    "conv-bn": "1x1 convolutions in two steps and batch norm, with about as many parameters as "
    "quantum layers",
    "normalised": "1x1 convolutions of normalised pixels with about as many parameters as quantum "
    "layers",
    "quadratic": "quadratic 1x1 convolutions with about as many parameters as quantum layers",
    "frozen": "quantum layers whose random weights are not trained",
    "no-entanglement": "quantum layers without two-qubit gates",
}


def _architecture(net: NetConfig, layers: Mapping[str, Conventions]) -> dict[str, str]:
    numbers = net.model_dump() | {
        "half": max(1, net.width // 2),
        "double": 2 * net.width,
        "window_values": net.in_channels * net.kernel_size**2,
    }
    place, before, after, pools, rival = (
        text.format_map(numbers) for text in _ARCHITECTURE[net.name]
    )
    if net.norm_after == "batch":
        after = f"batch norm and no activation after each pointwise layer ({after} otherwise)"
    elif net.pointwise == "classical" and "tiny" not in net.name:
        after = (
            f"batch norm and ReLU after each 1x1 convolution ({after} where it is a quantum layer)"
        )
    elif net.pointwise == "conv-bn":
        after = f"batch norm at the end of each baseline; {after}"
    stands = f"; {_STANDS[net.pointwise]}" if net.pointwise != "quantum" else ""
    norm = {"none": "", "batch": "batch norm and ", "layer": "layer norm and "}[net.head_norm]
    hidden = f"a hidden layer of {net.hidden} units with {norm}ReLU, " if net.hidden else ""
    where = ", ".join(layers) or "none"
    return {
        "A1": f"network '{net.name}': {place}{stands}; quantum layers: {where}",
        "A2": f"{net.in_channels} image channels: {before}",
        "A16": after,
        "A17": _scale(net) if layers else NOT_QUANTUM,
        "A21": f"{pools}; {hidden}dropout {net.dropout:g}, one linear layer to the classes",
        "A26": f"{rival}; parameters are counted layer by layer (`qpc nets`)",
    }


def _scale(net: NetConfig) -> str:
    if net.norm_after == "batch":
        return "expectation values in [-1, 1], then batch norm"
    if "tiny" in net.name:
        return "raw expectation values in [-1, 1]; the network's own batch norm follows"
    return "raw expectation values in [-1, 1]"


_QUANTUM = (*(f"A{i}" for i in range(3, 14)), "A18", "A19", "A20")

_ANSATZ = {
    "strongly_entangling": "RZ RX RZ on each qubit and a CNOT ring (strongly entangling layers)",
    "figure1": "RX RZ on each qubit and a CNOT ring (the paper's Fig. 1)",
    "circuit_centric": "the paper's equation: RZ RX RZ, then controlled phases and RX",
}
_RING = {"figure1": "ring, each qubit controls the next"}
_NO_GATES = "none: two-qubit gates are left out"


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
    entangled, windows = net.pointwise != "no-entanglement", net.name == "quanvolution"

    def ansatz(layer: Conventions) -> str:
        if entangled:
            return f"{layer['ansatz']}: {_ANSATZ.get(layer['ansatz'], 'a circuit')}"
        return f"{net.ansatz}: {_ANSATZ[net.ansatz]}, without the gates on two qubits"

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
        "A9": each(lambda layer: f"{ansatz(layer)}; {layer['num_weights']} weights per circuit"),
        "A10": "rotations, then entanglers; the first block acts first"
        if entangled
        else "rotations alone; the first block acts first",
        "A11": each(
            lambda layer: _RING.get(layer["ansatz"], "ring of range l mod (n-1) + 1 in block l")
        )
        if entangled
        else _NO_GATES,
        "A12": f"{net.num_layers} blocks",
        "A13": f"init '{net.init}'" + (", never trained" if net.pointwise == "frozen" else ""),
        "A18": convention("channel_order", "qubit_order")
        + ("; a window's channels are ordered by image channel, row, column" if windows else ""),
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
    processes = config.devices * config.num_nodes
    shared = f", each batch divided between {processes} processes" if processes > 1 else ""
    return {
        "A22": f"{config.optimizer}, lr {config.lr:g}, {schedule} over {config.epochs} epochs, "
        f"batch {config.batch_size} (test {config.test_batch_size}), weight decay "
        f"{config.weight_decay:g}, momentum {config.momentum:g}, per-channel normalisation, "
        f"augmentation {config.augment}, seed {config.seed}, {config.dtype}{shared}",
        "A23": {
            "cross-entropy": "softmax cross-entropy of the logits, one class per image",
            "mse": "mean squared difference of logits and one-hot labels, one class per image",
        }[config.loss],
    }
