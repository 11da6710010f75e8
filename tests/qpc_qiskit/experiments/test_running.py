"""Running experiments: what is done again and what is not, and with which result."""

import csv
import json
import shutil
import signal

import pytest

from qpc_qiskit import training
from qpc_qiskit.data import load
from qpc_qiskit.errors import CheckpointError, DataError, ExperimentError
from qpc_qiskit.experiments import Experiment, run_experiment, summary_table
from qpc_qiskit.experiments.results import read_results
from qpc_qiskit.experiments.spec import changed
from qpc_qiskit.training import TrainingInterrupted

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
            {"label": "quantum", "net": {"num_layers": 1}},
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
    assert summary[0][4].startswith(f"{sum(accuracies) / 2:.2f} ± ")
    text = (folder / "summary.md").read_text()
    assert f"| {' | '.join(summary[1])} |" in text
    assert "The paper: says nothing" in text
    assert "64 training and 20 test images" in text
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
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
        with pytest.raises(TrainingInterrupted, match=r"in 'classical', seed 0\..*same command"):
            run(tmp_path, data)
    assert [cell.label for cell in read_results(tmp_path).cells] == ["quantum"]
    assert not read_results(tmp_path).is_complete
    assert "Not all cells are finished" in (tmp_path / "summary.md").read_text()
    began = []
    results = run(tmp_path, data, on_cell=lambda number, count, cell: began.append((number, count)))
    assert began == [(2, 4), (3, 4), (4, 4)]
    assert results == done[1]
    for name in FILES:
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


def test_cells_with_other_options_or_data_are_refused(done, data, tmp_path):
    shutil.copytree(done[0], tmp_path / "run")
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


def test_data_must_be_what_the_experiment_says(data, tmp_path):
    other = changed(EXPERIMENT, data={"name": "cifar10"})
    with pytest.raises(DataError, match=r"expects images \(3, 32, 32\)"):
        run(tmp_path / "x", data, other)
    assert not (tmp_path / "x").exists()
