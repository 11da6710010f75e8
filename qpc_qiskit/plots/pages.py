"""HTML pages that need nothing else: style and figures are in the file, no network is asked."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpc_qiskit.common.files import write_text

_MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Table:
    """A table of a page; the first column is text, the others are set as numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    """Under the title."""
    words: Sequence[int] = ()
    """Other columns that are text, by number; long text is wrapped there."""


@dataclass(frozen=True)
class Picture:
    """A figure of a page."""

    path: Path
    """PNG or SVG; its content goes into the page."""
    caption: str
    beside: str = ""
    """Where its vector drawing and its data are."""

    @property
    def source(self) -> str:
        """A data URI.

        Raises:
            KeyError: neither PNG nor SVG.
            OSError: the file cannot be read.
        """
        data = base64.b64encode(self.path.read_bytes()).decode()
        return f"data:{_MEDIA_TYPES[self.path.suffix]};base64,{data}"


def write_page(path: Path, package: str, template: str, **values: Any) -> None:
    """Write a page in one step.

    Args:
        path: file to write.
        package: whose folder `templates` has the template.
        template: its name; it extends `page.html.j2` of this package, which has macros for tables
            and figures.
        values: of the template; text is escaped.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader(package), PackageLoader("qpc_qiskit.plots")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = number
    write_text(path, environment.get_template(template).render(**values))


def number(value: float | None) -> str:
    """Two digits; a dash for what is not known."""
    return "-" if value is None or math.isnan(value) else f"{value:.2g}"
