import pytest

from qpc_qiskit.files import write_bytes, write_text, written_aside


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
