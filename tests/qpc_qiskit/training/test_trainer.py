import csv
import json
import signal
import threading
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from later import later

from qpc_qiskit import __version__
from qpc_qiskit.data.images import load
from qpc_qiskit.errors import CheckpointError, DataError, EngineError, QPCError
from qpc_qiskit.nets import NetConfig, build_net
from qpc_qiskit.options.records import TrainConfig
from qpc_qiskit.plots.figures import plot_curves
from qpc_qiskit.training.checkpoint import load as load_checkpoint
from qpc_qiskit.training.evaluation import predict, score
from qpc_qiskit.training.runs import note_seconds, read_seconds

training = later("qpc_qiskit.training.trainer")
pytestmark = pytest.mark.usefixtures("undrawn")

NET = NetConfig(width=4, quantum_channels=4, num_layers=1, dropout=0.5)
CONFIG = TrainConfig(epochs=3, batch_size=32, augment="flips", seed=5)


@pytest.fixture(scope="module")
def data():
    return load("digits").subset(100, 40)


def run(data, folder, config=CONFIG, net=NET, **options):
    model = build_net(net, seed=config.seed)
    history = training.train(model, data, config, folder, progress=False, **options)
    return model, history


def stop_in_epoch(monkeypatch, epoch, send):
    """Send a signal from within the given epoch, counted from 0."""
    original = training._Task.training_step

    def training_step(self, batch, batch_index):
        if self.current_epoch == epoch and batch_index == 1:
            send()
        return original(self, batch, batch_index)

    monkeypatch.setattr(training._Task, "training_step", training_step)


def interrupt(data, folder, epoch, monkeypatch, config=CONFIG, signum=signal.SIGINT):
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, epoch, lambda: signal.raise_signal(signum))
        with pytest.raises(
            training.TrainingInterrupted, match=f"Stopped after {epoch} of 3 epochs"
        ):
            run(data, folder, config)


def state_of(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_same(ours, theirs):
    """The same nested values to the last bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def test_run_leaves_what_it_promises(data, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(training, "plot_curves", plot_curves)
    model, history = run(data, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "run.json", "last.ckpt", "metrics.csv", "seconds.csv", "curves.png", "model.json",
        "model.safetensors",
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["test_loss"]) for row in rows] == [metrics.test_loss for metrics in history]
    assert history[-1].train_loss < history[0].train_loss
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(read_seconds(tmp_path)) == [1, 2, 3]
    loaded, record = load_checkpoint(tmp_path)
    assert_same(loaded.state_dict(), model.state_dict())
    assert record.training == CONFIG
    assert record.metrics["test_accuracy"] == history[-1].test_accuracy
    assert not model.training
    assert capfd.readouterr() == ("", "")


def test_metrics_are_those_of_the_finished_network(data, tmp_path):
    model, history = run(data, tmp_path)
    for images, labels, loss, accuracy in (
        (data.train_images, data.train_labels, "train_loss", "train_accuracy"),
        (data.test_images, data.test_labels, "test_loss", "test_accuracy"),
    ):
        expected = score(predict(model, images, 64), labels)
        assert getattr(history[-1], loss) == pytest.approx(expected.loss, rel=1e-5)
        assert getattr(history[-1], accuracy) == expected.accuracy


def test_normalisation_constants_are_those_of_the_training_images(data, tmp_path):
    model, _ = run(data, tmp_path, TrainConfig(epochs=1))
    mean, std = data.channel_stats()
    torch.testing.assert_close(model.normalise.mean, mean.to(torch.float32))
    torch.testing.assert_close(model.normalise.std, std.to(torch.float32))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resumed_run_equals_an_uninterrupted_one(data, tmp_path, monkeypatch, optimizer):
    momentum = 0.9 if optimizer == "sgd" else 0.0
    config = CONFIG.model_copy(update={"optimizer": optimizer, "momentum": momentum})
    whole, history = run(data, tmp_path / "whole", config)
    interrupt(data, tmp_path / "parts", 1, monkeypatch, config)
    assert len(state_of(tmp_path / "parts")["history"]) == 1
    assert (tmp_path / "parts" / "curves.png").exists()
    assert not (tmp_path / "parts" / "model.json").exists()
    parts, resumed = run(data, tmp_path / "parts", config, resume=True)
    assert resumed == history
    assert list(read_seconds(tmp_path / "parts")) == [1, 2, 3]
    assert_same(parts.state_dict(), whole.state_dict())
    ours, theirs = state_of(tmp_path / "parts"), state_of(tmp_path / "whole")
    assert_same(ours["optimizer_states"], theirs["optimizer_states"])
    assert_same(ours["state_dict"], theirs["state_dict"])
    for name in ("metrics.csv", "model.json", "model.safetensors", "run.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_stopped_twice_and_before_the_first_epoch_was_done(data, tmp_path, monkeypatch):
    whole, _ = run(data, tmp_path / "whole")
    interrupt(data, tmp_path / "parts", 0, monkeypatch, signum=signal.SIGTERM)
    assert not (tmp_path / "parts" / "last.ckpt").exists()
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(
            training.TrainingInterrupted, match=r"2 of 3 .*qpc train --resume --out .*parts"
        ):
            run(data, tmp_path / "parts", resume=True)
    parts, _ = run(data, tmp_path / "parts", resume=True)
    assert_same(parts.state_dict(), whole.state_dict())


def test_stop_during_the_evaluation(data, tmp_path, monkeypatch):
    original = training._Task._score

    def stop_then_score(self, images, labels):
        signal.raise_signal(signal.SIGINT)
        return original(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(training._Task, "_score", stop_then_score)
        with pytest.raises(training.TrainingInterrupted, match="Stopped after 0 of 3 epochs"):
            run(data, tmp_path)
    run(data, tmp_path, resume=True)


def test_resuming_a_finished_run_changes_nothing(data, tmp_path):
    model, history = run(data, tmp_path)
    for name in ("model.json", "model.safetensors", "metrics.csv"):  # as if it died before these
        (tmp_path / name).unlink()
    again, same = run(data, tmp_path, resume=True)
    assert same == history
    assert_same(again.state_dict(), model.state_dict())
    assert_same(load_checkpoint(tmp_path)[0].state_dict(), model.state_dict())


def test_batch_order_and_dropout_follow_the_seed(data, tmp_path):
    first, _ = run(data, tmp_path / "1")
    torch.manual_seed(99)
    same, _ = run(data, tmp_path / "2")
    other, _ = run(data, tmp_path / "3", CONFIG.model_copy(update={"seed": 6}))
    assert_same(first.state_dict(), same.state_dict())
    assert not torch.equal(first.layers.head[2].weight, other.layers.head[2].weight)


def test_epochs_have_orders_of_their_own_and_every_image_once(data):
    plain = CONFIG.model_copy(update={"augment": "none"})
    orders = []
    for epoch in (0, 1):
        batches = list(training._Batches(data, plain, epoch))
        assert len(batches) == len(training._Batches(data, plain, epoch)) == 4
        orders.append(torch.cat([images for images, _ in batches]).flatten(1))
    assert not torch.equal(*orders)
    keys = [sorted(map(tuple, order.tolist())) for order in orders]
    assert keys[0] == keys[1] == sorted(map(tuple, data.train_images.flatten(1).tolist()))


def test_flips_are_flips(data):
    before = data.train_images.clone()
    plain = CONFIG.model_copy(update={"augment": "none"})
    pairs = zip(training._Batches(data, CONFIG, 0), training._Batches(data, plain, 0), strict=True)
    (flipped, labels), (straight, same_labels) = next(pairs)
    assert torch.equal(labels, same_labels)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, straight, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, straight, strict=True)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert 0 < sum(mirrored) < len(mirrored)
    assert torch.equal(data.train_images, before)


def test_crops_are_moved_images(data):
    """On 8x8 images by up to one pixel along each axis, all nine ways, with black coming in."""
    plain = CONFIG.model_copy(update={"augment": "flips", "batch_size": 100})
    moved = plain.model_copy(update={"augment": "flips-crops"})
    (flipped, _), (cropped, _) = (next(iter(training._Batches(data, c, 0))) for c in (plain, moved))
    padded = torch.nn.functional.pad(flipped, (1, 1, 1, 1))
    ways = set()
    for before, after in zip(padded, cropped, strict=True):
        found = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if torch.equal(before[:, y : y + 8, x : x + 8], after)
        ]
        assert found
        ways.add(found[0])
    assert len(ways) == 9


@pytest.mark.parametrize("name", ["mobilenet-tiny", "resnet-bottleneck-tiny", "quanvolution"])
def test_networks_that_are_not_the_papers_train(data, tmp_path, name):
    _, history = run(data, tmp_path, net=NetConfig(name=name, quantum_channels=8, num_layers=1))
    assert history[-1].train_loss < history[0].train_loss


def test_learning_rate_is_torchs_cosine():
    config = TrainConfig(epochs=7, lr=0.1, eta_min=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7, config.eta_min)
    for epoch in range(7):
        assert training.learning_rate(config, epoch) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert training.learning_rate(TrainConfig(schedule="constant", lr=0.3), 5) == 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"dtype": "float64"},
        {"loss": "mse"},
        {"schedule": "constant"},
        {"optimizer": "rmsprop", "momentum": 0.5},
        {"batch_size": 99},
    ],
)
def test_options_take_effect(data, tmp_path, options):
    short = TrainConfig(epochs=1, seed=5)
    plain, _ = run(data, tmp_path / "plain", short.model_copy(update={"epochs": 2}))
    changed, _ = run(
        data, tmp_path / "changed", TrainConfig.model_validate({"epochs": 2, "seed": 5, **options})
    )
    expected = torch.float64 if "dtype" in options else torch.float32
    assert changed.layers.pointwise.weight.dtype == expected
    assert not torch.equal(
        changed.layers.head[2].weight.to(torch.float64),
        plain.layers.head[2].weight.to(torch.float64),
    )


def test_last_batch_of_one_image(data, tmp_path):
    net = NetConfig(name="small-classical", width=2, quantum_channels=2, hidden=3)
    _, history = run(data, tmp_path, TrainConfig(epochs=1, batch_size=99), net)
    assert len(history) == 1


def test_run_from_before_head_norms_is_resumed(data, tmp_path):
    net = NetConfig(name="small-classical", width=2, quantum_channels=2, hidden=3, head_norm="none")
    config = TrainConfig(epochs=2)
    run(data, tmp_path, config, net)
    path = tmp_path / "run.json"
    record = json.loads(path.read_text())
    assert record["net"].pop("head_norm") == "none"
    path.write_text(json.dumps(record))
    _, history = run(data, tmp_path, config, net, resume=True)
    assert len(history) == 2
    other = net.model_copy(update={"head_norm": "batch"})
    with pytest.raises(CheckpointError, match=r"net\.head_norm: begun with 'none', now 'batch'"):
        run(data, tmp_path, config, other, resume=True)


def test_classical_twin_trains(data, tmp_path):
    net = NetConfig(name="small-classical", width=4, quantum_channels=4)
    _, history = run(data, tmp_path, net=net)
    assert history[-1].train_loss < history[0].train_loss


def test_a_run_is_not_overwritten(data, tmp_path):
    run(data, tmp_path, TrainConfig(epochs=1))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds a run already .*--resume.*--force"):
        run(data, tmp_path)
    _, history = run(data, tmp_path, force=True)
    assert len(history) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="contradict"):
        run(data, tmp_path, force=True, resume=True)


def test_resume_refuses_another_run(data, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"holds no run \(run\.json is missing\)"):
        run(data, tmp_path, resume=True)
    interrupt(data, tmp_path, 1, monkeypatch)
    with pytest.raises(CheckpointError, match=r"training\.lr: begun with 0\.01, now 0\.02"):
        run(data, tmp_path, CONFIG.model_copy(update={"lr": 0.02}), resume=True)
    with pytest.raises(CheckpointError, match=r"net\.width: begun with 4, now 5"):
        run(data, tmp_path, net=NET.model_copy(update={"width": 5}), resume=True)
    with pytest.raises(CheckpointError, match=r"data\.sha256: begun with .* data\.num_train"):
        run(data.subset(99), tmp_path, resume=True)


def test_resume_refuses_another_version(data, tmp_path, monkeypatch):
    interrupt(data, tmp_path, 1, monkeypatch)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace(f'"{__version__}"', '"0.0.1"'))
    with pytest.raises(CheckpointError, match=r"begun with qpc-qiskit 0\.0\.1 and cannot"):
        run(data, tmp_path, resume=True)


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_damaged_state(data, tmp_path, monkeypatch, content):
    interrupt(data, tmp_path, 1, monkeypatch)
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: expected the state .*--force"):
        run(data, tmp_path, resume=True)


def test_state_without_weights(data, tmp_path, monkeypatch):
    interrupt(data, tmp_path, 1, monkeypatch)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del state["state_dict"]
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: expected the state .*KeyError"):
        run(data, tmp_path, resume=True)


def test_state_of_another_training(data, tmp_path, monkeypatch):
    """What Lightning stumbles over is told; and a folder is no address, whatever it is called."""
    monkeypatch.chdir(tmp_path)
    folder = Path("http-run")
    interrupt(data, folder, 1, monkeypatch)
    state = state_of(folder)
    for missing in ("loops", "optimizer_states"):
        other = {name: value for name, value in state.items() if name != missing}
        torch.save({**other, "loops": other.get("loops", {})}, folder / "last.ckpt")
        with pytest.raises(CheckpointError, match=r"last\.ckpt: expected the state of this train"):
            run(data, folder, resume=True)
    torch.save(state, folder / "last.ckpt")
    _, history = run(data, folder, resume=True)
    assert len(history) == 3


def test_no_file_of_others_begins_a_training(tmp_path):
    """Lightning looks for one by itself on a SLURM cluster."""
    with pytest.raises(CheckpointError, match="a new training begins from no file; move it away"):
        training._CheckedState(None).load_checkpoint(tmp_path / "hpc_ckpt_1.ckpt")


def test_truncated_state(data, tmp_path, monkeypatch):
    interrupt(data, tmp_path, 1, monkeypatch)
    path = tmp_path / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: expected the state"):
        run(data, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "expected JSON, found something else"),
        ("{}", "the entry 'net' is wrong: Field required"),
        ('{"net": 1}', "the entry 'net' is wrong"),
    ],
)
def test_damaged_run_record(data, tmp_path, content, match):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"run\.json: {match}"):
        run(data, tmp_path, resume=True)


def test_data_must_fit_the_network(data, tmp_path):
    with pytest.raises(DataError, match=r"expects images \(1, 28, 28\) of 10 classes; digits has"):
        run(data, tmp_path, net=NetConfig(image_size=28))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(data, tmp_path):
    with pytest.raises(EngineError, match=r"A GPU was asked for .* torch finds none"):
        run(data, tmp_path, TrainConfig(device="cuda"))


def test_diverged_training(data, tmp_path, monkeypatch):
    nan = torch.full((40, 10), torch.nan)
    monkeypatch.setattr(training, "predict", lambda model, images, *rest: nan[:1])
    monkeypatch.setattr(training, "score", lambda logits, labels, loss: score(nan, labels[:40]))
    with pytest.raises(QPCError, match=r"loss is nan after epoch 1\. Try a smaller learning rate"):
        run(data, tmp_path)


def test_nothing_global_is_touched(data, tmp_path):
    backend = mpl.get_backend()
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run(data, tmp_path, TrainConfig(epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert mpl.get_backend() == backend
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not Path("lightning_logs").exists()


def test_training_outside_of_the_main_thread(data, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(data, tmp_path)[1]))
    thread.start()
    thread.join()
    assert len(results[0]) == 3


def test_progress_says_epoch_loss_and_accuracies(data, tmp_path, capsys):
    model = build_net(NET)
    history = training.train(model, data, TrainConfig(epochs=1), tmp_path)
    output = capsys.readouterr()
    assert output.out == ""
    assert f"epoch 1/1  loss {history[0].train_loss:.4f}  accuracy" in output.err
    assert f"{100 * history[0].test_accuracy:.2f} % test" in output.err
    assert json.loads((tmp_path / "run.json").read_text())["training"]["epochs"] == 1


def test_seconds_of_epochs(tmp_path):
    assert read_seconds(tmp_path) == {}
    for epoch, seconds in ((1, 0.5), (2, 1.25), (3, 9.0)):
        note_seconds(tmp_path, epoch, seconds)
    assert read_seconds(tmp_path) == {1: 0.5, 2: 1.25, 3: 9.0}
    note_seconds(tmp_path, 2, 2.0)  # the epoch was lost and trained again
    assert read_seconds(tmp_path) == {1: 0.5, 2: 2.0}
    (tmp_path / "seconds.csv").write_text("epoch,seconds\n1,soon\n")
    assert read_seconds(tmp_path) == {}
    note_seconds(tmp_path, 1, 3.0)
    assert read_seconds(tmp_path) == {1: 3.0}
