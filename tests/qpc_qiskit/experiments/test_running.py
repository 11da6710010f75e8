"""Running experiments: what is done again and what is not, and with which result."""

import csv
import errno
import json
import os
import pickle
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
from later import later
from processes import PIPE, Process

from qpc_qiskit.data.images import load
from qpc_qiskit.errors import CheckpointError, DataError, ExperimentError
from qpc_qiskit.experiments import Experiment, run_experiment, summary_table
from qpc_qiskit.experiments import folder as folder_module
from qpc_qiskit.experiments.folder import SECONDS_FILE, ExperimentFolder
from qpc_qiskit.experiments.results import (
    CellResult,
    Epoch,
    differences,
    differences_table,
    read_results,
)
from qpc_qiskit.experiments.spec import changed
from qpc_qiskit.grid.executors import open_executor
from qpc_qiskit.grid.locking import FolderHeldError, locked
from qpc_qiskit.plots import figures
from qpc_qiskit.plots.figures import plot_experiment

training = later("qpc_qiskit.training.trainer")
pytestmark = pytest.mark.usefixtures("undrawn")

EXPERIMENT = Experiment.model_validate(
    {
        "name": "tiny",
        "title": "Tiny",
        "question": "Does it run?",
        "paper": "says nothing",
        "seeds": [0, 1],
        "net": {"width": 4, "quantum_channels": 4, "hidden": 4},
        "training": {"epochs": 2, "batch_size": 32},
        "lines": [
            {
                "label": "quantum",
                "net": {"num_layers": 1},
                "paper": "90",
                "against": ["classical"],
            },
            {"label": "classical", "net": {"name": "small-classical"}},
        ],
    }
)
FILES = ("results.json", "curves.csv", "summary.md", "experiment.json")


@pytest.fixture(scope="module")
def data():
    return load("digits").subset(64, 20)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    return folder, run_experiment(EXPERIMENT, folder, data=data, progress=False)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def run(folder, data, experiment=EXPERIMENT, **options):
    return run_experiment(experiment, folder, data=data, progress=False, **options)


def timeless(results):
    """Times differ from run to run, everything else is bit for bit the same."""
    return results.model_copy(update={"epoch_seconds": {}})


def with_bad_line(lr=1e30):
    bad = {"label": "bad", "training": {"optimizer": "sgd", "lr": lr}, "net": {"num_layers": 1}}
    return changed(EXPERIMENT, seeds=[0], lines=[bad, *EXPERIMENT.model_dump()["lines"]])


@pytest.fixture(scope="module")
def with_failure(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("failure")
    return folder, run(folder, data, with_bad_line())


def test_results_tell_every_cell(done):
    folder, results = done
    assert results.is_complete
    assert [(cell.label, cell.seed) for cell in results.cells] == [
        ("quantum", 0), ("classical", 0), ("quantum", 1), ("classical", 1),
    ]  # fmt: skip
    assert read_results(folder) == results
    for cell in results.cells:
        metrics = table(folder / cell.folder / "metrics.csv")
        assert [epoch.test_loss for epoch in cell.curve] == [float(m["test_loss"]) for m in metrics]
        record = json.loads((folder / cell.folder / "model.json").read_text())
        assert record["training"]["seed"] == cell.seed
        assert record["metrics"]["test_accuracy"] == cell.last.test_accuracy
    assert results.cells[0].pointwise_parameters == 2 * 6  # two circuits of two qubits, one block
    assert results.cells[1].pointwise_parameters == 4 * 4 + 4


def test_tables_and_figure(done):
    folder, results = done
    rows = table(folder / "curves.csv")
    assert len(rows) == 8
    assert float(rows[-1]["train_accuracy"]) == results.cells[-1].last.train_accuracy
    summary = summary_table(results)
    accuracies = [
        100 * cell.last.test_accuracy for cell in results.cells if cell.label == "quantum"
    ]
    assert summary[0][:3] == ("quantum", "2", "2")
    low, high = sorted(accuracies)
    assert summary[0][4] == f"{sum(accuracies) / 2:.2f} ({low:.2f} to {high:.2f})"
    times = [
        float(row["seconds"])
        for cell in results.cells[:1]
        for row in table(folder / cell.folder / "seconds.csv")
    ]
    assert results.epoch_seconds[results.cells[0].folder] == pytest.approx(sum(times) / 2)
    assert [row[5] for row in summary] == ["90", "-"]
    text = (folder / "summary.md").read_text()
    assert f"| {' | '.join(summary[1])} |" in text
    assert "The paper: says nothing" in text
    assert "64 training and 20 test images" in text
    assert (folder / "curves.png").exists()
    seconds = table(folder / "seconds.csv")
    assert [row["finished_epochs"] for row in seconds] == ["2"] * 4


def test_finished_cells_are_not_trained_again(done, data, tmp_path, monkeypatch):
    shutil.copytree(done[0], tmp_path / "again")
    monkeypatch.setattr(training, "_fit", lambda *_: pytest.fail("trained again"))
    assert run(tmp_path / "again", data) == done[1]
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (done[0] / name).read_bytes()


def test_interrupted_and_resumed_is_uninterrupted(done, data, tmp_path, monkeypatch):
    original, calls = training._Task.training_step, []

    def training_step(self, batch, batch_index):
        calls.append(self.current_epoch)
        if len(calls) == 7:  # the second epoch of the second cell
            signal.raise_signal(signal.SIGINT)
        return original(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(training._Task, "training_step", training_step)
        with pytest.raises(
            training.TrainingInterrupted, match=r"in 'classical', seed 0\..*same command"
        ):
            run(tmp_path, data)
    assert [cell.label for cell in read_results(tmp_path).cells] == ["quantum"]
    assert not read_results(tmp_path).is_complete
    assert "Not all cells are finished" in (tmp_path / "summary.md").read_text()
    began = []
    results = run(tmp_path, data, on_cell=lambda number, count, cell: began.append((number, count)))
    assert began == [(2, 4), (3, 4), (4, 4)]
    assert timeless(results) == timeless(done[1])
    for name in ("curves.csv", "experiment.json"):
        assert (tmp_path / name).read_bytes() == (done[0] / name).read_bytes()
    for cell in results.cells:
        for name in ("model.safetensors", "model.json", "metrics.csv"):
            ours, theirs = (folder / cell.folder / name for folder in (tmp_path, done[0]))
            assert ours.read_bytes() == theirs.read_bytes()
    seconds = table(tmp_path / "seconds.csv")
    assert [row["finished_epochs"] for row in seconds] == ["2", "1", "1", "2", "2"]


def test_one_line_and_one_seed_first(done, data, tmp_path):
    first = run(tmp_path, data, changed(EXPERIMENT, seeds=[1]), only=["quantum"])
    assert not first.is_complete
    assert first.cells == tuple(c for c in done[1].cells if (c.label, c.seed) == ("quantum", 1))
    with pytest.raises(ExperimentError, match="No line is called 'x'; there are 'quantum', 'clas"):
        run(tmp_path, data, only=["x"])


def test_finished_seeds_are_reported_although_another_is_asked_for(
    done, data, tmp_path, monkeypatch
):
    shutil.copytree(done[0], tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_fit", lambda *_: pytest.fail("trained again"))
        assert run(tmp_path / "run", data, changed(EXPERIMENT, seeds=[1])) == done[1]
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (done[0] / name).read_bytes()
    (tmp_path / "run" / done[1].cells[0].folder / "model.json").unlink()  # begun, not finished
    results = run(tmp_path / "run", data, changed(EXPERIMENT, seeds=[1]))
    assert [(cell.label, cell.seed) for cell in results.cells] == [
        ("classical", 0), ("quantum", 1), ("classical", 1),
    ]  # fmt: skip
    assert not results.is_complete
    assert results.differences == ()


def test_a_cell_that_fails_does_not_stop_the_others(with_failure, done):
    folder, results = with_failure
    assert [cell.label for cell in results.cells] == ["quantum", "classical"]
    assert results.cells == done[1].cells[:2]
    assert not results.is_complete
    (failure,) = results.failures
    assert (failure.label, failure.seed) == ("bad", 0)
    assert "finite" in failure.error
    assert json.loads((folder / failure.folder / "failed.json").read_text())["label"] == "bad"
    assert read_results(folder) == results
    assert f"- bad, seed 0: {failure.error}" in (folder / "summary.md").read_text()


def test_a_failed_cell_is_tried_again(with_failure, data, tmp_path, monkeypatch):
    shutil.copytree(with_failure[0], tmp_path / "run")
    experiment = with_bad_line()
    known = run(tmp_path / "run", data, experiment, only=["classical"])
    assert known.failures == with_failure[1].failures  # told, not tried
    began = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", lambda *_: 0.01)
        results = run(
            tmp_path / "run", data, experiment, on_cell=lambda *each: began.append(each[2].label)
        )
    assert began == ["bad"]
    assert results.is_complete
    assert results.failures == ()
    assert not (tmp_path / "run" / "cells" / "bad" / "seed-0" / "failed.json").exists()


def test_an_error_of_the_program_is_not_taken_for_a_failed_cell(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_fit", lambda *_: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        run(tmp_path, data)


def test_a_cell_of_another_process_is_left_to_it(done, data, tmp_path):
    cell = EXPERIMENT.cells()[1]
    (tmp_path / cell.folder).mkdir(parents=True)
    left = []
    with locked(tmp_path / cell.folder):
        partly = run(tmp_path, data, on_held=lambda *held: left.append(held))
    ((held, holder),) = left
    assert held == cell
    assert holder == f"process {os.getpid()} on {socket.gethostname()}"
    assert not partly.is_complete
    assert {each.folder for each in partly.cells} == {
        each.folder for each in EXPERIMENT.cells()
    } - {cell.folder}
    assert timeless(run(tmp_path, data)) == timeless(done[1])


def test_two_processes_share_the_work(done, data, tmp_path):
    """The second one begins while the first trains its first cell, and is done before it."""
    trained, left, second = [], [], []

    def on_cell(_number, _count, cell):
        trained.append(cell)
        if len(trained) == 1:
            second.append(
                run(
                    tmp_path,
                    data,
                    on_cell=lambda _number, _count, cell: trained.append(cell),
                    on_held=lambda cell, _holder: left.append(cell),
                )
            )

    first = run(tmp_path, data, on_cell=on_cell)
    assert trained == list(EXPERIMENT.cells())  # each once
    assert left == trained[:1]
    assert not second[0].is_complete
    assert timeless(first) == timeless(done[1])
    for name in ("curves.csv", "experiment.json"):
        assert (tmp_path / name).read_bytes() == (done[0] / name).read_bytes()
    assert len(table(tmp_path / "seconds.csv")) == 4


OTHER = """
import os, signal, sys
from types import ModuleType
from qpc_qiskit.data.images import load
from qpc_qiskit.experiments import Experiment, run_experiment

def train(*arguments, **options):
    print("training", flush=True)
    {action}

training = sys.modules["qpc_qiskit.training.trainer"] = ModuleType("trainer")
training.train, training.TrainingInterrupted = train, KeyboardInterrupt
run_experiment(
    Experiment.model_validate_json(sys.argv[1]),
    sys.argv[2],
    data=load("digits").subset(64, 20),
    progress=False,
    only=sys.argv[3:],
)
"""
"""Another process, which comes as far as its first training (Lightning takes seconds to import)."""


def other(action, experiment, folder, *only):
    code = OTHER.format(action=action)
    words = [sys.executable, "-c", code, experiment.model_dump_json(), str(folder), *only]
    return Process(words, stdin=PIPE, stdout=PIPE)


@pytest.mark.slow
def test_a_cell_of_a_process_that_dies_is_taken_over(done, data, tmp_path):
    """It is killed in its first cell, when the other one has passed that and trains its last."""
    trained, left = [], []

    def on_cell(_number, _count, cell):
        trained.append(cell)
        if len(trained) == 3:
            killed.kill()
            assert killed.wait(60) == -signal.SIGKILL

    with other("sys.stdin.read()", EXPERIMENT, tmp_path) as killed:
        assert killed.stdout.readline() == "training\n"
        results = run(
            tmp_path, data, on_cell=on_cell, on_held=lambda cell, _holder: left.append(cell)
        )
    first, *others = EXPERIMENT.cells()
    assert trained == [*others, first]
    assert left == [first]
    assert timeless(results) == timeless(done[1])


def test_a_failed_cell_that_another_process_dies_in_is_tried(with_failure, data, tmp_path):
    shutil.copytree(with_failure[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "cells" / "quantum")
    experiment = with_bad_line()
    lines = experiment.model_dump()["lines"]
    experiment = changed(experiment, lines=[*lines[1:], lines[0]])
    trained = []

    def on_cell(_number, _count, cell):
        trained.append(cell.label)
        if cell.label == "quantum":
            action = "os.kill(os.getpid(), signal.SIGKILL)"
            with other(action, experiment, tmp_path / "run", "bad") as killed:
                assert killed.stdout.read() == "training\n"
            assert killed.returncode == -signal.SIGKILL
            assert not (tmp_path / "run" / "cells" / "bad" / "seed-0" / "failed.json").exists()

    results = run(tmp_path / "run", data, experiment, on_cell=on_cell)
    assert trained == ["quantum", "bad"]
    assert [each.label for each in results.failures] == ["bad"]


def test_a_cell_that_is_finished_before_it_is_held_is_not_trained(
    done, data, tmp_path, monkeypatch
):
    held = ExperimentFolder.held

    def finished_meanwhile(self, cell):
        shutil.copytree(done[0] / cell.folder, self.folder / cell.folder)
        return held(self, cell)

    monkeypatch.setattr(ExperimentFolder, "held", finished_meanwhile)
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained"))
    assert timeless(run(tmp_path, data)) == timeless(done[1])


def test_other_options_begun_at_the_same_moment_are_refused(done, data, tmp_path, monkeypatch):
    """Both found an empty folder; the one that comes second has trained nothing."""
    begin = ExperimentFolder.begin

    def second(self, cell):
        monkeypatch.setattr(ExperimentFolder, "begin", begin)
        assert len(run(tmp_path, data).cells) == 3
        begin(self, cell)

    monkeypatch.setattr(ExperimentFolder, "begin", second)
    longer = changed(EXPERIMENT, training={"epochs": 3})
    with pytest.raises(CheckpointError, match=r"epochs: begun with 2, now 3"):
        run(tmp_path, data, longer, on_cell=lambda *_: pytest.fail("trained"))
    assert timeless(run(tmp_path, data)) == timeless(done[1])


def test_shared_files_are_written_under_the_lock_of_the_folder(data, tmp_path, monkeypatch):
    opened, written = Path.open, []

    def is_held():
        with pytest.raises(FolderHeldError):
            locked(tmp_path).__enter__()
        written.append(True)

    def open_(path, mode="r", *arguments, **options):
        if path.name == SECONDS_FILE and mode == "a":
            is_held()
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)
    for name in ("write_results", "begin_run"):
        function = getattr(folder_module, name)

        def checked(*arguments, function=function, **options):
            is_held()
            return function(*arguments, **options)

        monkeypatch.setattr(folder_module, name, checked)
    run(tmp_path, data, changed(EXPERIMENT, seeds=[0]), only=["classical"])
    assert len(written) == 4  # begun, seconds, results after the cell and at the end


def test_a_full_disk_does_not_hide_why_a_training_ended(data, tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    def train(*_arguments, **_options):
        monkeypatch.setattr(os, "write", full)  # the name of the lock's holder
        monkeypatch.setattr(folder_module.csv, "writer", full)  # the seconds
        raise ValueError("the reason")

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(ValueError, match="the reason"):
        run(tmp_path, data)


NAMED = changed(EXPERIMENT, data={"train_images": 64, "test_images": 20})
"""With the same images, which other processes find by their name."""


@pytest.mark.slow
def test_cells_in_other_processes(done, tmp_path):
    with open_executor(2) as executor:
        results = run(tmp_path, None, NAMED, executor=executor)
    assert results.is_complete
    assert results.cells == done[1].cells
    assert len(table(tmp_path / "seconds.csv")) == 4


def test_what_is_sent_to_another_process_shows_nothing_and_has_no_images(tmp_path):
    sent = []

    class Elsewhere:
        def run(self, function, items):
            sent.append(pickle.dumps((function, items)))
            return ()

    run(tmp_path, None, NAMED, executor=Elsewhere(), on_cell=lambda *_: None)
    work, items = pickle.loads(sent[0])
    assert [cell for _, cell in items] == NAMED.cells()
    assert (work.data, work.progress, work.on_cell) == (None, False, None)


def test_the_folder_of_another_experiment_is_refused(done, data):
    other_name = changed(EXPERIMENT, name="other")
    with pytest.raises(ExperimentError, match=r"holds experiment 'tiny'; 'other' needs a folder"):
        run(done[0], data, other_name)


def test_seeds_that_another_process_begins_are_reported(done, data, tmp_path):
    begun = []

    def on_cell(_number, _count, _cell):
        if not begun:
            begun.append(run(tmp_path, data, changed(EXPERIMENT, seeds=[1])))

    first = run(tmp_path, data, changed(EXPERIMENT, seeds=[0]), on_cell=on_cell)
    assert timeless(first).cells == done[1].cells
    assert json.loads((tmp_path / "experiment.json").read_text())["seeds"] == [0, 1]


def test_what_failed_in_another_process_meanwhile_is_not_tried_at_once(data, tmp_path):
    experiment = with_bad_line()
    lines = experiment.model_dump()["lines"]
    experiment = changed(experiment, lines=[*lines[1:], lines[0]])
    for expected in (["quantum", "classical", "bad"], ["bad"]):  # by hand it is tried again
        trained = []

        def on_cell(_number, _count, cell, trained=trained):
            trained.append(cell.label)
            if cell.label == "quantum":
                run(
                    tmp_path,
                    data,
                    experiment,
                    on_cell=lambda *other: trained.append(other[2].label),
                )

        results = run(tmp_path, data, experiment, on_cell=on_cell)
        assert trained == expected
        assert [each.label for each in results.failures] == ["bad"]


def test_differences_are_those_of_the_same_seeds(done):
    folder, results = done
    accuracy = {(cell.label, cell.seed): cell.last for cell in results.cells}
    (found,) = results.differences
    assert (found.label, found.against, found.seeds) == ("quantum", "classical", (0, 1))
    for part in ("train", "test"):
        expected = tuple(
            getattr(accuracy["quantum", seed], f"{part}_accuracy")
            - getattr(accuracy["classical", seed], f"{part}_accuracy")
            for seed in (0, 1)
        )
        assert getattr(found, part) == expected
    assert found.p_value is None
    text = (folder / "summary.md").read_text()
    assert f"| {' | '.join(differences_table(results)[0])} |" in text
    assert "from 8 seeds on" in text
    assert "whether its accuracies are those of training or of test" in text


def cell_of(label, seed, accuracy):
    epoch = Epoch(1, 0.0, accuracy, 0.0, accuracy)
    cell = EXPERIMENT.cells()[0]
    return CellResult(
        label=label, seed=seed, folder="x", net=cell.net, training=cell.training,
        parameters=1, pointwise_parameters=1, curve=(epoch,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rises", "p_value"),
    [
        ([0.01 * n for n in range(1, 9)], 2 / 2**8),  # all up: the least p-value of 8 pairs
        ([0.0] * 8, 1.0),
        ([0.01 * n for n in range(1, 8)], None),
        ([0.1], "none"),
    ],
)
def test_p_value_from_eight_seeds_on(rises, p_value):
    cells = [cell_of("a", seed, 0.5 + rise) for seed, rise in enumerate(rises)]
    cells += [cell_of("b", seed, 0.5) for seed in (*range(len(rises)), 99)]
    found = differences(cells, {"a": ["b"], "b": []})
    if p_value == "none":
        assert found == ()
        return
    assert found[0].seeds == tuple(range(len(rises)))
    assert found[0].test == pytest.approx(rises)
    assert found[0].p_value == (None if p_value is None else pytest.approx(p_value))


def test_cells_with_other_options_or_data_are_refused(done, data, tmp_path):
    shutil.copytree(done[0], tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"training\.epochs: begun with 2, now 5"):
        run(tmp_path / "run", data, changed(EXPERIMENT, training={"epochs": 5}))
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (done[0] / name).read_bytes()
    with pytest.raises(CheckpointError, match=r"quantum/seed-0 .* training\.lr: begun with 0\.01"):
        run(tmp_path / "run", data, changed(EXPERIMENT, training={"lr": 0.5}))
    with pytest.raises(CheckpointError, match=r"data\.sha256"):
        run(tmp_path / "run", data.subset(63))
    metrics = tmp_path / "run" / done[1].cells[0].folder / "metrics.csv"
    metrics.write_text(metrics.read_text().rsplit("\n", 2)[0] + "\n")
    with pytest.raises(CheckpointError, match="expected 2 epochs of a finished run, found 1"):
        run(tmp_path / "run", data)
    metrics.write_text("epoch,lr\n1,x\n")
    with pytest.raises(CheckpointError, match=r"metrics\.csv: expected one row per epoch"):
        run(tmp_path / "run", data)


def test_a_run_without_a_finished_epoch_is_begun_with_what_is_asked_for_now(
    with_failure, done, data, tmp_path
):
    shutil.copytree(with_failure[0], tmp_path / "run")
    results = run(tmp_path / "run", data, with_bad_line(lr=0.01))
    assert results.is_complete
    assert {cell.label: cell.training.lr for cell in results.cells}["bad"] == 0.01
    assert results.cells[1:3] == done[1].cells[:2]


def test_a_run_that_another_process_has_begun_keeps_its_options(with_failure, data, tmp_path):
    shutil.copytree(with_failure[0], tmp_path / "run")
    with (
        locked(tmp_path / "run" / with_failure[1].failures[0].folder),
        pytest.raises(CheckpointError, match=r"lr: begun with 1e\+30, now 0\.01"),
    ):
        run(tmp_path / "run", data, with_bad_line(lr=0.01))


def test_a_damaged_history_does_not_stop_what_its_checkpoint_goes_on_with(done, data, tmp_path):
    where = tmp_path / "run" / done[1].cells[0].folder
    shutil.copytree(done[0], tmp_path / "run")
    for name in ("model.json", "model.safetensors"):
        (where / name).unlink()
    (where / "metrics.csv").write_text("epoch,lr\n1")
    assert timeless(run(tmp_path / "run", data)) == timeless(done[1])


@pytest.mark.parametrize("damage", ["state", "record of the run"])
def test_what_cannot_be_gone_on_with_says_what_to_delete(damage, done, data, tmp_path):
    where = tmp_path / "run" / done[1].cells[0].folder
    shutil.copytree(done[0], tmp_path / "run")
    for name in ("model.json", "model.safetensors"):
        (where / name).unlink()
    if damage == "state":
        (where / "last.ckpt").write_text("garbage")
    else:
        (where / "run.json").unlink()
    (failure,) = run(tmp_path / "run", data).failures
    assert "delete " in failure.error
    shutil.rmtree(where)
    assert timeless(run(tmp_path / "run", data)) == timeless(done[1])


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (
            "metrics.csv",
            lambda text: text.rsplit(",", 1)[0] + ",nan\n",
            "not a finite number in epoch 2",
        ),
        ("metrics.csv", lambda text: text.replace("\n2,", "\n7,"), "epoch 7 in the place of 2"),
        ("model.json", lambda _: "", "expected JSON"),
    ],
)
def test_a_damaged_finished_run_is_no_result(name, change, match, done, data, tmp_path):
    shutil.copytree(done[0], tmp_path / "run")
    where = tmp_path / "run" / done[1].cells[0].folder
    (where / name).write_text(change((where / name).read_text()))
    with pytest.raises(CheckpointError, match=rf"{match}.* Delete .*seed-0 to train it anew"):
        run(tmp_path / "run", data)


def test_labels_are_shown_as_they_are_written(data, tmp_path, monkeypatch):
    """In the table of Markdown and in the figure, where $ and _ mean something else."""
    labels = [r"a|b cost $\foo$", "_hidden"]
    lines = [{"label": label} for label in labels]
    experiment = changed(EXPERIMENT, seeds=[0], lines=lines, title="$5 and $6^^")
    monkeypatch.setattr(figures, "plot_experiment", plot_experiment)
    run(tmp_path, data, changed(experiment, training={"epochs": 1}))
    text = (tmp_path / "summary.md").read_text()
    assert r"| a\|b cost $\foo$ | 1 |" in text
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_one_label_is_a_list_all_the_same(data, tmp_path):
    with pytest.raises(ExperimentError, match=r"only='quantum': expected a list of labels"):
        run(tmp_path, data, only="quantum")


def test_data_must_be_what_the_experiment_says(data, tmp_path):
    other = changed(EXPERIMENT, data={"name": "cifar10"})
    with pytest.raises(DataError, match=r"expects images \(3, 32, 32\)"):
        run(tmp_path / "x", data, other)
    assert not (tmp_path / "x").exists()
