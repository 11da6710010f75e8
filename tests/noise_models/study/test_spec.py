"""Study files: what comes back, and one clear error for everything that is wrong."""

from pathlib import Path

import pytest

from noise_models.study.noise import NoiseResolver
from noise_models.study.plan import Plan
from noise_models.study.spec import StudySpec
from qpc_qiskit.data.images import load_source
from qpc_qiskit.errors import BackendError, CheckpointError, NoiseError
from qpc_qiskit.nets import build_net, config_for
from qpc_qiskit.options.records import DataSource, TrainConfig
from qpc_qiskit.training.checkpoint import DataRecord, make_record, save

ROOT = Path(__file__).parents[3]
TRAIN = "[train.digits]\ndata = {train_images = 60, test_images = 30}\nnet = {width = 2}\n"


def spec(grid, head="", train=TRAIN):
    return StudySpec.from_toml(f'name = "s"\n{head}\n{train}\n[[grid]]\n{grid}\n', "s.toml")


def test_the_text_comes_back():
    made = spec('noise = [{noise = "bit_flip", strengths = [0.1]}, "heron_r2"]\nshots = [8]')
    assert StudySpec.from_toml(made.to_toml()) == made


def test_paths_are_those_of_the_file(tmp_path):
    (tmp_path / "s.toml").write_text(
        'name = "s"\ncheckpoints = {own = ["runs/a"]}\nmarks = ["m.json", "fake_fez"]\n'
        '[[grid]]\nnoise = ["n.toml", "ideal"]\n'
    )
    found = StudySpec.load(tmp_path / "s.toml")
    assert found.checkpoints["own"] == (str(tmp_path / "runs" / "a"),)
    assert found.marks == (str(tmp_path / "m.json"), "fake_fez")
    assert [a.noise for a in found.grid[0].noise] == [str(tmp_path / "n.toml"), "ideal"]
    assert [a.name for a in found.grid[0].noise] == ["n", "ideal"]


def test_a_data_set_and_noise_for_training_lie_beside_the_file(tmp_path):
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[train.a]\ndata = {name = "cifar10", data_dir = "cifar"}\n'
        'training = {engine = "noisy", noise = "n.toml"}\n[[grid]]\nnoise = ["ideal"]\n'
    )
    found = StudySpec.load(tmp_path / "s.toml")
    assert found.train["a"].data.data_dir == str(tmp_path / "cifar")
    assert found.train["a"].training.noise == str(tmp_path / "n.toml")
    assert found.beside(tmp_path).train["a"].data.data_dir == "cifar"


@pytest.mark.parametrize(
    ("grid", "match"),
    [
        ("noise = []", r"grid\[0\].noise: the grid is empty: expected at least one kind of noise"),
        ('noise = ["ideal"]\nshots = []', r"grid\[0\].shots: the grid is empty"),
        (
            'noise = ["ideal"]\nshots = [0]',
            'expected a number of shots from 1 to 1,000,000,000, or "exact"',
        ),
        ('noise = ["ideal"]\nencoder = ["qft"]', "expected an encoder, one of multiplexor"),
        ('noise = ["ideal"]\nmitigation = ["dd"]', "dynamical decoupling.*can do nothing here"),
        ('noise = ["ideal"]\nrepeats = 2', "repeats has no effect on exact values"),
        ('noise = ["ideal", "ideal"]', "noise 'ideal' is given twice"),
        ('noise = ["ideal"]\nnetworks = ["other"]', "expected names of digits, got 'other'"),
        ('noise = ["ideal"]\nshots = [64, 64]', "shots: 64 is given twice"),
        ('noise = ["ideal"]\nshots = ["exact", "exact"]', "shots: 'exact' is given twice"),
        ('noise = ["ideal"]\nmitigation = ["none", "none"]', "mitigation: 'none' is given twice"),
        (
            'noise = ["ideal"]\nmitigation = ["zne+readout", "readout+zne"]',
            r"mitigation: 'readout\+zne' is given twice",
        ),
        (
            'noise = ["ideal"]\nencoder = ["brickwall", "brickwall"]',
            "encoder: 'brickwall' is given twice",
        ),
        (
            'noise = ["ideal"]\nnetworks = ["digits", "digits"]',
            "networks: 'digits' is given twice",
        ),
        ('noise = ["ideal"]\nfoo = 1', "grid.0..foo: there is no such field"),
        ('noise = ["bit_flip"]', "the channel bit_flip needs strengths"),
        ('noise = [{noise = "bit_flip", strengths = []}]', "different numbers, at least one"),
        (
            'noise = [{noise = {name = "x", channels = [{channel = "bit_flap"}]}}]',
            "channels.0..channel: expected one of bit_flip,.*got 'bit_flap'",
        ),
        (
            'noise = [{noise = {name = "x", channels = [{channel = "thermal_relaxation", '
            "t1_us = 10.0, t2_us = 21.0, times_ns = {sx = 30.0}}]}}]",
            r"expected t2_us of at most 2 \* t1_us = 20, got 21",
        ),
    ],
)
def test_what_is_wrong_in_itself(grid, match):
    with pytest.raises(NoiseError, match=match) as caught:
        spec(grid)
    assert str(caught.value).startswith("s.toml: ")
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize(
    ("head", "train", "match"),
    [
        ("seeds = []", TRAIN, "seeds: expected a list of different seeds"),
        ("seeds = [1, 1]", TRAIN, "seeds: expected a list of different seeds"),
        ("", "", "there are no networks"),
        ("", "[train.a]\nnet = {width = 0}\n", "train.a.net.width: expected 1 or more, got 0"),
        ("", "[train.a]\ntraining = {seed = 3}\n", "the seeds of the study are taken"),
        ("", "[train.a]\nnet = {num_classes = 3}\n", "num_classes has no effect"),
        ("", "[train.a]\ntraining = {devices = 2}\n", "trains each network in one process"),
        ("", "[train.a]\nnet = {num_layers = 3}\nnum_layers = [1]\n", "num_layers is given twice"),
        ('checkpoints = {digits = ["x"]}', TRAIN, "'digits' is in train and in checkpoints"),
        ('seeds = [0]\ncheckpoints = {own = ["x"]}', "", "seeds has no effect: no network is tr"),
        ('marks = ["fake_fez", "fake_fez"]', TRAIN, "marks: 'fake_fez' is given twice"),
    ],
)
def test_what_is_wrong_around_it(head, train, match):
    with pytest.raises(NoiseError, match=match):
        spec('noise = ["ideal"]', head, train)


@pytest.mark.parametrize("kind", ["train.b]", "checkpoints]\nb = ['x']"])
def test_a_network_that_no_grid_has(kind):
    where = kind.partition("]")[0].removesuffix(".b")
    with pytest.raises(NoiseError, match=rf"{where}\.b has no effect: no grid has this network"):
        spec('noise = ["ideal"]\nnetworks = ["digits"]', train=f"{TRAIN}[{kind}\n")


def test_there_must_be_a_grid():
    with pytest.raises(NoiseError, match=r"grid: the grid is empty: expected at least one"):
        StudySpec.from_toml(f'name = "s"\ngrid = []\n{TRAIN}')
    with pytest.raises(NoiseError, match="grid: it is missing"):
        StudySpec.from_toml(f'name = "s"\n{TRAIN}')
    with pytest.raises(NoiseError, match="expected TOML"):
        StudySpec.from_toml("name = ")


@pytest.mark.parametrize(
    ("grid", "kind", "match"),
    [
        (
            'noise = [{noise = "bit_flip", strengths = [-0.1]}]',
            NoiseError,
            "noise 'bit_flip' at -0.1: .*a probability from 0 to 1, got '-0.1'",
        ),
        ('noise = ["heron_r9"]', NoiseError, "Unknown noise 'heron_r9'"),
        ('noise = ["missing.toml"]', NoiseError, "Cannot read missing.toml"),
        (
            'noise = [{noise = "heron_r2", strengths = [1e6]}]',
            NoiseError,
            "noise 'heron_r2' at 1e.06: .*from 0 to 1",
        ),
        ('noise = ["fake_nowhere"]', BackendError, "fake_nowhere"),
        (
            'noise = [{noise = {name = "x", channels = [{channel = "bit_flip", probability = 0.1, '
            "qubits = [3]}]}}]",
            NoiseError,
            "a channel is told for qubit 3; the circuits have qubits 0 to 0 only",
        ),
        (
            'noise = [{noise = "depolarizing", strengths = [0.1]}]\nmitigation = ["readout"]',
            NoiseError,
            "mitigation 'readout' can do nothing about any of its noise: it has no readout error",
        ),
        ('noise = ["ideal"]\nnum_layers = [7]', NoiseError, "grid 'main' is empty"),
        (
            'noise = ["ideal"]\nnum_layers = [3, 9]',
            NoiseError,
            "grid 'main': num_layers of 9 has no effect: no network of it has so many blocks",
        ),
    ],
)
def test_what_is_wrong_with_the_networks_and_noise(grid, kind, match, tmp_path):
    with pytest.raises(kind, match=match):
        Plan(spec(grid), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_figures_mark_and_how_many_images(tmp_path):
    with pytest.raises(NoiseError, match=r"marks: expected devices and snapshots.*'heron_r2'"):
        Plan(spec('noise = ["ideal"]', 'marks = ["heron_r2"]'), tmp_path)
    with pytest.raises(NoiseError, match="test_images: expected at most the 30 test images"):
        Plan(spec('noise = ["ideal"]', "test_images = 31"), tmp_path)


def test_a_device_that_is_scaled_until_nothing_works(tmp_path):
    file = ROOT / "examples" / "noise_study" / "torino.json"
    grid = f'noise = [{{noise = "{file}", strengths = [1.0, 16.0]}}]'
    with pytest.raises(NoiseError, match="noise 'torino' at 16: The backend has no 4 connected"):
        Plan(spec(grid, train=TRAIN.replace("width = 2", "width = 16")), tmp_path)


def test_a_missing_checkpoint(tmp_path):
    made = spec('noise = ["ideal"]', f'checkpoints = {{own = ["{tmp_path}/none"]}}', "")
    with pytest.raises(CheckpointError, match=r"expected a checkpoint .* found none"):
        Plan(made, tmp_path)


def test_a_network_without_circuits(tmp_path):
    made = spec('noise = ["ideal"]', "", '[train.a]\nnet = {name = "small-classical"}\n')
    with pytest.raises(CheckpointError, match="has no quantum layer, so noise does nothing"):
        Plan(made, tmp_path)


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("depolarising:0.1", "Unknown noise 'depolarising:0.1'"),
        ("depolarizing:1.1", "a probability from 0 to 1"),
        ("missing.toml", "Cannot read missing.toml"),
    ],
)
def test_noise_for_training_is_looked_at_before_any_run(word, match, tmp_path):
    train = f'{TRAIN}training = {{engine = "noisy", noise = "{word}"}}\n'
    with pytest.raises(NoiseError, match=rf"^train\.digits\.training\.noise: .*{match}"):
        Plan(spec('noise = ["ideal"]', train=train), tmp_path)


def trained_for(file, probability, out):
    """Folders of the networks of a study that are trained for the noise in a file."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        f'name = "n"\n[[channels]]\nchannel = "bit_flip"\nprobability = {probability}\n'
    )
    train = f'{TRAIN}training = {{engine = "noisy", noise = "{file}"}}\n'
    plan = Plan(spec('noise = ["ideal"]', train=train), out)
    return [(network.folder, network.trained) for network in plan.networks]


def test_a_network_is_trained_anew_for_edited_noise(tmp_path):
    file = tmp_path / "a" / "n.toml"
    ((first, trained),) = trained_for(file, 0.1, tmp_path / "out")
    assert trained == "n"
    assert trained_for(file, 0.2, tmp_path / "out") != [(first, trained)]
    elsewhere = trained_for(tmp_path / "b" / "n.toml", 0.1, tmp_path / "out")
    assert elsewhere == [(first, trained)], "the same noise in another folder"


def test_a_device_is_what_it_is_calibrated_to(tmp_path, monkeypatch):
    train = f'{TRAIN}training = {{engine = "noisy", noise = "fake_fez"}}\n'
    made = spec('noise = ["ideal"]', train=train)
    (before,) = Plan(made, tmp_path).jobs
    find = NoiseResolver.find

    def tomorrow(self, word):
        found = find(self, word)
        return found.scaled(1.5) if word == "fake_fez" else found

    monkeypatch.setattr(NoiseResolver, "find", tomorrow)
    assert Plan(made, tmp_path).jobs[0].folder != before.folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Networks that a study may be given; their records say that they are trained."""
    folder = tmp_path_factory.mktemp("runs")

    def made(name, seed, num_test=30, epochs=1, **net):
        source = DataSource(train_images=60, test_images=num_test)
        data = load_source(source)
        config = config_for(data, **({"width": 2, "num_layers": 1} | net))
        training = TrainConfig(epochs=epochs, seed=seed)
        model = build_net(config, seed=seed)
        save(folder / name, model, make_record(model, DataRecord.of(data), training))

    made("first", 0)
    made("seed", 1)
    made("blocks", 0, num_layers=2)
    made("wide", 2, width=3)
    made("images", 3, num_test=20)
    made("longer", 4, epochs=2)
    return folder


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("wide", "net.width: 2 and 3"),
        ("images", "test images: 30 and 20"),
        ("longer", "training.epochs: 1 and 2"),
    ],
)
def test_different_networks_are_no_seeds(name, match, runs, tmp_path):
    def plan(*names):
        folders = [str(runs / each) for each in names]
        return Plan(spec('noise = ["ideal"]', f"checkpoints = {{own = {folders}}}", ""), tmp_path)

    assert len(plan("first", "seed", "blocks").networks) == 3
    with pytest.raises(NoiseError, match=f"differ in their seed or blocks only.*{match}"):
        plan("first", "seed", name)


@pytest.mark.slow
def test_the_published_study_can_be_run(tmp_path):
    """From a clone: all its files are inside."""
    folder = ROOT / "docs" / "studies" / "digits"
    published = StudySpec.load(folder / "study.toml")
    found = []
    published.placed(lambda path: found.append(Path(path)) or path, str)
    assert found
    assert all(path.is_relative_to(folder) for path in found)
    source = StudySpec.load(ROOT / "examples" / "noise_study" / "digits.toml")
    plans = [Plan(each, tmp_path) for each in (published, source)]
    assert plans[0].rows_by_grid == plans[1].rows_by_grid
    assert [j.folder for j in plans[0].jobs] == [j.folder for j in plans[1].jobs]


def test_the_example_is_the_study_of_the_issue(tmp_path):
    """Five channels and readout, two devices, both grids of strengths, 8 seeds, 1 to 4 blocks."""
    read = StudySpec.load(ROOT / "examples" / "noise_study" / "digits.toml")
    plan = Plan(read, tmp_path)
    assert len(read.seeds) == 8
    assert read.train["digits"].num_layers == (1, 2, 3, 4)
    channels = read.grid[0].noise
    assert len(channels) == 6
    for axis in channels:
        assert {1e-4, 1e-3, 1e-2, *(n / 10 for n in range(1, 11))} <= set(axis.strengths)
    assert len(read.grid[1].noise) == 2
    assert plan.num_rows > 3000
    assert len(plan.jobs) == 40
