"""Exchange the 1x1 convolutions of any network for quantum ones: the paper's "Application"."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from qpc_qiskit.common.tables import table
from qpc_qiskit.layer import (
    QuantumLayer,
    QuantumPointwiseConv1d,
    QuantumPointwiseConv2d,
    QuantumPointwiseConv3d,
)
from qpc_qiskit.nets.pointwise import KINDS, make_pointwise

Where = Literal["all"] | Collection[str] | Callable[[str, nn.Module], bool]

_LAYERS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv1d: QuantumPointwiseConv1d,
    nn.Conv2d: QuantumPointwiseConv2d,
    nn.Conv3d: QuantumPointwiseConv3d,
}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# By name, since their modules are slow to import and not in every build of torch.
_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


class Subsample(nn.Module):
    """Every stride-th position along each axis, from the first: the stride of a 1x1 convolution.

    Args:
        stride: one for each spatial axis.
    """

    def __init__(self, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H/stride), ceil(W/stride)), a view; likewise in 1d and 3d.

        Raises:
            ValueError: images of other axes.
        """
        if images.ndim != len(self.stride) + 2:
            raise ValueError(
                f"Expected batch, channels and {len(self.stride)} spatial axes, got shape "
                f"{tuple(images.shape)}."
            )
        steps = [slice(None, None, step) for step in self.stride]
        return images[(slice(None), slice(None), *steps)]

    def extra_repr(self) -> str:
        """Arguments, as torch prints them."""
        return f"{self.stride}"


@dataclass(frozen=True)
class Replacement:
    """One exchanged convolution."""

    name: str
    """Its name in the network."""
    aliases: tuple[str, ...]
    """Further names of the same module, where it is used more than once."""
    in_channels: int
    """Channels read."""
    out_channels: int
    """Channels given."""
    num_qubits: int | None
    """Of a circuit; None without circuits."""
    num_kernels: int | None
    """Circuits side by side; None without circuits."""
    parameters_before: int
    """Of the convolution, bias included."""
    parameters_after: int
    """Of what stands there now."""
    stride: tuple[int, ...]
    """Along each spatial axis, now of the subsampling before the layer."""
    bias_dropped: bool
    """Whether the convolution had a bias, which its successor has not."""


class Replacements(tuple[Replacement, ...]):
    """What `replace_pointwise` did, in the network's order; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        """One line for each, and a total."""
        head = ("layer", "channels", "qubits x circuits", "parameters", "stride", "notes")
        rows = [head, *(_row(change) for change in self)]
        before = sum(change.parameters_before for change in self)
        after = sum(change.parameters_after for change in self)
        rows.append(("total", "", "", f"{before} -> {after}", "", ""))
        return table(rows)


class Replaced(NamedTuple):
    """A network with quantum layers, and what was done to it."""

    model: nn.Module
    """The network; the one that was given if it was changed in place."""
    changes: Replacements
    """One record for each exchanged convolution."""


def replace_pointwise(
    model: nn.Module,
    *,
    where: Where = "all",
    pointwise: str = "quantum",
    inplace: bool = False,
    **options: Any,
) -> Replaced:
    """Exchange 1x1 convolutions for quantum layers of the same shape.

    A convolution with a stride becomes a `Subsample` and a layer in a `Sequential`: circuits run
    only where there is an output. A bias has no successor and is dropped; `changes` says so.
    (Batch norm, which follows most 1x1 convolutions, has one of its own.) Weights are fresh: the
    network must be trained anew. Values of the new layers lie in [-1, 1]. Names, other modules and
    their weights stay as they are; a module used under several names is exchanged once, for all of
    them. Dtype, device and training mode are those of the convolution.

    Args:
        model: any network whose `forward` calls its convolutions as the modules that
            `named_modules()` gives; one that it reaches otherwise, as through a closure or a dict
            of lists, goes on unseen. It is not changed unless `inplace`. Replace before wrapping
            it for several processes.
        where: `all` 1x1 convolutions; or their names as `model.named_modules()` gives them; or a
            function of name and module that says which.
        pointwise: what takes their place: `quantum`, or a baseline of `nets.pointwise` (2d only).
        inplace: change the model that is given, not a copy. Nothing is changed if it fails.
        options: arguments of `QuantumPointwiseConv2d` other than channels, device and dtype.

    Returns:
        The network and a record of each change; `print(replaced.changes)` shows a table.

    Raises:
        ValueError: nothing was found; a name is not that of a 1x1 convolution; or one that was
            chosen cannot be exchanged (groups, padding, hooks, weights shared with another module,
            a plain list that holds it too, channels that do not fit); or the model is wrapped for
            several processes, or cannot be copied. The message names it.

    Source: arXiv:2412.01241, section "Application".

    Example:
        >>> model, changes = replace_pointwise(mobilenet_tiny(), where=["block1.pointwise"])
        >>> print(changes)
        layer             channels  qubits x circuits  parameters  stride  notes
        block1.pointwise  16 -> 32  4 x 8              512 -> 288  1
        total                                          512 -> 288
    """
    if pointwise not in KINDS:
        raise ValueError(
            f"Unknown pointwise layer {pointwise!r}; expected one of {', '.join(KINDS)}."
        )
    _refuse_wrappers(model)
    names = _names_by_module(model)
    chosen = _chosen(names, where)
    if inplace and model in names:
        raise ValueError(
            "The model is itself a convolution and cannot be changed in place; take the model that "
            "is returned with inplace=False."
        )
    for module, aliases in chosen:
        _check(model, module, aliases[0], pointwise)
    if not inplace:
        model = _copied(model)
        chosen = [(model.get_submodule(aliases[0]), aliases) for _, aliases in chosen]
    made = [_make(module, aliases[0], pointwise, options) for module, aliases in chosen]
    changes = []
    for (module, aliases), (layer, successor) in zip(chosen, made, strict=True):
        changes.append(_record(module, aliases, layer))
        for name in aliases:
            if name == "":
                model = successor
                continue
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, successor)
    return Replaced(model, Replacements(changes))


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # torch's own words, or those of whatever the model holds
        raise ValueError(
            f"The model cannot be copied ({error}). Take it apart from what cannot, as by "
            "torch.nn.utils.prune.remove or remove_weight_norm, or change it with inplace=True."
        ) from error


def _refuse_wrappers(model: nn.Module) -> None:
    """DDP and FSDP know the parameters that were there when they were made, and no later ones."""
    for name, module in model.named_modules():
        if found := _WRAPPERS & {kind.__name__ for kind in type(module).__mro__}:
            where = f"{name!r} is" if name else "The model is"
            raise ValueError(
                f"{where} wrapped in {found.pop()}, which would not synchronise the new layers. "
                "Replace before wrapping."
            )


def _names_by_module(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every 1x1 convolution with all its names, in the network's order."""
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _CONVOLUTIONS) and set(module.kernel_size) == {1}:
            found.setdefault(module, []).append(name)
    return found


def _chosen(names: dict[nn.Module, list[str]], where: Where) -> list[tuple[nn.Module, list[str]]]:
    present = [name for aliases in names.values() for name in aliases]
    if not present:
        raise ValueError("The model has no 1x1 convolution (Conv1d, Conv2d or Conv3d).")
    listed = ", ".join(present)
    if where == "all":
        return list(names.items())
    if isinstance(where, str) or not (callable(where) or _are_names(where)):
        example = where if isinstance(where, str) else present[0]
        raise ValueError(
            f"where={where!r}: expected 'all', a list of names such as [{example!r}], or a "
            "function."
        )
    if callable(where):
        chosen = [
            (module, aliases)
            for module, aliases in names.items()
            if any(where(name, module) for name in aliases)
        ]
        if not chosen:
            raise ValueError(f"where chose none of the 1x1 convolutions: {listed}.")
        return chosen
    wanted = set(where)
    if unknown := sorted(wanted - set(present)):
        raise ValueError(
            f"{', '.join(map(repr, unknown))}: no such 1x1 convolution; there are {listed}."
        )
    if not wanted:
        raise ValueError(f"where names no convolution; there are {listed}.")
    return [(module, aliases) for module, aliases in names.items() if wanted & set(aliases)]


def _are_names(where: object) -> bool:
    return isinstance(where, Collection) and all(isinstance(name, str) for name in where)


def _plain_holders(model: nn.Module, module: nn.Module) -> Iterator[str]:
    """Attributes that hold a module where torch does not look: plain lists, tuples, sets, dicts."""
    for name, owner in model.named_modules():
        for attribute, value in vars(owner).items():
            values = value.values() if isinstance(value, dict) else value
            is_plain = attribute != "_modules" and isinstance(value, list | tuple | set | dict)
            if is_plain and any(each is module for each in values):
                yield f"{name}.{attribute}" if name else attribute


def _check(model: nn.Module, module: nn.Module, name: str, pointwise: str) -> None:
    """Refuse what no pointwise layer can stand for."""
    where = f"The 1x1 convolution {name!r}" if name else "The model"
    advice = "Leave it out with where=."
    if type(module) not in _LAYERS:
        kind = type(module).__name__
        raise ValueError(f"{where} is a {kind}, which may do more than convolve. {advice}")
    assert isinstance(module, _CONVOLUTIONS)
    if module.groups != 1:
        raise ValueError(
            f"{where} has groups={module.groups}, a quantum layer reads all channels. {advice}"
        )
    if not isinstance(module.padding, str) and any(module.padding):
        raise ValueError(
            f"{where} has padding={module.padding}, where a quantum layer would see only the "
            f"border. {advice}"
        )
    if any(hooks for kind, hooks in vars(module).items() if kind.endswith("_hooks")):
        raise ValueError(f"{where} has hooks, which would be lost. Remove them. {advice}")
    if pointwise != "quantum" and type(module) is not nn.Conv2d:
        raise ValueError(f"{where} is no Conv2d, for which {pointwise!r} is made. {advice}")
    if holder := next(_plain_holders(model, module), None):
        raise ValueError(
            f"{where} is also in {holder!r}, a plain list, tuple, set or dict in which it would "
            f"stay. Use nn.ModuleList or nn.ModuleDict. {advice}"
        )
    own = {id(parameter) for parameter in module.parameters()}
    for other_name, other in model.named_modules():
        if other is not module and any(id(p) in own for p in other.parameters(recurse=False)):
            raise ValueError(
                f"{where} shares its weights with {other_name!r}, which would go on alone. {advice}"
            )


def _make(
    module: nn.Module, name: str, pointwise: str, options: dict[str, Any]
) -> tuple[nn.Module, nn.Module]:
    """The new layer, and what takes the convolution's place: the layer or a sequence with it."""
    assert isinstance(module, _CONVOLUTIONS)
    inputs, outputs = module.in_channels, module.out_channels
    where: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype}
    try:
        layer = (
            _LAYERS[type(module)](inputs, outputs, **where, **options)
            if pointwise == "quantum"
            else make_pointwise(pointwise, inputs, outputs, **where, **options)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"The 1x1 convolution {name!r} cannot be exchanged: {error}") from error
    successor = layer
    if set(module.stride) != {1}:
        successor = nn.Sequential(
            OrderedDict(subsample=Subsample(tuple(module.stride)), pointwise=layer)
        )
    successor.train(module.training)
    return layer, successor


def _record(module: nn.Module, aliases: list[str], layer: nn.Module) -> Replacement:
    assert isinstance(module, _CONVOLUTIONS)
    spec = layer.spec if isinstance(layer, QuantumLayer) else None
    has_bias = any(name.endswith("bias") for name, _ in layer.named_parameters())
    return Replacement(
        name=aliases[0],
        aliases=tuple(aliases[1:]),
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        num_qubits=spec.num_qubits if spec else None,
        num_kernels=spec.num_kernels if spec else None,
        parameters_before=sum(parameter.numel() for parameter in module.parameters()),
        parameters_after=sum(parameter.numel() for parameter in layer.parameters()),
        stride=tuple(module.stride),
        bias_dropped=module.bias is not None and not has_bias,
    )


def _row(change: Replacement) -> tuple[str, ...]:
    notes = ["bias dropped"] if change.bias_dropped else []
    if change.aliases:
        notes.append(f"also {', '.join(change.aliases)}")
    circuits = f"{change.num_qubits} x {change.num_kernels}" if change.num_qubits else "none"
    return (
        change.name or "(the model)",
        f"{change.in_channels} -> {change.out_channels}",
        circuits,
        f"{change.parameters_before} -> {change.parameters_after}",
        "x".join(map(str, change.stride)) if set(change.stride) != {1} else "1",
        "; ".join(notes),
    )
