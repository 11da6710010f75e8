"""Reports of trainings: what they tell, and what they do where something is missing."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from qiskit import QuantumCircuit, qasm3
from webpages import Page, self_contained

from qpc_qiskit.data.images import load_source
from qpc_qiskit.errors import CheckpointError, DataError
from qpc_qiskit.nets import NetConfig, build_net, parameter_table, quantum_layers
from qpc_qiskit.options.presets import PRESETS
from qpc_qiskit.options.records import ARCHITECTURES, DataSource, TrainConfig
from qpc_qiskit.training.checkpoint import make_record, save
from qpc_qiskit.training.evaluation import accuracy_interval, predict
from qpc_qiskit.training.model_page import write_model_report
from qpc_qiskit.training.model_report import gate_count, image_encoding, model_report, twin_config
from qpc_qiskit.training.predictions import MOST_WRONG, SHOWN_IMAGES, predict_images
from qpc_qiskit.training.trained import open_training

TINY = NetConfig(width=4, quantum_channels=4, num_layers=1)
EPOCHS = 2


@pytest.fixture(scope="module")
def data():
    return load_source(DataSource(train_images=60, test_images=50))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Folder of a finished training; it must not be changed."""
    from qpc_qiskit.training.trainer import train

    folder = tmp_path_factory.mktemp("trained") / "digits"
    train(build_net(TINY), data, TrainConfig(epochs=EPOCHS), folder, progress=False)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "digits"))


@pytest.fixture(scope="module")
def training(trained):
    return open_training(trained)


@pytest.fixture(scope="module")
def predicted(training, data):
    return predict_images(training, data)


@pytest.fixture(scope="module")
def report(training, predicted):
    return model_report(training, predicted[0])


@pytest.fixture(scope="module")
def written(training, report, predicted, tmp_path_factory):
    return write_model_report(tmp_path_factory.mktemp("report"), report, training, predicted[1])


def untrained(folder, config=TINY):
    """What the report of a network tells that was only saved."""
    model = build_net(config)
    save(folder, model, make_record(model))
    return open_training(folder)


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_was_trained(report, trained):
    rows = list(csv.DictReader((trained / "metrics.csv").read_text().splitlines()))
    assert [each.test_loss for each in report.history] == [float(r["test_loss"]) for r in rows]
    assert report.is_finished
    assert report.notes == ()
    assert report.title == "small on digits"
    assert (report.network["options"]["width"], report.network["preset"]) == (4, None)
    assert "kernel_size" not in report.network["options"]  # it has no effect
    assert report.training == TrainConfig(epochs=EPOCHS).model_dump()
    assert (report.data["num_train"], report.data["num_test"]) == (60, 50)
    assert list(report.seconds) == [1, 2]
    assert report.median_seconds == sum(report.seconds.values()) / 2
    assert report.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert len(report.weights_sha256) == 64


def test_accuracies_have_their_intervals(report):
    last = report.history[-1].test_accuracy
    assert (report.final.value, report.final.epoch) == (last, EPOCHS)
    assert (report.final.low, report.final.high) == accuracy_interval(last, 50)
    assert report.best.value == max(each.test_accuracy for each in report.history)


def test_predictions_are_those_of_the_training(report, training, data):
    found = report.predictions
    logits = predict(training.model, data.test_images, 64)
    assert found.same_data
    assert found.accuracy.value == report.final.value
    assert found.loss == pytest.approx(report.history[-1].test_loss, rel=1e-5)
    for truth, row in enumerate(found.confusion):
        of_class = logits.argmax(1)[data.test_labels == truth]
        assert list(row) == [int((of_class == each).sum()) for each in range(10)]
        told = found.classes[truth]
        assert (told.num_images, told.num_correct) == (len(of_class), row[truth])
        if told.accuracy is not None:
            assert told.accuracy.value == row[truth] / len(of_class)
        others = [count for each, count in enumerate(row) if each != truth]
        assert told.num_mistaken == max(others)
        if told.mistaken_for is not None:
            assert row[data.class_names.index(told.mistaken_for)] == max(others)


def test_wrong_images_come_first_the_most_certain_before_the_others(report, data, predicted):
    shown = report.predictions.shown
    wrong = [each.is_wrong for each in shown]
    assert 0 < sum(wrong) <= MOST_WRONG
    assert wrong == sorted(wrong, reverse=True)
    assert len(shown) <= SHOWN_IMAGES
    certain = [each.probability for each in shown if each.is_wrong]
    assert certain == sorted(certain, reverse=True)
    for each, image in zip(shown, predicted[1], strict=True):
        assert torch.equal(data.test_images[each.index], image)
        assert each.truth == data.class_names[data.test_labels[each.index]]
        assert each.is_wrong == (each.truth != each.prediction)


def test_a_subset_and_other_data(training, data):
    found, images = predict_images(training, data, 7)
    assert found.accuracy.num_images == sum(map(sum, found.confusion)) == len(images) == 7
    assert (found.num_available, found.same_data) == (50, True)
    other, _ = predict_images(training, data.subset(40))
    assert not other.same_data
    with pytest.raises(DataError, match="found 51"):
        predict_images(training, data, 51)


def test_outputs_that_are_no_probabilities(training, data):
    squares = replace(training, options=TrainConfig(loss="mse"))
    found, _ = predict_images(squares, data, 5)
    assert {each.probability for each in found.shown} == {None}
    assert found.loss != predict_images(training, data, 5)[0].loss


def test_a_class_without_images(training, data):
    kept = data.test_labels != 3
    some = replace(data, test_images=data.test_images[kept], test_labels=data.test_labels[kept])
    told = predict_images(training, some)[0].classes[3]
    assert (told.num_images, told.accuracy, told.mistaken_for) == (0, None, None)


def test_layers_and_their_gates(report):
    (layer,) = report.layers
    assert (layer.num_qubits, layer.num_kernels, layer.num_weights) == (2, 2, 6)
    assert (layer.pixels_per_image, layer.rows_per_image, report.rows_per_image) == (16, 32, 32)
    counts = {each.part: each for each in layer.counts}
    exact = counts["multiplexor encoder"]
    assert (exact.one_qubit_gates, exact.two_qubit_gates) == (3, 1)
    ansatz = counts["strongly_entangling ansatz"]
    assert ansatz.gates == {"rz": 4, "rx": 2, "cx": 2}
    assert (ansatz.depth, ansatz.two_qubit_depth) == (5, 2)
    assert "brickwall encoder" in counts


def test_gates_are_counted_as_they_are_written():
    circuit = QuantumCircuit(3)
    circuit.rx(0.1, 0)
    circuit.cx(0, 1)
    circuit.rx(0.1, 2)
    circuit.cz(1, 2)
    found = gate_count("it", circuit)
    assert (found.one_qubit_gates, found.two_qubit_gates) == (2, 2)
    assert (found.depth, found.two_qubit_depth) == (3, 2)
    assert found.gates == {"rx": 2, "cx": 1, "cz": 1}


def test_the_papers_network_against_its_twin(tmp_path):
    """The numbers of docs/experiments.md."""
    config = NetConfig(name="paper-fig3a", in_channels=3, image_size=32)
    found = model_report(untrained(tmp_path, config))
    assert [layer.pixels_per_image for layer in found.layers] == [256, 64]
    assert found.rows_per_image == 4224
    assert found.twin.network == "paper-fig3b"
    assert (found.parameters.pointwise, found.twin.pointwise) == (1782, 12480)
    assert found.predictions is found.final is found.data is found.training is None


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_twins_have_no_quantum_layer_and_the_same_head(name):
    options = {
        "width": 4, "quantum_channels": 5, "num_layers": 2, "bias_channel": True, "kernel_size": 2,
        "init": "normal", "norm_after": "batch",
    }  # fmt: skip
    given = {key: value for key, value in options.items() if key not in ARCHITECTURES[name].idle}
    config = NetConfig(name=name, image_size=12, **given)
    model, twin = build_net(config), twin_config(config)
    if not quantum_layers(model):
        assert twin is None
        return
    other = build_net(twin)
    assert not quantum_layers(other)
    heads = [parameter_table(each).layers[-1] for each in (model, other)]
    assert heads[0] == heads[1]
    assert twin_config(NetConfig(name=name, pointwise="classical")) is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_recognised(name, training):
    preset = PRESETS[name]
    model = build_net(NetConfig(**{"width": 4, **preset.net}))
    options = TrainConfig(**preset.training)
    found = replace(training, model=model, options=options)
    assert model_report(found).network["preset"] == name
    changed = replace(found, options=options.model_copy(update={"lr": 0.5}))
    assert model_report(changed).network["preset"] is None


@pytest.mark.parametrize(
    ("name", "provenance", "text"),
    [
        ("digits", "scikit-learn", "no: "),
        ("cifar10", "CIFAR-10 binary batches in data/cifar10-jpeg", "yes: from JPEG"),
        ("cifar10", "CIFAR-10 binary batches in data", "not known"),
    ],
)
def test_whether_images_were_encoded_again(name, provenance, text):
    assert image_encoding(name, provenance).startswith(text)


def stop(folder, epochs=3):
    """As a training of so many epochs leaves it that was stopped after `EPOCHS`."""
    for name in ("model.json", "model.safetensors"):
        (folder / name).unlink()
    rewrite(folder / "run.json", lambda run: run["training"].update(epochs=epochs))


def test_a_training_that_was_stopped(folder, data, report):
    stop(folder)
    training = open_training(folder)
    found, _ = predict_images(training, data)
    told = model_report(training, found)
    assert not told.is_finished
    (note,) = told.notes
    assert "2 of 3 epochs are done" in note
    assert f"qpc train --resume --out {folder}" in note
    assert told.history == report.history
    assert told.predictions == report.predictions  # the weights are those of the last epoch
    assert told.final == report.final
    assert list(told.versions) == ["qpc-qiskit"]


def test_a_training_that_another_version_began(folder):
    stop(folder)
    rewrite(folder / "run.json", lambda run: run.update(package_version="0.0.1"))
    assert "begun with qpc-qiskit 0.0.1" in open_training(folder).notes[1]


def test_a_training_without_a_finished_epoch(folder):
    stop(folder)
    (folder / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"no epoch .* nothing to report.*--resume --out"):
        open_training(folder)


def test_a_training_whose_state_is_of_another_network(folder):
    stop(folder)
    rewrite(folder / "run.json", lambda run: run["net"].update(width=3))
    with pytest.raises(
        CheckpointError, match=r"last.ckpt is a checkpoint of another architecture than run.json"
    ):
        open_training(folder)


def test_a_folder_with_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="found none"):
        open_training(tmp_path)


def test_a_checkpoint_without_its_curves(folder, report):
    (folder / "metrics.csv").unlink()
    (folder / "seconds.csv").unlink()
    told = model_report(open_training(folder))
    assert told.history == report.history[-1:]
    assert told.final == report.final
    assert told.median_seconds is None
    assert "metrics.csv is missing" in told.notes[0]
    (folder / "metrics.csv").write_text("epoch\nthree\n")
    assert "missing or damaged" in open_training(folder).notes[0]


def test_a_page_tells_everything_and_asks_nobody(written, report):
    html = written.page.read_text()
    page = Page(html)
    assert self_contained(page)
    assert page.meta["viewport"] == "width=device-width, initial-scale=1"
    assert page.warnings == []
    assert page.headings[:3] == ["Training: small on digits", "What was trained", "Curves"]
    assert {"Test images", "Quantum layers", "Parameters", "On hardware", "Versions"} < set(
        page.headings
    )
    assert f"{100 * report.final.value:.2f} % (95 % interval " in page.text
    assert "32 rows (positions x circuits: 16 x 2)" in page.text
    assert f"qpc run plan {report.folder} --backend ibm_fez" in page.text
    facts = dict(page.table("", "as it was recorded"))
    assert facts["split"] == "60 training and 50 test images"
    assert "momentum" not in facts["options of the training"]  # adam has none
    counted = page.table("", "small", "small-classical")
    assert counted[0] == ["pointwise layers", "12", "20"]
    classes = page.table(
        "class", "images", "right", "accuracy / %", "95 % interval", "most often taken for"
    )
    assert sum(int(row[1]) for row in classes) == 50
    assert len(page.images) == 5  # curves, matrix, images, kernel, encoder


def test_json_has_what_the_page_tells(written, report):
    told = json.loads(written.data.read_text())
    assert told == json.loads(json.dumps(report.to_dict()))
    assert told["predictions"]["accuracy"]["value"] == report.final.value


def test_every_picture_has_its_data_beside(written):
    pictures = [path for path in written.figures if path.suffix == ".png"]
    assert len(pictures) == 5
    for path in pictures:
        others = {each.suffix for each in written.figures if each.stem == path.stem}
        assert others in ({".png", ".svg", ".csv"}, {".png", ".svg", ".qasm"})
    assert all(path.exists() for path in written.figures)


def test_the_kernel_beside_its_drawing_is_the_trained_one(written, training):
    (path,) = (each for each in written.figures if each.name == "circuit-layers.pointwise.qasm")
    circuit = qasm3.loads(path.read_text())
    (layer,) = quantum_layers(training.model).values()
    weights = layer.weight[0].tolist()
    angles = [i.params[0] for i in circuit.data if i.operation.name == "rx"]
    assert angles == pytest.approx([weights[1], weights[4]])


def test_a_page_of_a_network_without_quantum_layers_and_data(tmp_path):
    config = NetConfig(name="small-classical", width=2, quantum_channels=2)
    training = untrained(tmp_path / "model", config)
    told = model_report(training, notes=["There are no <data>."])
    (tmp_path / "report" / "figures").mkdir(parents=True)
    for name in ("confusion.csv", "mine.csv"):
        (tmp_path / "report" / "figures" / name).touch()
    files = write_model_report(tmp_path / "report", told, training)
    page = Page(files.page.read_text())
    assert self_contained(page)
    assert page.warnings[-1] == "There are no <data>."
    assert "This network has none." in page.text
    assert "nothing to run on a device" in page.text
    assert "qpc run plan" not in page.text
    assert told.twin is None
    assert page.images == []
    assert files.figures == ()
    # What an earlier report drew is gone, what else lies there is not.
    assert [path.name for path in (tmp_path / "report" / "figures").iterdir()] == ["mine.csv"]
