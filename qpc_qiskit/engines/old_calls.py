"""Engines without `LayerCall`, for one version, with a DeprecationWarning.

Engines were called with a layer's spec, pixels and weights, `evs(spec, pixels, weights)` and
`vjp(spec, pixels, weights, grad)`, and those of users have methods that take them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from qpc_qiskit.engines.calls import LayerCall

P = ParamSpec("P")
R = TypeVar("R")

_METHODS = {
    "evs": "(call)",
    "evs_with_residuals": "(call)",
    "vjp": "(call, grad)",
    "jacobian": "(call)",
}
_OLD = ("spec", "pixels", "weights")


def takes_either(method: Callable[P, R]) -> Callable[P, R]:
    """A method that takes a `LayerCall`, such that it takes spec, pixels and weights as well."""

    @wraps(method)
    def either(engine: Any, /, *args: Any, **options: Any) -> Any:
        if not (args and isinstance(args[0], LayerCall)) and "call" not in options:
            name = method.__name__
            _warn(f"{name}(spec, pixels, weights, ...) became {name}{_METHODS[name]}", 3)
            layer = dict(zip(_OLD, args, strict=False))
            layer |= {each: options.pop(each) for each in _OLD if each in options}
            args = (LayerCall(**layer), *args[len(_OLD) :])
        return method(engine, *args, **options)

    return either  # type: ignore[return-value]


def adapt(engine: type) -> None:
    """Have the methods of a new class of engines take, and be called with, either form.

    Raises:
        TypeError: it makes views of itself for layers, which nobody asks for any more.
    """
    if "for_layer" in vars(engine):
        raise TypeError(
            f"{engine.__name__}.for_layer is not called any more: an engine knows from its call "
            "which layer asks. Take the name from evs(self, call): call.layer."
        )
    for name in _METHODS:
        method = vars(engine).get(name)
        if not inspect.isfunction(method):
            continue
        if _takes_old(method):
            new = _METHODS[name].replace("(", "(self, ")
            _warn(
                f"{engine.__name__}.{name}(self, spec, pixels, weights, ...) became {name}{new}", 5
            )
            method = _from_old(method)
        setattr(engine, name, takes_either(method))


def _takes_old(method: Callable[..., Any]) -> bool:
    """Whether it needs two arguments more than one call in place of three."""
    needed = [
        each
        for each in inspect.signature(method).parameters.values()
        if each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 2 + _METHODS[method.__name__].count(",") + 2


def _from_old(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def asked(engine: Any, call: LayerCall, *args: Any, **options: Any) -> Any:
        return method(engine, call.spec, call.pixels, call.weights, *args, **options)

    return asked


def _warn(what: str, stacklevel: int) -> None:
    warnings.warn(
        f"{what}, with call = LayerCall(spec, pixels, weights) of qpc_qiskit.engines; the old form "
        "goes in the version after this.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
