"""What a long command shows on the terminal: a bar, and a line for each finished epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show that something of unknown length is going on, on stderr if that is a terminal."""
    with spinner(text):
        yield


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """The same with a text that changes.

    Yields:
        A function that shows another text.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(text) as shown:
        yield shown.update


def fit_text(done: int, total: int) -> str:
    """How far the fit of a brickwall encoder's angles is."""
    return f"fitting angles, {done:,} of {total:,} directions"


class ImageProgress:
    """A bar that counts images, on stderr; where stderr is no terminal, only the lines appear.

    Args:
        description: stands before the bar.
        total: images of one pass.
        enabled: False shows nothing at all.
    """

    def __init__(self, description: str, total: int, enabled: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not enabled, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} images"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task: TaskID = self._progress.add_task(description, total=total)
        self._description = description

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def advance(self, num_images: int) -> None:
        """Count images."""
        self._progress.advance(self._task, num_images)

    def fitting(self, done: int, total: int) -> None:
        """Say before the bar how far a fit is, as `EstimatorEngine.on_fit` tells it."""
        told = f": {fit_text(done, total)}" if done < total else ""
        self._progress.update(self._task, description=f"{self._description}{told}")

    def restart(self, description: str) -> None:
        """Begin another pass."""
        self._description = description
        self._progress.reset(self._task, description=description)

    def describe(self, description: str) -> None:
        """Change the text before the bar."""
        self._description = description
        self._progress.update(self._task, description=description)

    def line(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        self._console.print(text)
