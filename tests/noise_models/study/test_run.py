"""A small study, end to end: here, on a cluster, with a worker killed, resumed, on a full disk."""

import errno
import os
import re
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from noise_models.spec import NoiseSpec
from noise_models.study import cell_files, cells, load_study, run_study
from noise_models.study import run as study
from noise_models.study.figures import draw_figures
from noise_models.study.report import write_report
from noise_models.study.spec import StudySpec
from noise_models.study.tables import read_table, write_table
from qpc_qiskit.connector import use_engine
from qpc_qiskit.data.images import load_source
from qpc_qiskit.engines import NoisyEngine
from qpc_qiskit.errors import StudyError
from qpc_qiskit.grid.executors import InProcess, open_executor
from qpc_qiskit.grid.locking import FolderHeldError, locked
from qpc_qiskit.training.checkpoint import load
from qpc_qiskit.training.evaluation import predict, score

TRAIN = """
name = "small"
seeds = [0, 1]
[train.tiny]
data = {train_images = 150, test_images = 40}
net = {width = 4, quantum_channels = 4}
training = {epochs = 2}
num_layers = [1, 2]
"""
GRID = """
[[grid]]
name = "sweep"
noise = [{noise = "depolarizing", strengths = [0.01, 0.1]}, {noise = "heron_r2", strengths = [1.0]}]
[[grid]]
name = "shots"
num_layers = [2]
noise = [{noise = "readout", strengths = [0.05]}, "heron_r2"]
shots = ["exact", 64, 256]
mitigation = ["none", "readout", "zne"]
"""
SMALL = StudySpec.from_toml(TRAIN + GRID)
pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of tornado, when it closes
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The study as it runs in this process, never interrupted."""
    return run_study(SMALL, tmp_path_factory.mktemp("finished"), workers=0)


@pytest.fixture(scope="module")
def given(finished):
    """The same study of networks that are there: it trains nothing."""
    networks = sorted((finished.folder / "networks").iterdir())
    told = SMALL.model_dump(mode="json", exclude_unset=True, exclude={"train", "seeds"})
    return StudySpec.from_dict(told | {"checkpoints": {"tiny": list(map(str, networks))}})


@pytest.fixture(scope="module")
def part(given):
    """Eight of its cells."""
    told = given.model_dump(mode="json", exclude_unset=True)
    first = told["grid"][0]
    return StudySpec.from_dict(told | {"grid": [first | {"noise": first["noise"][:1]}]})


@pytest.fixture(scope="module")
def finished_part(part, tmp_path_factory):
    return run_study(part, tmp_path_factory.mktemp("part"), workers=0)


def assert_same(run, expected):
    for name in ("results", "summary", "thresholds"):
        ours = pd.read_parquet(run.folder / f"{name}.parquet")
        theirs = pd.read_parquet(expected.folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_what_a_cell_says_is_what_the_engine_computes(finished):
    row = finished.results[
        (finished.results["noise"] == "depolarizing") & (finished.results["strength"] == 0.1)
    ].iloc[0]
    (folder,) = (finished.folder / "networks").glob(f"tiny-{row['num_layers']}-{row['seed']}-*")
    model, record = load(folder)
    data = load_source(record.data.source)
    from noise_models.words import parse_noise

    with use_engine(model, NoisyEngine(parse_noise("depolarizing:0.1"))):
        logits = predict(model, data.test_images, 64)
    found = score(logits, data.test_labels)
    assert row["accuracy"] == found.accuracy
    assert row["loss"] == pytest.approx(found.loss, rel=1e-5)
    assert list(row["predictions"]) == logits.argmax(1).tolist()
    assert row["drop"] == pytest.approx(row["ideal_accuracy"] - row["accuracy"])
    assert sum(row["confusion"]) == row["num_images"] == 40
    assert 0 < row["gate_fidelity"] < 1
    assert row["readout_fidelity"] == 1


def test_the_grids_have_all_their_cells(finished):
    results = finished.results
    assert len(results) == 4 * 3 + 2 * (3 + 3 + 3 + 3 + 3)
    # heron_r2 as it is, exact, unmitigated is in both grids, and is one cell.
    assert finished.about["num_cells"] == len(results) - 2
    assert [each["reason"] for each in finished.about["skipped"]] == [
        "it has no error of two-qubit gates, which are those that are folded"
    ]
    assert set(results[results["shots"] > 0]["shot_noise_floor"]) == {1 / 8, 1 / 16}
    zne, plain = (results[results["mitigation"] == m] for m in ("zne", "none"))
    assert set(zne["executions_per_image"]) == {3 * plain["executions_per_image"].max()}


def test_the_summary_has_a_row_for_every_combination(finished):
    summary = finished.summary
    assert (summary["num_seeds"] == 2).all()
    assert summary["p_value"].isna().all(), "two seeds are too few"
    assert summary[summary["mitigation"] == "none"]["gain"].isna().all()
    assert summary[summary["mitigation"] != "none"]["gain"].notna().all()
    assert (summary["drop_images_low"] <= summary["drop_images_high"]).all()
    exact = summary[(summary["mitigation"] == "readout") & (summary["noise"] == "readout")]
    assert exact[exact["shots"] == 0]["drop"].abs().max() < 1e-12


def test_nothing_is_computed_twice(finished, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.parquet")}
    monkeypatch.setattr(study, "evaluate", None)
    again = run_study(SMALL, finished.folder, workers=0)
    assert again.last_call["num_evaluated"] == again.last_call["num_trained"] == 0
    assert_same(again, finished)
    after = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("cells/**/*.parquet")}
    assert after.items() <= before.items()


@pytest.mark.slow
def test_on_a_cluster_of_ones_own(finished, given, tmp_path):
    """Its worker is a thread here: one in a process of its own imports for five seconds."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0", "dashboard": False},
        local_directory=tmp_path / "scratch",
    ) as cluster:  # fmt: skip
        run = run_study(given, tmp_path / "out", scheduler=cluster.scheduler_address)
    assert_same(run, finished)
    assert run.last_call["workers"] == cluster.scheduler_address
    assert run.last_call["num_evaluated"] == finished.about["num_cells"]


@pytest.mark.slow
def test_in_two_processes_of_which_one_is_killed(finished, given, tmp_path):
    """With some cells done and some under way; what it was at is done by another."""
    killed = []

    def on_progress(what, done, total):
        if what == "cells" and 3 <= done < total and not killed:
            killed.append(processes.pids[0])
            os.kill(killed[0], signal.SIGKILL)

    with open_executor(2) as processes:
        run = run_study(given, tmp_path, executor=processes, on_progress=on_progress)
    assert killed
    assert_same(run, finished)
    assert run.last_call["num_evaluated"] == finished.about["num_cells"]


def test_a_network_that_another_process_trains_is_waited_for(finished, monkeypatch):
    """And not trained again."""
    from noise_models.study.plan import Plan

    first, second, *_ = Plan(SMALL, finished.folder).jobs
    with locked(first.folder), pytest.raises(FolderHeldError, match=f"{first.folder.name}: proc"):
        study.train_network(first)
    assert study.train_network(first) == 0
    tried = []

    def train(job, wait=False):
        tried.append((job, wait))
        with locked(job.folder, wait=wait and job is not first):
            return 2.5

    with locked(first.folder), monkeypatch.context() as patch:
        patch.setattr(study, "train_network", train)
        with pytest.raises(StudyError, match=rf"Training failed: {first.folder.name}: .* at work"):
            study._train([first, second], InProcess(), lambda *_: None)
    assert tried == [(first, False), (second, False), (first, False), (first, True)]


def test_stopped_and_resumed(finished_part, part, tmp_path):
    class Stopped(Exception):
        pass

    def stop(what, done, total):
        if what == "cells" and done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        run_study(part, tmp_path, workers=0, on_progress=stop)
    kept = len(list((tmp_path / "cells").rglob("*.parquet")))
    assert kept == 5
    resumed = run_study(part, tmp_path, workers=0)
    assert resumed.last_call["num_evaluated"] == finished_part.about["num_cells"] - kept
    assert_same(resumed, finished_part)


def test_a_full_disk_keeps_what_is_finished(part, finished_part, tmp_path, monkeypatch):
    original, written = cell_files.save_cell, []

    def save(folder, key, values):
        if len(written) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        written.append(key)
        original(folder, key, values)

    monkeypatch.setattr(study, "save_cell", save)
    total = finished_part.about["num_cells"]
    expected = rf"No space left on device\. 4 of {total} cells are finished"
    with pytest.raises(StudyError, match=f"{expected} and kept. Make room, and run the same again"):
        run_study(part, tmp_path, workers=0)
    monkeypatch.undo()
    run = run_study(part, tmp_path, workers=0)
    assert run.last_call["num_evaluated"] == total - 4
    assert_same(run, finished_part)


def test_a_damaged_cell_is_computed_again(part, finished_part, tmp_path):
    run = run_study(part, tmp_path, workers=0)
    first, second, *_ = sorted((tmp_path / "cells").rglob("*.parquet"))
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(b"")
    again = run_study(part, tmp_path, workers=0)
    assert again.last_call["num_evaluated"] == 2
    assert_same(again, finished_part)
    assert run.last_call["num_evaluated"] == finished_part.about["num_cells"]


def test_a_cell_with_any_bit_flipped_is_none(finished, tmp_path):
    """Pages have checksums, names of columns have none, and neither is read as it is not."""
    original = next((finished.folder / "cells").rglob("*.parquet"))
    key, raw = original.stem, original.read_bytes()
    written = str(cell_files.load_cell(finished.folder, key))
    path = cell_files.cell_path(tmp_path, key)
    path.parent.mkdir(parents=True)
    removed = 0
    for place in range(2, len(raw), 61):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        found = cell_files.load_cell(tmp_path, key)
        assert found is None or str(found) == written, place
        assert path.exists() == (found is not None)
        removed += found is None
    assert removed > 50


def test_a_disk_that_cannot_be_read_is_no_damaged_cell(tmp_path, monkeypatch):
    from pyarrow import parquet

    def read(*_args, **_options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = cell_files.cell_path(tmp_path, "ab")
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(parquet, "read_metadata", read)
    with pytest.raises(OSError, match="Input/output error"):
        cell_files.load_cell(tmp_path, "ab")
    assert path.exists()


def test_the_folder_holds_the_study(part, tmp_path):
    run_study(part, tmp_path, workers=0)
    assert 'tiny = [\n    "../' in (tmp_path / "study.toml").read_text()
    found = StudySpec.load(tmp_path / "study.toml")
    paths = [[os.path.realpath(p) for p in s.checkpoints["tiny"]] for s in (found, part)]
    assert paths[0] == paths[1]
    assert found.grid == part.grid


def test_the_folder_can_go_anywhere(given, tmp_path):
    """Files of noise are copied, two of one name and other content apart."""
    noise = NoiseSpec.from_toml(
        'name = "mine"\n[[channels]]\nchannel = "bit_flip"\nprobability = 0.1\n'
    )
    files = [tmp_path / place / "mine.toml" for place in ("a", "b", "c")]
    for factor, file in zip((1, 2, 1), files, strict=True):
        file.parent.mkdir()
        noise.scaled(factor).model_copy(update={"name": "mine"}).save(file)
    told = given.model_dump(mode="json", exclude_unset=True)
    axes = [{"noise": str(file), "label": f"n{i}"} for i, file in enumerate(files)]
    told["grid"] = [{"noise": axes}]
    run = run_study(StudySpec.from_dict(told), tmp_path / "out", workers=0)
    for file in files:
        shutil.rmtree(file.parent)
    again = run_study(StudySpec.load(tmp_path / "out" / "study.toml"), run.folder, workers=0)
    assert again.last_call["num_evaluated"] == 0
    text = (tmp_path / "out" / "study.toml").read_text()
    assert re.findall(r'noise = "([^"]*)"', text) == [
        "inputs/mine.toml", "inputs/2/mine.toml", "inputs/mine.toml"
    ]  # fmt: skip


def test_failed_cells_are_told_and_the_others_kept(part, finished_part, tmp_path, monkeypatch):
    def evaluate(task):
        if "-2-1-" in task.folder:
            raise StudyError("no")
        return cells.evaluate(task)

    monkeypatch.setattr(study, "evaluate", evaluate)
    total = finished_part.about["num_cells"]
    with pytest.raises(StudyError, match=f"2 of {total} cells failed.*seed 1, .*: no 1 more"):
        run_study(part, tmp_path, workers=0)
    assert len(list((tmp_path / "cells").rglob("*.parquet"))) == total - 2


def test_keys_hold_what_decides_a_result(given, tmp_path):
    from dataclasses import replace

    from noise_models.study.plan import Plan

    rows = Plan(given, tmp_path).rows()
    keys = {row.key for row in rows}
    assert len(keys) == len(rows) - 2
    task = rows[0].task
    assert replace(task, folder="elsewhere").key == task.key
    renamed = replace(task.noise, data={**task.noise.data, "name": "other"})
    assert replace(task, noise=renamed).key == task.key
    for change in (
        {"weights_sha256": "0"},
        {"net": "{}"},
        {"data_sha256": "0"},
        {"test_images": 10},
        {"encoder": "brickwall"},
        {"shots": 3},
        {"mitigation": "zne"},
        {"repeat": 1},
        {"implementation": "other"},
        {"versions": {**task.versions, "torch": "1.0"}},
        {"noise": rows[-1].task.noise},
    ):
        assert replace(task, **change).key != task.key, change
    assert {"scipy", "rustworkx"} <= set(task.versions)
    assert len({row.task.net for row in rows}) == 2, "one and two blocks"


def test_a_worker_with_other_versions_is_refused(given, tmp_path):
    from dataclasses import replace

    from noise_models.study.plan import Plan

    task = Plan(given, tmp_path).rows()[0].task
    old = replace(task, versions={**task.versions, "torch": "1.0"})
    with pytest.raises(StudyError, match=r"This worker has torch .*, the study was planned with"):
        cells.evaluate(old)
    with pytest.raises(StudyError, match="the weights have changed"):
        cells.evaluate(replace(task, weights_sha256="0"))


def test_threads_of_one_worker_do_not_disturb_each_other(part, finished_part, tmp_path):
    """A cluster of one's own may have several: they share the networks that a process keeps."""
    from concurrent.futures import ThreadPoolExecutor

    from noise_models.study.plan import Plan

    tasks = list({row.key: row.task for row in Plan(part, tmp_path).rows()}.values())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cells.evaluate, tasks))
    for each in found:
        cell_files.save_cell(tmp_path, each.key, each.values)
        assert str(cell_files.load_cell(tmp_path, each.key)) == str(  # NaN is not itself
            cell_files.load_cell(finished_part.folder, each.key)
        )


@pytest.fixture(scope="module")
def drawn(finished, tmp_path_factory):
    return draw_figures(finished, tmp_path_factory.mktemp("figures"))


@pytest.mark.slow
def test_figures_have_their_data_beside_them(drawn):
    names = {each.path.stem for each in drawn}
    assert {"sweep-tiny-strength", "sweep-tiny-depth", "sweep-tiny-qubits"} <= names
    assert "sweep-tiny-heat" not in names, "one noise is swept: no map of several"
    assert {"shots-tiny-shots", "shots-tiny-pareto", "shots-tiny-margins"} <= names
    for each in drawn:
        assert each.path.read_bytes().startswith(b"\x89PNG")
        assert each.path.with_suffix(".svg").read_text().startswith("<?xml")
        heading, *rows = each.path.with_suffix(".csv").read_text().splitlines()
        assert heading.startswith("panel,")
        assert rows


def test_the_report_is_one_file_that_needs_no_network(finished, drawn):
    text = write_report(finished, drawn).read_text()
    text, embedded = re.subn(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert embedded == len(drawn)
    assert not re.findall(r"//|<script|<link|<iframe|@import|url\(", text)
    for word in ("Conclusions", "depolarizing", "heron_r2", "qiskit-aer", "seeds = ["):
        assert word in text
    assert "it has no error of two-qubit gates" in text
    assert "2 seeds cannot give one below 0.5 (Wilcoxon), 8 are needed" in text


def test_a_study_is_read_back(finished, tmp_path):
    found = load_study(finished.folder)
    assert found.about["num_cells"] == finished.about["num_cells"]
    assert found.about["calls"][0] == finished.last_call
    assert len(found.summary) == len(finished.summary)
    with pytest.raises(StudyError, match="holds no finished study"):
        load_study(tmp_path)


def test_a_study_that_was_published_without_its_cells(finished_part, tmp_path):
    """As docs/studies is: all tables, and the figures that need no cells."""
    for name in ("run.json", "study.toml", "summary.csv", "thresholds.csv"):
        shutil.copy(finished_part.folder / name, tmp_path)
    found = load_study(tmp_path)
    for name in ("summary", "thresholds"):
        ours, theirs = getattr(found, name), getattr(finished_part, name)
        # pandas 2 does not read the last bit of a number as it was written.
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-12, atol=0, check_dtype=False)
    drawn = {each.path.stem for each in draw_figures(found, tmp_path / "figures")}
    assert "sweep-tiny-strength" in drawn
    assert not [name for name in drawn if name.endswith(("-qubits", "-margins"))]


def test_tables_without_rows_are_read(tmp_path):
    """As the thresholds of a study whose noise has one strength."""
    write_table(pd.DataFrame(), tmp_path / "thresholds.csv")
    assert read_table(tmp_path / "thresholds").empty


def test_the_published_study_makes_its_report(tmp_path):
    published = Path(__file__).parents[3] / "docs" / "studies" / "digits"
    for name in ("run.json", "study.toml", "summary.csv", "thresholds.csv"):
        shutil.copy(published / name, tmp_path)
    run = load_study(tmp_path)
    text = write_report(run, []).read_text()
    for title in ("What mitigation gives", "Where 5 points are lost", "Every combination"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("<tr>") > len(run.thresholds) + 400
    assert "fake_torino" in text


def test_trained_for_noise(tmp_path):
    text = TRAIN.replace("num_layers = [1, 2]", "num_layers = [1]").replace("[0, 1]", "[0]")
    text = text.replace(
        "train_images = 150, test_images = 40", "train_images = 60, test_images = 20"
    )
    text = text.replace("{epochs = 2}", '{epochs = 1, engine = "noisy", noise = "heron_r2"}')
    spec = StudySpec.from_toml(
        f'{text}[[grid]]\nnoise = [{{noise = "bit_flip", strengths = [0.1]}}]\n'
    )
    run = run_study(spec, tmp_path, workers=0)
    assert set(run.results["trained"]) == {"heron_r2"}
    assert run.results["accuracy"].between(0, 1).all()
    (network,) = (tmp_path / "networks").iterdir()
    assert load(network)[1].training.noise == "heron_r2"
