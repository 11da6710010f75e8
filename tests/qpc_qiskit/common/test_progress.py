"""What long commands show on a terminal."""

import io

import pytest
from rich.console import Console

from qpc_qiskit.common import progress
from qpc_qiskit.common.progress import ImageProgress, fit_text


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def shown(request, monkeypatch):
    """What a terminal shows, and whether it is one."""
    screen = io.StringIO()

    def console(**options):
        options.pop("stderr")
        return Console(file=screen, force_terminal=request.param, width=100, **options)

    monkeypatch.setattr(progress, "Console", console)
    return screen, request.param


def test_a_fit_is_told_before_the_bar(shown):
    screen, is_terminal = shown
    with ImageProgress("aer", 8) as bar:
        told = []
        for describe in (None, "fake_fez"):
            if describe is not None:
                bar.describe(describe)
            for done in (1200, 5000):
                bar.fitting(done, 5000)
                told.append(bar._progress.tasks[0].description)
        bar._progress.refresh()
    assert told == [
        "aer: fitting angles, 1,200 of 5,000 directions",
        "aer",
        "fake_fez: fitting angles, 1,200 of 5,000 directions",
        "fake_fez",
    ]
    assert ("fake_fez" in screen.getvalue()) == is_terminal


def test_another_pass_begins_with_its_own_text(shown):
    with ImageProgress("epoch 1", 8) as bar:
        bar.restart("epoch 2")
        bar.fitting(3, 3)
        assert bar._progress.tasks[0].description == "epoch 2"


def test_numbers_are_readable():
    assert fit_text(0, 12345) == "fitting angles, 0 of 12,345 directions"
