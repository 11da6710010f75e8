"""How many parameters the layers of a network have, and where they are."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from qpc_qiskit.common.tables import table
from qpc_qiskit.layer import QuantumLayer
from qpc_qiskit.nets.pointwise import MatchedConv2d

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class LayerCount:
    """Parameters of one layer."""

    name: str
    """In the network."""
    kind: str
    """Class, and the sizes that decide the count."""
    parameters: int
    """All of them."""
    trainable: int
    """Those that training changes."""
    is_pointwise: bool
    """Whether it is a quantum layer, a baseline in its place, or a 1x1 convolution."""


@dataclass(frozen=True)
class ParameterTable:
    """Parameters of a network, layer by layer; prints as a table."""

    layers: tuple[LayerCount, ...]
    """Every layer that has some, in the network's order."""

    @property
    def total(self) -> int:
        """Parameters of the network."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable(self) -> int:
        """Those that training changes."""
        return sum(layer.trainable for layer in self.layers)

    @property
    def pointwise(self) -> int:
        """Parameters of the pointwise layers, which are what the paper compares."""
        return sum(layer.parameters for layer in self.layers if layer.is_pointwise)

    def __str__(self) -> str:
        """One line for each layer, and the totals."""
        rows = [(layer.name, layer.kind, _number(layer)) for layer in self.layers]
        rows.append(("pointwise layers", "", str(self.pointwise)))
        rows.append(("network", "", str(self.total)))
        return table(rows)


def parameter_table(model: nn.Module) -> ParameterTable:
    """Count the parameters of a network; a parameter that two layers share is counted once.

    Args:
        model: any network.
    """
    seen: set[int] = set()
    return ParameterTable(tuple(_counts(model, "", seen)))


def _counts(module: nn.Module, name: str, seen: set[int]) -> Iterator[LayerCount]:
    is_whole = isinstance(module, QuantumLayer | MatchedConv2d)
    own = [p for p in module.parameters(recurse=is_whole) if id(p) not in seen]
    seen.update(map(id, own))
    if own:
        is_1x1 = isinstance(module, _CONVOLUTIONS) and set(module.kernel_size) == {1}
        yield LayerCount(
            name,
            _kind(module),
            sum(p.numel() for p in own),
            sum(p.numel() for p in own if p.requires_grad),
            is_whole or is_1x1,
        )
    if is_whole:
        return
    for child_name, child in module.named_children():
        yield from _counts(child, f"{name}.{child_name}" if name else child_name, seen)


def _kind(module: nn.Module) -> str:
    kind = type(module).__name__
    if isinstance(module, QuantumLayer):
        spec = module.spec
        return (
            f"{kind} {module.in_channels} -> {module.out_channels}, {spec.num_kernels} circuits of "
            f"{spec.num_qubits} qubits, {spec.num_weights} weights each"
        )
    if isinstance(module, MatchedConv2d):
        return (
            f"{kind} {module.in_channels} -> {module.rank} -> {module.out_channels}, matched to "
            f"{module.wanted}"
        )
    if isinstance(module, _CONVOLUTIONS):
        size = "x".join(map(str, module.kernel_size))
        return f"{kind} {size}, {module.in_channels} -> {module.out_channels}"
    if isinstance(module, nn.Linear):
        return f"{kind} {module.in_features} -> {module.out_features}"
    return kind


def _number(layer: LayerCount) -> str:
    frozen = "" if layer.trainable == layer.parameters else " (frozen)"
    return f"{layer.parameters}{frozen}"
