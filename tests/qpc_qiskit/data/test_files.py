import gzip
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import hostile_pickles
import numpy as np
import pytest

import qpc_qiskit
from qpc_qiskit.data import files as image_files
from qpc_qiskit.data.files import check_labels, read_cifar_bin, read_cifar_python, read_idx
from qpc_qiskit.errors import DataError


def idx_bytes(array):
    magic = bytes([0, 0, 8, array.ndim])
    return magic + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def some_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(3, 2, 5), (4,), (0, 28, 28)])
def test_idx_comes_back(tmp_path, suffix, shape):
    array = some_bytes(*shape)
    path = tmp_path / f"file{suffix}"
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if suffix else content)
    np.testing.assert_array_equal(read_idx(path, len(shape)), array)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda b: b[:-1], r"expected 30 bytes of data for shape \(3, 2, 5\), found 29.*truncated"),
        (lambda b: b + b"x", r"expected 30 .* found 31.*longer than it says"),
        (lambda b: b[:7], "expected an IDX header of 16 bytes, found 7"),
        (lambda b: b"", "found 0 bytes"),
        (lambda b: b"\0\0\x0d" + b[3:], "magic number 0x00000803.*found 0x00000d03"),
        (lambda b: b[:3] + b"\x01" + b[4:], "found 0x00000801"),
        (
            lambda b: b[:4] + b"\xff" * 12 + b[16:],
            "a header that states 79228162458924105385300197375 bytes",
        ),
    ],
)
def test_idx_damage_is_named(tmp_path, damage, match):
    path = tmp_path / "images"
    path.write_bytes(damage(idx_bytes(some_bytes(3, 2, 5))))
    with pytest.raises(DataError, match=match) as raised:
        read_idx(path, 3)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:300] + b"\0\0\0\0" + b[304:], lambda b: b"no gzip"]
)
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(idx_bytes(some_bytes(30, 20, 5)))))
    with pytest.raises(DataError, match=r"images\.gz: expected a complete gzip file"):
        read_idx(path, 3)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"none: cannot be read \(No such file"):
        read_idx(tmp_path / "none", 3)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory"):
        read_idx(tmp_path, 3)


def test_cifar_bin_comes_back(tmp_path):
    images, labels = some_bytes(5, 3, 32, 32), some_bytes(5)
    path = tmp_path / "batch.bin"
    path.write_bytes(np.hstack([labels[:, None], images.reshape(5, -1)]).tobytes())
    found_images, found_labels = read_cifar_bin(path)
    np.testing.assert_array_equal(found_images, images)
    np.testing.assert_array_equal(found_labels, labels)


@pytest.mark.parametrize("size", [0, 3072, 3074, 2 * 3073 - 1])
def test_cifar_bin_of_wrong_size(tmp_path, size):
    path = tmp_path / "batch.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"3073-byte records .* found {size} bytes"):
        read_cifar_bin(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("key", [str, str.encode])
def test_cifar_python_comes_back(tmp_path, protocol, key):
    images, labels = some_bytes(5, 3072), [3, 0, 9, 1, 2]
    path = tmp_path / "data_batch_1"
    batch = {key("data"): images, key("labels"): labels, key("batch_label"): b"one"}
    path.write_bytes(pickle.dumps(batch, protocol))
    found_images, found_labels = read_cifar_python(path)
    np.testing.assert_array_equal(found_images, images.reshape(5, 3, 32, 32))
    assert found_labels.tolist() == labels


def test_cifar_python_with_numpys_old_module_name(tmp_path):
    """The original files were written by Python 2 and a numpy with `numpy.core`."""
    batch = {b"data": some_bytes(2, 3072), b"labels": [0, 1]}
    content = pickle.dumps(batch, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert any(op.name == "GLOBAL" for op, _, _ in pickletools.genops(content))
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_cifar_python(path)[0].reshape(2, -1), batch[b"data"])


def test_hostile_pickles(tmp_path):
    """In a process of their own, where the end of it by a signal is seen."""
    done = subprocess.run(
        [sys.executable, hostile_pickles.__file__, str(tmp_path)],
        cwd=tmp_path,  # where a command of theirs would leave a file
        env={**os.environ, "PYTHONPATH": str(Path(qpc_qiskit.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    good, *lines, memory = done.stdout.splitlines()
    assert good == "a good one: (1, 3, 32, 32), [3]"
    assert list(tmp_path.iterdir()) == []
    refused = [line.partition(": DataError: ")[0] for line in lines if ": DataError: " in line]
    assert refused == list(hostile_pickles.HOSTILE)
    assert len(refused) >= 20
    assert int(memory.removeprefix("memory: ")) < 500


def test_batch_of_python_2(tmp_path):
    """The operations of the original files, and of numpy's arrays by columns."""
    python2 = pickle_of_python_2(some_bytes(2, 3072).tobytes(), 2, [7, 1])
    path = tmp_path / "data_batch_1"
    path.write_bytes(python2)
    images, labels = read_cifar_python(path)
    np.testing.assert_array_equal(images.reshape(2, -1), some_bytes(2, 3072))
    assert labels.tolist() == [7, 1]
    by_columns = {"data": np.asfortranarray(some_bytes(2, 3072)), "labels": [7, 1]}
    path.write_bytes(pickle.dumps(by_columns, 2))
    np.testing.assert_array_equal(read_cifar_python(path)[0], images)


def pickle_of_python_2(content, count, labels):
    """By hand, as Python 2 and its numpy wrote `data_batch_1`: text of bytes, memo, old names."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    return (
        b"\x80\x02}q\x01("
        + short(b"batch_label")
        + b"q\x02"
        + short(b"training batch 1 of 5")
        + b"q\x03"
        + short(b"labels")
        + b"q\x04]q\x05("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"e"
        + short(b"data")
        + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85"
        + short(b"b")
        + b"\x87Rq\x09(K\x01K"
        + bytes([count])
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0a"
        + short(b"u1")
        + b"K\x00K\x01\x87Rq\x0b(K\x03"
        + short(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(content).to_bytes(4, "little")
        + content
        + b"tb"
        + short(b"filenames")
        + b"q\x0c]q\x0d("
        + b"".join(short(b"camion_s_00%d.png" % i) for i in range(count))
        + b"eu."
    )


def test_what_a_gzip_file_unpacks_to_is_bounded(tmp_path, monkeypatch):
    """By what its header states, and that by what is ever read."""
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx_bytes(some_bytes(2, 3)) + bytes(10**7)))
    taken = []
    monkeypatch.setattr(image_files, "read_at_most", lambda f, n: taken.append(n) or f.read(n))
    with pytest.raises(DataError, match=r"expected 6 bytes .* found 7.*longer than it says"):
        read_idx(path, 2)
    assert taken == [12, 7]
    monkeypatch.undo()
    path.write_bytes(gzip.compress(b"\0\0\x08\x02\0\1\0\0\0\0\xff\xff" + bytes(1000)))
    with pytest.raises(DataError, match="at most 1073741824 bytes of data, found a header that"):
        read_idx(path, 2)


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ({"data": some_bytes(2, 3072)}, "the entry 'labels', found a dictionary"),
        ([1, 2], "the entry 'data', found a list"),
        ({"data": [1], "labels": [1]}, "'data' to be a matrix of uint8, found a list"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "found an array of 'f8'"),
        ({"data": some_bytes(2, 3071), "labels": [0, 1]}, "3072 values per image, found 3071"),
        ({"data": some_bytes(2, 3072), "labels": [0]}, "expected 2 labels, .* found 1"),
        ({"data": some_bytes(2, 3072), "labels": [0, "x"]}, "list of small whole numbers"),
        ({"data": some_bytes(2, 3072), "labels": [0, 256]}, "list of small whole numbers"),
        ({"data": some_bytes(2, 3072), "labels": 7}, "list of small whole numbers"),
    ],
)
def test_cifar_python_of_wrong_content(tmp_path, batch, match):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=match):
        read_cifar_python(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04."])
def test_cifar_python_that_is_no_pickle(tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpickled"):
        read_cifar_python(path)


def test_labels_are_checked():
    check_labels("here", np.array([0, 2]), 2, 3)
    with pytest.raises(DataError, match=r"here: expected labels 0\.\.2, found 3 at index 1"):
        check_labels("here", np.array([0, 3]), 2, 3)
    with pytest.raises(DataError, match=r"here: expected labels 0\.\.2, found -1 at index 0"):
        check_labels("here", np.array([-1, 3]), 2, 3)
    with pytest.raises(DataError, match="here: expected 3 labels, one per image, found 2"):
        check_labels("here", np.array([0, 1]), 3, 3)
