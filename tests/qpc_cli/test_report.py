"""`qpc report`."""

import json
import shutil

import pytest
from command_line import TINY, failing, qpc
from webpages import Page, self_contained

from qpc_qiskit.nets import NetConfig, build_net
from qpc_qiskit.options.records import DataSource
from qpc_qiskit.training.checkpoint import DataRecord, make_record, save


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    qpc("train", *TINY, "--epochs=1", "--out", folder)
    return folder


@pytest.fixture
def undrawn_report(monkeypatch):
    """Reports whose figures are empty files: one test draws them."""

    def write(path, *_drawn):
        path = path.with_name(f"{path.name}.png")
        path.touch()
        return [path]

    for name in ("history", "confusion", "predictions", "circuit"):
        monkeypatch.setattr(f"qpc_qiskit.training.model_page.plot_{name}", write)


@pytest.fixture
def moved(tmp_path):
    """A checkpoint whose data are not where they were."""
    model = build_net(NetConfig(image_size=28, width=2, quantum_channels=2, num_layers=1))
    record = DataRecord(
        name="fashion-mnist",
        provenance="IDX files",
        source=DataSource(name="fashion-mnist", data_dir=str(tmp_path / "gone")),
        sha256="0" * 64,
        num_train=5,
        num_test=5,
        class_names=tuple("0123456789"),
    )
    folder = tmp_path / "a model"
    save(folder, model, make_record(model, record))
    return folder


@pytest.mark.slow
def test_a_report_of_a_training(run):
    result = qpc("report", run)
    page = run / "report" / "report.html"
    assert result.stdout.startswith(f"{page}: small on digits; test accuracy ")
    assert self_contained(Page(page.read_text()))
    assert (run / "report" / "figures" / "confusion.csv").exists()
    qpc("evaluate", run)  # the folder is a checkpoint as before


@pytest.mark.usefixtures("undrawn_report")
def test_json_is_one_object(run, tmp_path):
    told = json.loads(qpc("report", run, "--json", "--images=9", "--out", tmp_path / "it").stdout)
    assert told["page"] == str(tmp_path / "it" / "report.html")
    assert told["report"] == json.loads((tmp_path / "it" / "report.json").read_text())
    assert told["report"]["predictions"]["accuracy"]["num_images"] == 9
    assert len(told["figures"]) == len(list((tmp_path / "it" / "figures").iterdir()))


@pytest.mark.usefixtures("undrawn_report")
def test_without_its_data_everything_else_is_told(moved):
    result = qpc("report", moved)
    page = Page((moved / "report" / "report.html").read_text())
    (warning,) = (each for each in page.warnings if "data cannot be read" in each)
    assert "gone: expected a folder" in warning
    assert f"qpc report '{moved}' --data-dir DIR" in warning
    assert warning in result.stdout
    assert "Quantum layers" in page.headings
    assert "Test images" not in page.headings


@pytest.mark.usefixtures("undrawn_report")
def test_other_data_are_said_to_be_others(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "model.json"
    record = json.loads(path.read_text())
    record["data"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    assert "not those of the training" in qpc("report", tmp_path / "run", "--images=1").stdout


@pytest.mark.usefixtures("undrawn_report")
def test_a_training_that_was_stopped(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.json").unlink()
    told = json.loads(qpc("report", tmp_path / "run", "--json", "--images=1").stdout)["report"]
    assert not told["is_finished"]
    assert told["predictions"]["same_data"]
    (tmp_path / "run" / "last.ckpt").unlink()
    message = failing("report", tmp_path / "run", exit_code=1)
    assert "no epoch of this training is finished" in message


@pytest.mark.usefixtures("undrawn_report")
def test_wrong_usage_is_one_line(run, moved, tmp_path):
    message = failing("report", tmp_path / "none", exit_code=1)
    assert message == f"qpc: {tmp_path / 'none'}: expected the folder of a training, found none."
    message = failing("report", run, "--images=21", exit_code=2)
    assert message == "qpc: --images: there are 20 test images; got 21."
    message = failing("report", run, "--data-dir", tmp_path, exit_code=2)
    assert "no effect with the digits" in message
    message = failing("report", moved, "--data-dir", tmp_path, exit_code=2)
    assert message.startswith("qpc: --data-dir: train-images-idx3-ubyte")
    assert not (moved / "report").exists()


def test_a_folder_without_a_training(tmp_path):
    assert "expected a checkpoint" in failing("report", tmp_path, exit_code=1)


@pytest.mark.usefixtures("undrawn_report")
def test_a_model_that_does_not_say_its_data(tmp_path):
    model = build_net(NetConfig(width=2, quantum_channels=2, num_layers=1))
    save(tmp_path, model, make_record(model))
    assert "does not say how to load its data" in qpc("report", tmp_path).stdout
    message = failing("report", tmp_path, "--data-dir", tmp_path, exit_code=2)
    assert message.startswith("qpc: --data-dir has no effect")
