import gzip
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from qpc_qiskit.data.images import DATA_NAMES, ImageData, load, load_source, unit_images
from qpc_qiskit.data.sources import openml
from qpc_qiskit.errors import DataError
from qpc_qiskit.options.records import DataSource


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_fashion(folder, num_train=30, num_test=20, compress=False):
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", num_train), ("t10k", num_test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(content) if compress else content)


def write_cifar(folder):
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] = [0, 1, 9, 5]
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def tiny(num_train=8, num_test=4, **changes):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, 4)
    fields = {
        "name": "tiny",
        "train_images": torch.rand(num_train, *shape, generator=generator),
        "train_labels": torch.arange(num_train) % 3,
        "test_images": torch.rand(num_test, *shape, generator=generator),
        "test_labels": torch.arange(num_test) % 3,
        "class_names": ("a", "b", "c"),
        "provenance": "made up",
    }
    return ImageData(**{**fields, **changes})


def test_digits():
    data = load("digits")
    assert data.image_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert (len(data.train_labels), len(data.test_labels)) == (1437, 360)
    assert data.train_images.dtype == torch.float32
    assert (float(data.train_images.min()), float(data.train_images.max())) == (0, 1)
    assert set(data.test_labels.bincount().tolist()) <= {35, 36, 37}  # stratified
    assert "360 test images" in data.provenance
    assert data.fingerprint() == load("digits").fingerprint()


@pytest.mark.parametrize("where", ["", "FashionMNIST/raw", "raw"])
@pytest.mark.parametrize("compress", [False, True])
def test_fashion_mnist_from_files(tmp_path, where, compress):
    write_fashion(tmp_path / where, compress=compress)
    data = load("fashion-mnist", tmp_path)
    assert data.train_images.shape == (30, 1, 28, 28)
    assert data.train_images.dtype == torch.uint8
    assert data.test_labels.tolist() == [i % 10 for i in range(20)]
    assert data.class_names[9] == "Ankle boot"
    assert str(tmp_path) in data.provenance


@pytest.mark.parametrize("where", ["", "cifar-10-batches-bin"])
def test_cifar10_from_files(tmp_path, where):
    write_cifar(tmp_path / where)
    data = load("cifar10", tmp_path)
    assert data.train_images.shape == (20, 3, 32, 32)
    assert data.test_labels.tolist() == [0, 1, 9, 5]
    assert data.class_names[9] == "truck"


def test_images_and_labels_of_different_splits(tmp_path):
    write_fashion(tmp_path)
    labels = (tmp_path / "t10k-labels-idx1-ubyte").read_bytes()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match=r"train-labels.*expected 30 labels.*found 20.*same split"):
        load("fashion-mnist", tmp_path)


def test_label_out_of_range_names_the_file(tmp_path):
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3\.bin: expected labels 0\.\.9, found 10"):
        load("cifar10", tmp_path)


def test_images_of_another_size(tmp_path):
    write_fashion(tmp_path)
    wrong = idx_bytes(np.zeros((30, 32, 32), np.uint8))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(wrong)
    with pytest.raises(DataError, match=r"expected images of \(28, 28\), found \(32, 32\)"):
        load("fashion-mnist", tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte .*expected in .*found in none"):
        load("fashion-mnist", tmp_path)
    with pytest.raises(DataError, match=r"CIFAR-10: expected data_batch_1\.bin .*found in none"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    with pytest.raises(DataError, match=r"Unpack cifar-10-binary\.tar\.gz first"):
        load("cifar10", tmp_path)
    write_cifar(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4\.bin: expected beside the other batches"):
        load("cifar10", tmp_path)
    with pytest.raises(DataError, match=r"nowhere: expected a folder with the cifar10 files"):
        load("cifar10", tmp_path / "nowhere")


def test_arguments_that_make_no_sense(tmp_path):
    with pytest.raises(DataError, match="Unknown data set 'mnist'; expected one of digits"):
        load("mnist")
    with pytest.raises(DataError, match="a data folder has no effect"):
        load("digits", tmp_path)
    assert DATA_NAMES == ("digits", "fashion-mnist", "cifar10")


class OpenMLAnswer:
    """The shape of OpenML's answer; one image is repeated without taking memory for each."""

    def __init__(self, shape=(70_000, 784), classes=10, top=255.0):
        row = np.linspace(0, top, shape[1])
        self.data = np.broadcast_to(row, shape)
        self.target = np.array([str(i % classes) for i in range(shape[0])], dtype=object)

    def __call__(self, name, **options):
        self.asked = (name, options["version"], options["as_frame"])
        return SimpleNamespace(data=self.data, target=self.target)


def test_fashion_mnist_from_openml():
    answer = OpenMLAnswer()
    found = openml("fashion-mnist", answer)
    assert answer.asked == ("Fashion-MNIST", 1, False)
    assert found.train_images.shape == (60_000, 1, 28, 28)
    assert found.train_images.dtype == np.uint8
    assert len(found.test_labels) == 10_000
    assert found.test_labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (OpenMLAnswer((60_000, 784)), r"expected data of shape \(70000, 784\), found \(60000"),
        (OpenMLAnswer(top=256), r"expected values in 0\.\.255"),
        (OpenMLAnswer(classes=11), r"expected labels 0\.\.9, found 10"),
    ],
)
def test_wrong_answer_from_openml(answer, match):
    with pytest.raises(DataError, match=match):
        load("fashion-mnist", fetch_openml=answer)


@pytest.mark.parametrize("error", [URLError("no route"), TimeoutError("slow"), ValueError("gone")])
def test_no_network_is_one_line(error):
    def fetch(*args, **options):
        raise error

    with pytest.raises(DataError, match=r"could not be had from OpenML.*--data-dir") as raised:
        load("cifar10", fetch_openml=fetch)
    assert "\n" not in str(raised.value)


def test_subset_is_deterministic_and_keeps_the_order():
    data = load("digits")
    small = data.subset(100, 30, seed=5)
    again = data.subset(100, 30, seed=5)
    assert small.fingerprint() == again.fingerprint()
    assert small.fingerprint() != data.subset(100, 30, seed=6).fingerprint()
    assert (len(small.train_labels), len(small.test_labels)) == (100, 30)
    assert "random subset of 100 training and 30 test images, seed 5" in small.provenance
    rows = {tuple(image.flatten().tolist()) for image in data.train_images}
    assert all(tuple(image.flatten().tolist()) in rows for image in small.train_images)
    assert data.subset() is data


@pytest.mark.parametrize("count", [0, -1, 9])
def test_subset_of_impossible_size(count):
    with pytest.raises(DataError, match=f"train split: expected 1 to 8 images.*found {count}"):
        tiny().subset(count)


def test_subset_of_one_class():
    with pytest.raises(DataError, match="at least two classes, found one"):
        tiny().subset(1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"train_images": torch.rand(8, 4, 4)}, r"expected images \(N, C, H, W\)"),
        ({"train_images": torch.zeros(8, 2, 4, 4, dtype=torch.int64)}, "of torch.int64"),
        ({"train_images": 2 * torch.ones(8, 2, 4, 4)}, r"floats in \[0, 1\], found 2 to 2"),
        ({"train_images": torch.full((8, 2, 4, 4), torch.nan)}, r"floats in \[0, 1\], found nan"),
        ({"test_images": torch.rand(4, 1, 4, 4)}, "expected images of one shape"),
        ({"test_images": torch.rand(0, 2, 4, 4)}, "test split: expected at least one image"),
        ({"train_labels": torch.zeros(8)}, r"labels \(N,\) of int64.*torch.float32"),
        ({"train_labels": torch.zeros(7, dtype=torch.int64)}, "expected 8 labels"),
        ({"test_labels": torch.tensor([0, 1, 2, 3])}, r"expected labels 0\.\.2, found 3"),
        ({"train_labels": torch.zeros(8, dtype=torch.int64)}, "at least two classes"),
    ],
)
def test_inconsistent_data_is_refused(changes, match):
    with pytest.raises(DataError, match=match):
        tiny(**changes)


def test_channel_stats_are_those_of_the_unit_images(tmp_path):
    write_cifar(tmp_path)
    data = load("cifar10", tmp_path)
    unit = data.train_images.to(torch.float64) / 255
    mean, std = data.channel_stats()
    torch.testing.assert_close(mean, unit.mean((0, 2, 3)))
    torch.testing.assert_close(std, unit.std((0, 2, 3), correction=0))


def test_unit_images():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert unit_images(images).tolist() == pytest.approx([0, 0.2, 1])
    assert unit_images(images, torch.float64).dtype == torch.float64
    assert unit_images(torch.tensor([0.5])).tolist() == [0.5]


def test_fingerprint_notices_a_swapped_label():
    labels = tiny().test_labels.flip(0)
    assert tiny().fingerprint() != tiny(test_labels=labels).fingerprint()


def test_source_finds_the_same_images_again(tmp_path, monkeypatch):
    write_fashion(tmp_path / "files")
    monkeypatch.chdir(tmp_path)
    data = load("fashion-mnist", "files")
    assert data.source.data_dir == str(tmp_path / "files")
    assert load_source(data.source).fingerprint() == data.fingerprint()
    assert data.subset(12).source is None  # drawn by hand; a source can name a subset of its own
    source = DataSource(name="fashion-mnist", data_dir="files", train_images=12, test_images=5)
    small = load_source(source)
    assert small.source == source
    assert (len(small.train_labels), len(small.test_labels)) == (12, 5)
