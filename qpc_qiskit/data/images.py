"""The data sets: scikit-learn's bundled digits, Fashion-MNIST and CIFAR-10.

Images are held as they were stored, `uint8` in 0..255, or as floats in [0, 1] where the source is
not bytes (digits); `unit_images` gives floats in [0, 1] from either. Nothing else is done to them
here: normalisation is part of the network, so that a checkpoint carries it.

Reading from files is what is tested with real data. The download through OpenML is tested against
an answer of the recorded shape only; it was not verified online in this project's CI.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpc_qiskit.data.files import check_labels
from qpc_qiskit.data.sources import CLASS_NAMES, cifar10, digits, fashion_mnist, openml
from qpc_qiskit.errors import DataError
from qpc_qiskit.options.records import DataSource

DATA_NAMES = tuple(CLASS_NAMES)


@dataclass(frozen=True)
class ImageData:
    """A data set in memory, checked: shapes agree, labels name a class, no split is empty."""

    name: str
    """One of `DATA_NAMES`, or any name for data of one's own."""
    train_images: Tensor
    """uint8 in 0..255 or floating point in [0, 1], shape (N, C, H, W)."""
    train_labels: Tensor
    """int64 class indices, shape (N,)."""
    test_images: Tensor
    """As `train_images`, with the same C, H and W."""
    test_labels: Tensor
    """As `train_labels`."""
    class_names: tuple[str, ...]
    """Name of each class, in the order of the labels."""
    provenance: str
    """Where the data came from and how it was split, in words."""
    source: DataSource | None = None
    """How `load_source` finds the same images again; None for data of one's own."""

    def __post_init__(self) -> None:
        for split, images, labels in self._splits():
            _check_split(f"{self.name}, {split} split", images, labels, len(self.class_names))
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"{self.name}: expected images of one shape, found training images "
                f"{tuple(self.train_images.shape[1:])} and test images "
                f"{tuple(self.test_images.shape[1:])}."
            )
        if len(self.train_labels.unique()) < 2:
            raise DataError(
                f"{self.name}, train split: expected images of at least two classes, found one. "
                "Take a larger subset."
            )

    def _splits(self) -> tuple[tuple[str, Tensor, Tensor], tuple[str, Tensor, Tensor]]:
        return (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def channel_stats(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training images in [0, 1].

        Returns:
            Two float64 tensors of shape (C,). A channel that never varies has deviation 0.
        """
        total = torch.zeros(self.image_shape[0], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in self.train_images.split(4096):
            unit = unit_images(chunk, torch.float64)
            total += unit.sum((0, 2, 3))
            squares += unit.square().sum((0, 2, 3))
        count = self.train_images[:, 0].numel()
        mean = total / count
        return mean, (squares / count - mean.square()).clamp_min(0).sqrt()

    def fingerprint(self) -> str:
        """SHA-256 over every image and label, in order: equal only for the same data."""
        digest = hashlib.sha256()
        for _, images, labels in self._splits():
            for tensor in (images, labels):
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()

    def subset(
        self, num_train: int | None = None, num_test: int | None = None, seed: int = 0
    ) -> "ImageData":
        """Draw fewer images, the same ones for the same numbers and seed.

        Args:
            num_train: training images to keep, in their order; None keeps all.
            num_test: test images to keep.
            seed: chooses which.

        Returns:
            The smaller data set; its provenance says that it is one.

        Raises:
            DataError: more images are asked for than there are, or fewer than one.
        """
        keep_train = _draw(f"{self.name}, train split", len(self.train_labels), num_train, seed)
        keep_test = _draw(f"{self.name}, test split", len(self.test_labels), num_test, seed + 1)
        if len(keep_train) == len(self.train_labels) and len(keep_test) == len(self.test_labels):
            return self
        return replace(
            self,
            train_images=self.train_images[keep_train],
            train_labels=self.train_labels[keep_train],
            test_images=self.test_images[keep_test],
            test_labels=self.test_labels[keep_test],
            source=None,
            provenance=f"{self.provenance}; random subset of {len(keep_train)} training and "
            f"{len(keep_test)} test images, seed {seed}",
        )


def load(
    name: str,
    data_dir: Path | str | None = None,
    *,
    fetch_openml: Callable[..., Any] | None = None,
) -> ImageData:
    """Load a data set by name.

    Args:
        name: one of `DATA_NAMES`.
        data_dir: folder with the standard files: `train-images-idx3-ubyte` and its three sisters,
            gzipped or not, there or in `FashionMNIST/raw` or `raw`; for CIFAR-10 the binary or the
            Python batches, there or in `cifar-10-batches-bin` or `cifar-10-batches-py`. None
            downloads from OpenML (Fashion-MNIST, CIFAR-10); digits need no files.
        fetch_openml: stands in for `sklearn.datasets.fetch_openml`.

    Returns:
        The data set, in memory.

    Raises:
        DataError: the name is unknown, a file is missing or corrupt, or the download failed.

    Example:
        >>> load("digits").image_shape
        (1, 8, 8)
    """
    if name not in DATA_NAMES:
        raise DataError(f"Unknown data set {name!r}; expected one of {', '.join(DATA_NAMES)}.")
    if name == "digits":
        if data_dir is not None:
            raise DataError("The digits come with scikit-learn: a data folder has no effect.")
        found = digits()
    elif data_dir is None:
        found = openml(name, fetch_openml)
    else:
        folder = Path(data_dir)
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder with the {name} files, found none.")
        found = fashion_mnist(folder) if name == "fashion-mnist" else cifar10(folder)
    # Arrays read from a file are read-only, which torch dislikes: the tensors own their memory.
    return ImageData(
        name,
        torch.from_numpy(found.train_images.copy()),
        torch.from_numpy(found.train_labels.astype(np.int64)),
        torch.from_numpy(found.test_images.copy()),
        torch.from_numpy(found.test_labels.astype(np.int64)),
        CLASS_NAMES[name],
        found.provenance,
        DataSource.model_validate({"name": name, "data_dir": _absolute(data_dir)}),
    )


def load_source(source: DataSource) -> ImageData:
    """Load the images that a `DataSource` names, subset included.

    Raises:
        DataError: see `load` and `ImageData.subset`.
    """
    data = load(source.name, source.data_dir)
    return replace(data.subset(source.train_images, source.test_images), source=source)


def unit_images(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images as floats in [0, 1].

    Args:
        images: uint8 in 0..255, or floating point, which is only converted.
        dtype: floating-point type of the result.

    Returns:
        Shape of `images`.
    """
    if images.dtype == torch.uint8:
        return images.to(dtype) / 255
    return images.to(dtype)


def _absolute(data_dir: Path | str | None) -> str | None:
    return None if data_dir is None else str(Path(data_dir).resolve())


def _check_split(where: str, images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise DataError(
            f"{where}: expected images (N, C, H, W) of uint8 or floats, found "
            f"{tuple(images.shape)} of {images.dtype}."
        )
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise DataError(
            f"{where}: expected labels (N,) of int64, found {tuple(labels.shape)} of "
            f"{labels.dtype}."
        )
    if images.numel() == 0:
        raise DataError(f"{where}: expected at least one image, found {tuple(images.shape)}.")
    check_labels(where, labels.numpy(), len(images), num_classes)
    if images.is_floating_point() and not (images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"{where}: expected floats in [0, 1], found {float(images.min()):g} to "
            f"{float(images.max()):g}. Divide bytes by 255, or pass them as uint8."
        )


def _draw(where: str, available: int, wanted: int | None, seed: int) -> Tensor:
    if wanted is None:
        wanted = available
    if not 1 <= wanted <= available:
        raise DataError(f"{where}: expected 1 to {available} images to keep, found {wanted}.")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(available, generator=generator)[:wanted].sort().values
