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

_OLD = ("spec", "pixels", "weights")
_NUM_OLD = {"evs": 3, "evs_with_residuals": 3, "vjp": 4, "jacobian": 3}
"""Arguments that each method needed."""


def takes_either(method: Callable[P, R]) -> Callable[P, R]:
    """A method that takes a `LayerCall`, such that it takes spec, pixels and weights as well."""

    @wraps(method)
    def either(engine: Any, /, *args: Any, **options: Any) -> Any:
        if not (args and isinstance(args[0], LayerCall)) and "call" not in options:
            _warn(method.__name__, 3)
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
    for name, num_old in _NUM_OLD.items():
        method = vars(engine).get(name)
        if inspect.isfunction(method):
            parameters = list(inspect.signature(method).parameters.values())[1:]
            kinds = [p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters if p.default is p.empty]
            if sum(kinds) == num_old:
                _warn(f"{engine.__name__}.{name}", 5)
                method = _from_old(method)
            setattr(engine, name, takes_either(method))


def _from_old(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def asked(engine: Any, call: LayerCall, *args: Any, **options: Any) -> Any:
        return method(engine, call.spec, call.pixels, call.weights, *args, **options)

    return asked


def _warn(method: str, stacklevel: int) -> None:
    warnings.warn(
        f"{method} takes a LayerCall(spec, pixels, weights) of qpc_qiskit.engines in place of "
        "spec, pixels and weights; these go in the version after this.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
