"""Experiments as files: what they expand to, what is wrong with them."""

import pytest
import tomli_w

from qpc_qiskit.errors import ExperimentError
from qpc_qiskit.experiments import Experiment, experiment_names, load_experiment
from qpc_qiskit.experiments.spec import changed, slug
from qpc_qiskit.nets import build_net

MINIMAL = {
    "name": "mine",
    "title": "t",
    "question": "q",
    "seeds": [0, 1],
    "training": {"epochs": 2},
    "lines": [{"label": "a"}],
}


def with_(**changes):
    return Experiment.model_validate(MINIMAL | changes)


def test_the_papers_experiments_are_there():
    assert experiment_names() == [
        "ansatz", "application", "cifar10", "depth", "depth-10k", "digits", "fashion-mnist",
        "optimizer", "qcnn", "qubits",
    ]  # fmt: skip


@pytest.mark.parametrize("name", experiment_names())
def test_bundled_experiments(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    cells = experiment.cells()
    assert len({cell.folder for cell in cells}) == len(cells)
    assert len(experiment.seeds) >= 3
    assert len({cell.training.epochs for cell in cells}) == 1


def test_depth_is_that_of_figure_8():
    cells = [cell for cell in load_experiment("depth").cells() if cell.training.seed == 0]
    assert [(cell.net.name, cell.net.num_layers) for cell in cells] == [
        ("paper-fig3a", 1), ("paper-fig3a", 2), ("paper-fig3a", 3), ("paper-fig3a", 4),
        ("paper-fig3b", 3),
    ]  # fmt: skip
    assert {(cell.training.optimizer, cell.training.lr) for cell in cells} == {("adam", 0.01)}


def test_optimizer_has_every_combination():
    cells = [cell for cell in load_experiment("optimizer").cells() if cell.training.seed == 0]
    literal = [c for c in cells if c.net.name != "small"]
    assert {(c.net.name, c.training.lr) for c in literal} == {
        (name, lr) for name in ("paper-fig3a", "paper-fig3b") for lr in (0.01, 0.001)
    }
    cells = [c for c in cells if c.net.name == "small"]
    found = {(c.training.optimizer, c.training.lr, c.training.loss) for c in cells}
    assert len(found) == len(cells) == 14
    assert ("sgd", 0.1, "mse") in found
    assert "sgd, lr 0.1, mse" in {cell.label for cell in cells}


def test_later_options_go_over_earlier_ones():
    experiment = with_(
        preset="strong",
        net={"width": 8, "num_layers": 2},
        training={"epochs": 2, "lr": 0.5},
        lines=[
            {"label": "a"},
            {"label": "b", "preset": "paper-literal", "net": {"num_layers": 1}},
            {"label": "c{num_layers}", "grid": {"net.num_layers": [5], "training.lr": [0.25]}},
        ],
    )
    a, b, c = experiment.cells()[:3]
    assert (a.net.name, a.net.width, a.net.num_layers, a.training.augment) == (
        "strong", 8, 2, "flips",
    )  # fmt: skip
    assert (b.net.name, b.net.width, b.net.num_layers) == ("paper-fig3a", 8, 1)
    assert (b.training.lr, b.training.augment) == (0.5, "none")
    assert (c.label, c.net.num_layers, c.training.lr) == ("c5", 5, 0.25)
    assert [cell.training.seed for cell in experiment.cells()] == [0, 0, 0, 1, 1, 1]


def test_network_fits_the_data():
    net = with_(data={"name": "cifar10"}).cells()[0].net
    assert (net.in_channels, net.image_size, net.num_classes) == (3, 32, 10)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"training": {}}, "training.epochs must be given"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, r"seeds must differ, found \[1, 1\]"),
        ({"seeds": [-1]}, r"seeds must be in 0 to 9223372036854775807, found \[-1\]"),
        ({"seeds": [True]}, r"seeds\.0: Input should be a valid integer"),
        ({"lines": []}, "lines"),
        ({"lines": [{"label": "a"}, {"label": "a"}]}, "two lines are called 'a'; name in"),
        ({"lines": [{"label": "a"}, {"label": "A"}]}, "lines 'a' and 'A' would share the folder"),
        ({"lines": [{"label": "a\nb"}]}, r"label: 'a\\nb' must be one line of printable"),
        ({"lines": [{"label": 201 * "a"}]}, "is too long for the name of a folder"),
        ({"lines": [{"label": "a {seed}"}]}, "no option 'seed'"),
        ({"lines": [{"label": "a", "against": ["a"]}]}, "'a' is compared with itself"),
        ({"lines": [{"label": "a", "net": {"depth": 1}}]}, "line 'a': depth: Extra inputs"),
        ({"lines": [{"label": "a", "preset": "weak"}]}, "preset must be one of paper-literal, "),
        ({"lines": [{"label": "{depth}"}]}, "label '{depth}': no option 'depth'; between braces"),
        ({"lines": [{"label": "x {lr.foo}"}]}, "label 'x {lr.foo}': no option 'lr.foo'"),
        ({"lines": [{"label": "x {lr[0]}"}]}, r"label 'x {lr\[0\]}': no option 'lr\[0\]'"),
        ({"lines": [{"label": "x {}"}]}, "label 'x {}': no option ''"),
        ({"lines": [{"label": "x {lr"}]}, "label 'x {lr': expected '}'"),
        (
            {"lines": [{"label": "x {num_qubits:d}"}]},
            "label 'x {num_qubits:d}': unsupported format",
        ),
        (
            {"lines": [{"label": "a", "against": ["b"]}]},
            "line 'a': against 'b', but the lines are 'a'",
        ),
        ({"lines": [{"label": "a", "grid": {"lr": [1]}}]}, "'lr' must be net.FIELD or training"),
        ({"lines": [{"label": "a", "grid": {"net.width": []}}]}, "'net.width' has no values"),
        (
            {"lines": [{"label": "a", "grid": {"net.width": [4, 8]}}]},
            "two lines are called 'a'; name in the label what the grid changes",
        ),
        ({"lines": [{"label": "a", "training": {"seed": 3}}]}, "training.seed cannot be"),
        ({"training": {"epochs": 1, "devices": 2}}, "training.devices cannot be"),
        (
            {"training": {"epochs": 1, "engine": "noisy", "noise": "depolarizing:0.01"}},
            "is trained on the exact engine",
        ),
        ({"net": {"image_size": 8}}, "net.image_size is decided by the data"),
        ({"net": {"name": "paper-cnn", "ansatz": "figure1"}}, "ansatz would have no effect"),
        ({"name": "Mine!"}, "name: String should match pattern"),
        ({"note": "x"}, "note: Extra inputs"),
    ],
)
def test_wrong_experiments(changes, match, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(tomli_w.dumps(MINIMAL | changes))
    with pytest.raises(ExperimentError, match=match):
        load_experiment(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(
        ExperimentError, match=r"No experiment is called 'big'; expected one of ans"
    ):
        load_experiment("big")
    with pytest.raises(ExperimentError, match=r"no\.toml: cannot be read"):
        load_experiment(tmp_path / "no.toml")
    (tmp_path / "x.toml").write_text("name = ")
    with pytest.raises(ExperimentError, match=r"x\.toml: expected TOML"):
        load_experiment(tmp_path / "x.toml")


def test_changed_is_checked_anew():
    experiment = changed(with_(), seeds=[4], training={"lr": 0.5}, data={"train_images": 9})
    assert experiment.seeds == (4,)
    assert experiment.training == {"epochs": 2, "lr": 0.5}
    assert experiment.data.train_images == 9
    with pytest.raises(ExperimentError, match=r"mine: line 'a': lr: Input should be greater"):
        changed(with_(), training={"lr": -1})


def test_changes_go_over_everything():
    """What is given on the command line wins over presets, lines and grids."""
    lines = [
        {"label": "a", "training": {"epochs": 7, "lr": 0.5}},
        {"label": "b", "preset": "paper-literal", "net": {"width": 8}},
        {"label": "c, {lr}", "grid": {"training.epochs": [3], "training.lr": [0.1, 0.2]}},
        {"label": "d, {epochs}", "grid": {"training.epochs": [3, 4]}},
    ]
    cells = changed(with_(lines=lines), seeds=[0], training={"epochs": 5}, net={"width": 4}).cells()
    assert [cell.label for cell in cells] == ["a", "b", "c, 0.1", "c, 0.2", "d, 5"]
    assert {(cell.training.epochs, cell.net.width) for cell in cells} == {(5, 4)}
    assert [cell.training.lr for cell in cells] == [0.5, 0.01, 0.1, 0.2, 0.01]


def test_comparisons_follow_the_grid():
    grid = {"net.num_layers": [1, 2]}
    lines = [
        {"label": "q{num_layers}", "grid": grid, "against": ["n{num_layers}", "n1"], "paper": "9"},
        {"label": "n{num_layers}", "grid": grid, "net": {"pointwise": "no-entanglement"}},
    ]
    cells = with_(lines=lines).cells()[:4]
    assert [cell.against for cell in cells] == [("n1",), ("n2", "n1"), (), ()]
    assert [cell.paper for cell in cells] == ["9", "9", "", ""]


def test_the_papers_networks_are_compared_with_their_twins():
    for name, pairs in (
        (
            "cifar10",
            {
                ("quantum, Fig. 3(a)", "classical, Fig. 3(b)"),
                ("strong, quantum", "strong, classical"),
            },
        ),
        ("fashion-mnist", {("quantum, Fig. 3(a)", "classical, Fig. 3(b)")}),
        ("depth", {(f"quantum, depth {n}", "classical, Fig. 3(b)") for n in (1, 2, 3, 4)}),
    ):
        cells = load_experiment(name).cells()
        assert pairs <= {(cell.label, other) for cell in cells for other in cell.against}
    papers = {cell.label: cell.paper for cell in load_experiment("cifar10").cells()}
    assert papers["quantum, Fig. 3(a)"] == "90"
    assert papers["strong, quantum"] == ""


def test_round_trip_through_toml(tmp_path):
    path = tmp_path / "again.toml"
    path.write_text(tomli_w.dumps(with_().model_dump(exclude_none=True)))
    assert load_experiment(path) == with_()


def test_folders_of_labels():
    assert slug("quantum, Fig. 3(a)") == "quantum-fig.-3-a"
    assert slug("lr 0.01") == "lr-0.01"
    assert slug("near_by, a_ b") == "near-by-a-b"
    assert slug("α = 0.1") == "α-0.1"
    assert slug("日本") != slug("中文")
    assert slug("../..") == slug("/") == "line"


def test_a_line_of_a_grid_may_be_what_the_others_are_compared_with():
    grid = {"net.num_qubits": [4, 5]}
    line = {"label": "{num_qubits} qubits", "grid": grid, "against": ["4 qubits"]}
    assert [cell.against for cell in with_(lines=[line], seeds=[0]).cells()] == [(), ("4 qubits",)]


def test_the_greatest_seed_builds_a_network():
    (cell,) = with_(seeds=[2**63 - 1]).cells()
    build_net(cell.net, seed=cell.training.seed)
    with pytest.raises(ExperimentError, match="seeds must be in 0 to"):
        changed(with_(), seeds=[2**63])
