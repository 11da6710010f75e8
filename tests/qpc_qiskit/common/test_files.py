import errno
import os

import pytest

from qpc_qiskit.common.files import (
    MAX_DEPTH,
    MAX_POINTS,
    MAX_TOML_BYTES,
    parse_json,
    parse_toml,
    read_file,
    write_bytes,
    write_text,
    written_aside,
)
from qpc_qiskit.errors import DataError


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


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "Expecting value"),
        (b"\xff\xff", "codec can't decode"),
        ("1" * 5000, "a whole number of 5,000 digits"),
        ("-" + "1" * 21, "a whole number of 22 digits"),
        ('{"a": 1e999}', "the number inf"),
        ("[NaN]", "the number nan"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice in a table"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "more than 100 levels of lists and tables"),
        ("[" * 10**5, "more than 100 levels of lists and tables"),
        ('{"a":' * 10**5, "more than 100 levels of lists and tables"),
    ],
)
def test_json_that_is_refused(text, match):
    with pytest.raises(DataError, match=rf"^a\.json: expected JSON, found something.*{match}"):
        parse_json(text, "a.json", DataError)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a", "Expected '=' after a key"),
        (b"a = '\xff'", "codec can't decode"),
        ("a = " + "1" * 5000, "a whole number of thousands of digits"),
        ("a = 0x" + "f" * 5000, "a whole number of more than 20 digits"),
        ("a = " + "[" * 10**4, "more than 100 levels of lists and tables"),
        ("a = " + "{a = " * 10**4, "more than 100 levels of lists and tables"),
        (".".join("a" * 200) + " = 1", "more than 100 levels of lists and tables"),
        (".".join("a" * (MAX_POINTS + 2)) + " = 1", "a line with more than 250 points"),
        ("#" * (MAX_TOML_BYTES + 1), "more than 524,288 bytes"),
    ],
)
def test_toml_that_is_refused(text, match):
    with pytest.raises(DataError, match=rf"^a\.toml: expected TOML, found something.*{match}"):
        parse_toml(text, "a.toml", DataError)


def test_what_is_read():
    values = {"a": [-(2**63), 2**64 - 1, 1.5, True], "é": {"b": "x"}}
    text = '{"a": [-9223372036854775808, 18446744073709551615, 1.5, true], "é": {"b": "x"}}'
    assert parse_json(text.encode(), "here", DataError) == values
    assert parse_json("\ufeff[1]".encode(), "here", DataError) == [1]
    assert parse_json("[NaN, Infinity]", "here", DataError, finite=False)[1] == float("inf")
    toml = "a = [-9223372036854775808, 18446744073709551615, 1.5, true]\n[\"é\"]\nb = 'x'\n"
    assert parse_toml(toml.encode(), "here", DataError) == values


def test_a_file_that_is_too_long(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    assert read_file(path, DataError, 10) == bytes(10)
    with pytest.raises(DataError, match="file: expected a file of at most 9 bytes, found a lo"):
        read_file(path, DataError, 9)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", DataError)
