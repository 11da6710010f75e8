"""What long commands show, on a terminal and elsewhere."""

import io
import pickle
import sys

import pytest

from qpc_qiskit.common import progress
from qpc_qiskit.common.progress import Progress, busy, fit_text


class Screen(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    times = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: times[0])
    return times


def shown_on(monkeypatch, is_terminal):
    """What stderr is from here on; a fixture's would be pytest's own again in the test."""
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen(is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


on_both = pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "file"])


@on_both
def test_a_fit_is_told_beside_the_phase(is_terminal, monkeypatch):
    screen, told = shown_on(monkeypatch, is_terminal), []
    with busy("aer", 8, "images") as bar:
        for phase in (None, "fake_fez"):
            if phase is not None:
                bar.begin(phase, 8, "images")
            for done in (1200, 5000):
                bar.fitting(done, 5000)
                told.append(f"{bar.phase}{bar.note}")
    assert told == [
        "aer: fitting angles, 1,200 of 5,000 directions",
        "aer",
        "fake_fez: fitting angles, 1,200 of 5,000 directions",
        "fake_fez",
    ]
    assert ("fake_fez" in screen.getvalue()) == is_terminal


@on_both
def test_another_phase_begins_with_its_own_text(is_terminal, monkeypatch):
    shown_on(monkeypatch, is_terminal)
    with busy("epoch 1", 8) as bar:
        bar.advance(3)
        bar.fitting(1, 3)
        bar.begin("epoch 2", 8)
        assert (bar.note, bar.done) == ("", 0)


def test_rate_and_time_left(clock):
    bar = busy("predicting", 400, "images", enabled=False)
    bar.begin("predicting", 400, "images")
    assert bar.figures == "0 of 400 images"
    clock[0] += 10
    bar.advance(40)
    assert bar.figures == "40 of 400 images, 4 a second, 90 s left"
    clock[0] += 70
    assert bar.figures == "40 of 400 images, 2 s each, 12 min left"
    clock[0] += 4000
    assert bar.figures.endswith(" s each, 10 h 12 min left")
    bar.begin("loading")
    assert bar.figures == ""


def test_what_was_done_before_makes_nothing_faster(clock):
    bar = Progress()
    bar.count("cells", 300, 400)
    clock[0] += 10
    bar.count("cells", 310, 400)
    assert bar.figures == "310 of 400, 1 a second, 90 s left"
    bar.count("networks", 0, 2)
    assert (bar.phase, bar.figures) == ("networks", "0 of 2")


def test_a_line_a_minute_where_there_is_no_terminal(clock, monkeypatch):
    screen = shown_on(monkeypatch, False)
    with busy("predicting", 400, "images") as bar:
        for _ in range(7):
            clock[0] += 20
            bar.advance()
        bar.line("stays")
    assert screen.getvalue() == (
        "predicting: 3 of 400 images, 20 s each, 2 h 12 min left\n"
        "predicting: 6 of 400 images, 20 s each, 2 h 11 min left\n"
        "stays\n"
    )


def test_text_in_brackets_is_shown_as_it_is(monkeypatch):
    screen = shown_on(monkeypatch, True)
    with busy("epoch [1]", 3) as bar:
        bar.line("accuracy [90] %")
    assert "accuracy [90] %" in screen.getvalue()
    assert "epoch [1]" in screen.getvalue()


@on_both
def test_nothing_is_shown_where_nothing_is_asked_for(is_terminal, clock, monkeypatch):
    screen = shown_on(monkeypatch, is_terminal)
    with busy("epoch", 3, enabled=False) as bar:
        clock[0] += 100
        bar.advance()
        bar.line("x")
    assert type(pickle.loads(pickle.dumps(busy("epoch", 3)))) is Progress, "nor in other processes"
    assert screen.getvalue() == ""


def test_the_old_name_works_for_one_version():
    with pytest.warns(DeprecationWarning, match="now busy"):
        assert progress.ImageProgress("testing", 3).unit == "images"


def test_numbers_are_readable():
    assert fit_text(0, 12345) == "fitting angles, 0 of 12,345 directions"
