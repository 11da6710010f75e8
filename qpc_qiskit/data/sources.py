"""Where the data sets come from: scikit-learn's bundle, standard files in a folder, or OpenML."""

from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpc_qiskit.common.extras import importing
from qpc_qiskit.data.files import check_labels, read_cifar_bin, read_cifar_python, read_idx
from qpc_qiskit.errors import DataError

DIGITS_TEST_IMAGES = 360
DIGITS_SPLIT_SEED = 0

CLASS_NAMES = {
    "digits": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
}  # fmt: skip

OPENML_TEST_IMAGES = 10_000
# OpenML name, image shape, training images (the first ones; the rest is the test split).
_OPENML = {
    "fashion-mnist": ("Fashion-MNIST", (1, 28, 28), 60_000),
    "cifar10": ("CIFAR_10", (3, 32, 32), 50_000),
}

_CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


@dataclass(frozen=True)
class Arrays:
    """A data set as arrays, labels and counts checked."""

    train_images: NDArray[Any]
    """uint8 in 0..255 or float32 in [0, 1], shape (N, C, H, W)."""
    train_labels: NDArray[Any]
    """Whole numbers, shape (N,)."""
    test_images: NDArray[Any]
    """As `train_images`."""
    test_labels: NDArray[Any]
    """As `train_labels`."""
    provenance: str
    """Where they came from, in words."""


def digits() -> Arrays:
    """Scikit-learn's bundled digits, always split the same way."""
    with importing("train", "The data set digits"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        bunch.target,
        test_size=DIGITS_TEST_IMAGES,
        stratify=bunch.target,
        random_state=DIGITS_SPLIT_SEED,
    )
    provenance = (
        f"scikit-learn's bundled digits, {len(images)} images 8x8 divided by 16; stratified split, "
        f"{DIGITS_TEST_IMAGES} test images, seed {DIGITS_SPLIT_SEED}"
    )
    return Arrays(train_images, train_labels, test_images, test_labels, provenance)


def fashion_mnist(data_dir: Path) -> Arrays:
    """Fashion-MNIST from its four IDX files.

    Raises:
        DataError: a file is missing or corrupt, or images and labels do not belong together.
    """
    train_images, train_labels = _idx_split(data_dir, "train")
    test_images, test_labels = _idx_split(data_dir, "t10k")
    return Arrays(train_images, train_labels, test_images, test_labels, f"IDX files in {data_dir}")


def cifar10(data_dir: Path) -> Arrays:
    """CIFAR-10 from its six binary or Python batches.

    Raises:
        DataError: a file is missing or corrupt.
    """
    folder, suffix = _find_cifar(data_dir)
    read = read_cifar_bin if suffix else read_cifar_python
    batches = []
    for batch in _CIFAR_BATCHES:
        path = folder / f"{batch}{suffix}"
        if not path.is_file():
            raise DataError(f"{path}: expected beside the other batches, not found.")
        images, labels = read(path)
        check_labels(str(path), labels, len(images), len(CLASS_NAMES["cifar10"]))
        batches.append((images, labels))
    return Arrays(
        np.concatenate([images for images, _ in batches[:-1]]),
        np.concatenate([labels for _, labels in batches[:-1]]),
        *batches[-1],
        f"CIFAR-10 {'binary' if suffix else 'Python'} batches in {folder}",
    )


def openml(name: str, fetch_openml: Callable[..., Any] | None = None) -> Arrays:
    """Fashion-MNIST or CIFAR-10 through scikit-learn's OpenML client, which keeps a local copy.

    Args:
        name: `fashion-mnist` or `cifar10`.
        fetch_openml: stands in for `sklearn.datasets.fetch_openml`.

    Raises:
        DataError: the download failed or its answer has another shape or range.
    """
    if fetch_openml is None:
        with importing("train", f"{name} without --data-dir, by download,"):
            from sklearn import datasets

        fetch_openml = datasets.fetch_openml
    openml_name, shape, num_train = _OPENML[name]
    # The reader built on pandas is many times faster, but pandas is not a dependency.
    parser = "pandas" if find_spec("pandas") else "liac-arff"
    try:
        bunch = fetch_openml(openml_name, version=1, as_frame=False, parser=parser, n_retries=1)
        rows = np.asarray(bunch.data)
        labels = np.asarray(bunch.target).astype(np.int64)
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"{openml_name} could not be had from OpenML ({type(error).__name__}: {error}). "
            f"Download the {name} files by hand and give their folder with --data-dir."
        ) from error
    source = f"OpenML {openml_name}, version 1"
    expected = (num_train + OPENML_TEST_IMAGES, int(np.prod(shape)))
    if rows.shape != expected:
        raise DataError(f"{source}: expected data of shape {expected}, found {rows.shape}.")
    if not (rows.min() >= 0 and rows.max() <= 255):
        raise DataError(f"{source}: expected values in 0..255, found others, up to {rows.max()}.")
    check_labels(source, labels, len(rows), len(CLASS_NAMES[name]))
    images = rows.astype(np.uint8).reshape(-1, *shape)
    return Arrays(
        images[:num_train],
        labels[:num_train],
        images[num_train:],
        labels[num_train:],
        f"{source}, the first {num_train} images for training, the rest for testing",
    )


def _idx_split(data_dir: Path, prefix: str) -> tuple[NDArray[Any], NDArray[Any]]:
    image_path = _find_idx(data_dir, f"{prefix}-images-idx3-ubyte")
    label_path = _find_idx(data_dir, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{image_path}: expected images of (28, 28), found {images.shape[1:]}.")
    check_labels(str(label_path), labels, len(images), len(CLASS_NAMES["fashion-mnist"]))
    return images[:, None], labels


def _find_idx(data_dir: Path, name: str) -> Path:
    folders = (data_dir, data_dir / "FashionMNIST" / "raw", data_dir / "raw")
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise DataError(
        f"{name} (or {name}.gz): expected in {', '.join(map(str, folders))}; found in none. "
        "The four files are at https://github.com/zalandoresearch/fashion-mnist."
    )


def _find_cifar(data_dir: Path) -> tuple[Path, str]:
    """Folder and suffix of the batches: the first place that holds any of them."""
    folders = (data_dir, data_dir / "cifar-10-batches-bin", data_dir / "cifar-10-batches-py")
    for folder in folders:
        for suffix in (".bin", ""):
            if any((folder / f"{batch}{suffix}").is_file() for batch in _CIFAR_BATCHES):
                return folder, suffix
    archives = sorted(path.name for path in data_dir.glob("cifar-10-*.tar.gz"))
    hint = f"Unpack {archives[0]} first." if archives else "See https://www.cs.toronto.edu/~kriz."
    raise DataError(
        f"CIFAR-10: expected data_batch_1.bin or data_batch_1, and its sisters, in "
        f"{', '.join(map(str, folders))}; found in none. {hint}"
    )
