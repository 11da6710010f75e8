"""Named noise that comes with the toolkit, one TOML file each in `noise_models/presets`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from noise_models.spec import NoiseSpec
from qpc_qiskit.errors import NoiseError

_FOLDER = files("noise_models") / "presets"


@cache
def names() -> tuple[str, ...]:
    """Of all, in alphabetical order."""
    found = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


@cache
def find(name: str) -> NoiseSpec:
    """The noise with a name.

    Raises:
        NoiseError: there is none.
    """
    if name not in names():
        raise NoiseError(
            f"There is no noise {name!r} in the catalog; expected one of {', '.join(names())}."
        )
    return NoiseSpec.from_toml((_FOLDER / f"{name}.toml").read_text("utf-8"), f"{name}.toml")
