"""How far a long piece of work is: its phase, how much of it is done, how fast, how long it takes.

Whoever works tells a `Progress`. `busy` decides how that is shown: a bar on a terminal, a line a
minute where there is none, or nothing.
"""

import sys
import warnings
from contextlib import AbstractContextManager
from time import monotonic
from typing import Self

LINE_SECONDS = 60
"""Between two lines where stderr is no terminal."""


def fit_text(done: int, total: int) -> str:
    """How far the fit of a brickwall encoder's angles is."""
    return f"fitting angles, {done:,} of {total:,} directions"


class Progress(AbstractContextManager["Progress"]):
    """Takes what is told, and shows nothing. In another process any other becomes this one."""

    def __init__(self) -> None:
        self.begin("")

    def __exit__(self, *_details: object) -> None:
        """Nothing more is told."""

    def __reduce__(self) -> tuple[type["Progress"], tuple[()]]:
        return Progress, ()

    def begin(self, phase: str, total: int | None = None, unit: str = "") -> None:
        """Begin another phase.

        Args:
            phase: its name.
            total: of what `advance` counts; None: nobody knows.
            unit: in the plural, such as "images".
        """
        self.phase, self.total, self.unit = phase, total, unit
        self.note, self.done = "", 0
        self._first, self._since = 0, monotonic()
        self._show()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        self._show()

    def count(self, phase: str, done: int, total: int) -> None:
        """All at once: in this phase, so much of so much is done, some of it perhaps long ago."""
        if (phase, total) != (self.phase, self.total):
            self.begin(phase, total)
            self._first = done
        self.done = done
        self._show()

    def fitting(self, done: int, total: int) -> None:
        """Say beside the phase how far a fit is, as `EstimatorEngine.on_fit` tells it."""
        self.note = f": {fit_text(done, total)}" if done < total else ""
        self._show()

    def line(self, text: str) -> None:
        """Show a line that stays."""

    @property
    def figures(self) -> str:
        """What is done, how fast, how long it still takes; what is not known is left out."""
        seconds, count = monotonic() - self._since, self.done - self._first
        told = []
        if self.total is not None:
            told.append(f"{self.done:,} of {self.total:,} {self.unit}".rstrip())
        if count > 0 and seconds >= 1:
            rate = count / seconds
            told.append(f"{rate:.3g} a second" if rate >= 1 else f"{1 / rate:.3g} s each")
            if self.total is not None:
                told.append(f"{_duration((self.total - self.done) / rate)} left")
        return ", ".join(told)

    def _show(self) -> None:
        """Something has changed."""


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min" if seconds >= 100 else f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"


class _Lines(Progress):
    """Now and then a line on stderr."""

    def __init__(self) -> None:
        self._told = monotonic()
        super().__init__()

    def line(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def _show(self) -> None:
        if monotonic() - self._told >= LINE_SECONDS:
            self._told = monotonic()
            self.line(": ".join(filter(None, (f"{self.phase}{self.note}", self.figures))))


class _Bar(Progress):
    """A bar on the terminal that stderr is."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True, highlight=False, markup=False),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None, figures="")
        super().__init__()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        self._bar.console.print(text)

    def _show(self) -> None:
        told = f"{self.phase}{self.note}"
        self._bar.tasks[0].total = self.total  # `update` takes None for "as it is"
        self._bar.update(self._task, description=told, completed=self.done, figures=self.figures)


def busy(
    phase: str = "", total: int | None = None, unit: str = "", *, enabled: bool = True
) -> Progress:
    """Show on stderr, for the length of a `with` block, that and how far something is.

    Args:
        phase: see `Progress.begin`.
        total: see `Progress.begin`.
        unit: see `Progress.begin`.
        enabled: False shows nothing at all.
    """
    shown = Progress() if not enabled else _Bar() if sys.stderr.isatty() else _Lines()
    shown.begin(phase, total, unit)
    return shown


def ImageProgress(description: str, total: int, enabled: bool = True) -> Progress:
    """The old name of `busy`, for one version."""
    warnings.warn("ImageProgress is now busy; the old name goes.", DeprecationWarning, stacklevel=2)
    return busy(description, total, "images", enabled=enabled)
