import errno
import os

import pytest

from qpc_qiskit.common.files import write_bytes, write_text, written_aside


def test_content_is_replaced_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "file.json"
    write_bytes(path, b"old")
    write_text(path, "néw\n")
    assert path.read_bytes() == "néw\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def write_half(path):
    with written_aside(path) as aside:
        assert aside.suffix == ".json"
        assert aside.parent == path.parent
        aside.write_bytes(b"ne")
        raise RuntimeError("half way")


def test_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="half way"):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_folder_is_told_with_the_file_that_was_wanted(tmp_path):
    path = tmp_path / "missing" / "file.json"
    with pytest.raises(FileNotFoundError) as raised:
        write_text(path, "new")
    assert raised.value.filename == str(path)


def full_disk(path, names_its_file):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with written_aside(path) as aside:
        aside.write_bytes(b"ne")
        if names_its_file:  # as copying does: from where, to where
            error.filename, error.filename2 = "/somewhere/else", str(aside)
        raise error


@pytest.mark.parametrize("names_its_file", [False, True])
def test_a_full_disk_is_told_with_the_file_that_was_wanted(tmp_path, names_its_file):
    path = tmp_path / "file.json"
    with pytest.raises(OSError, match="No space left") as raised:
        full_disk(path, names_its_file)
    assert (raised.value.filename, raised.value.filename2) == (str(path), None)
    assert list(tmp_path.iterdir()) == []


def read_another(path, other):
    with written_aside(path):
        other.read_text()


def test_an_error_of_another_file_is_left_alone(tmp_path):
    other = tmp_path / "other"
    with pytest.raises(FileNotFoundError) as raised:
        read_another(tmp_path / "file.json", other)
    assert raised.value.filename == str(other)
