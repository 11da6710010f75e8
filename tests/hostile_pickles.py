"""Pickles made to harm whoever reads them as a batch of CIFAR-10; run, it reads all of them.

Not one of them was made by `pickle`, which writes none like these: they are operations by hand.

    python tests/hostile_pickles.py FOLDER

writes a line for each, `NAME: what the reader said`, and the most memory that it took, in MB; then
FOLDER is as it was found.
"""

import re
import resource
import struct
import sys
from pathlib import Path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def data(content):
    """Bytes of protocol 3."""
    return b"B" + struct.pack("<I", len(content)) + content


def number(value):
    return b"J" + struct.pack("<i", value)


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


U1 = name("numpy", "dtype") + text("u1") + b"K\0K\1\x87R"
OBJECTS = name("numpy", "dtype") + text("O") + b"K\0K\1\x87R"
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
EMPTY = RECONSTRUCT + name("numpy", "ndarray") + b"K\0\x85" + data(b"b") + b"\x87R"


def array(shape, dtype=U1, content=b"\0" * 3072, is_fortran=b"\x89"):
    """An array as numpy writes it, of what it would never write."""
    return EMPTY + b"(K\1" + shape + dtype + is_fortran + data(content) + b"tb"


ONE_IMAGE = array(number(1) + number(3072) + b"\x86")


def batch(images=ONE_IMAGE, labels=b"](K\3e"):
    """What a batch looks like."""
    return b"\x80\3}(" + text("data") + images + text("labels") + labels + b"u."


MARKER = "code-was-run"
RUN = text(f"echo > {MARKER}") + b"\x85R"
"""A call that leaves a file behind."""

GOOD = batch()

HOSTILE = {
    # An array of objects over bytes of the file, and an assignment into it.
    "objects over bytes": name("numpy", "ndarray")
    + b"(K\1\x85"
    + text("O")
    + b"\x96"
    + struct.pack("<Q", 8)
    + b"AAAAAAAAtRK\0K\1s.",
    "objects in an array": batch(array(number(1) + b"\x85", OBJECTS, b"AAAAAAAA")),
    "an array made by its class": batch(name("numpy", "ndarray") + number(2**31 - 1) + b"\x85R"),
    "an array that says it is larger": batch(array(number(2**31 - 1) + number(3072) + b"\x86")),
    "sizes whose product is 2**64": batch(
        array(b"\x8a\x08" + struct.pack("<q", 2**54 // 3) + number(3072) + b"\x86")
    ),
    "a negative size": batch(array(number(-1) + number(3072) + b"\x86")),
    "a size that is no number": batch(array(text("1") + number(3072) + b"\x86")),
    "columns first, and too short": batch(
        array(number(2) + number(3072) + b"\x86", is_fortran=b"\x88")
    ),
    "a type with fields": batch(
        array(
            number(1) + number(3072) + b"\x86",
            U1 + b"(K\3" + text("|") + b"N(" + text("a") + b"t}K\xffK\xffK\0tb",
        )
    ),
    "a state for a type of objects": batch(
        array(
            number(384) + b"\x85",
            U1 + b"(K\3" + text("|") + OBJECTS + b"NNK\xffK\xffK\0tb",
        )
    ),
    "os.system": batch(name("os", "system") + RUN),
    "os.system, by a name on the stack": b"\x80\4"
    + text("os")
    + text("system")
    + b"\x93"
    + RUN
    + b".",
    "os.system, as old classes are made": b"(" + text(f"echo > {MARKER}") + b"ios\nsystem\n.",
    "os.system, as objects were made": b"("
    + name("os", "system")
    + text(f"echo > {MARKER}")
    + b"o.",
    "eval": batch(name("builtins", "eval") + text(f"open({MARKER!r}, 'w')") + b"\x85R"),
    "an attribute of numpy": batch(name("numpy", "core.multiarray.fromfile") + RUN),
    "a codec that runs code": batch(
        name("_codecs", "encode") + text("1") + text("zlib") + b"\x86R" + RUN
    ),
    "a new object": batch(name("numpy", "dtype") + text("O") + b"\x85\x81"),
    "a new object with keywords": batch(name("numpy", "dtype") + b")}\x92"),
    "an extension's code": b"\x80\2\x82\1.",
    "an object kept elsewhere": batch(text("1") + b"Q"),
    "a buffer out of band": b"\x80\5}(" + text("data") + b"\x97\x98u.",
    "attributes of a function": batch(RECONSTRUCT + b"}" + text("__class__") + b"K\1sb"),
    "a state twice": batch(EMPTY + b"(tb}b"),
    "a tuple 200,000 times in itself, as a key": b"\x80\2})" + b"\x85" * 200_000 + b"K\1s.",
    "a list 100,000 times in itself": batch(b"]" * 100_000 + b"a" * 99_999),
    "a dictionary in itself, as images": batch(b"}q\0" + text("data") + b"h\0s"),
    "a memo of 2**28 entries": b"\x80\2Nr\0\0\0\x10.",
    "bytes of 2**62": b"\x80\4\x8e" + struct.pack("<Q", 2**62) + b"AAAA.",
    "a bytearray of 2**40": b"\x80\5\x96" + struct.pack("<Q", 2**40) + b"AAAA.",
    "a frame of 2**62": b"\x80\4\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a whole number of 2**31 bytes": b"\x80\2\x8b" + struct.pack("<i", 2**31 - 1) + b"\1.",
    "a whole number of 5,000 digits": b"L" + b"1" * 5000 + b"L\n.",
    "a text encoded again and again": b"\x80\2"
    + text("x" * 60_000)
    + b"q\0"
    + (name("_codecs", "encode") + b"h\0" + text("latin1") + b"\x86R") * 20_000
    + b".",
    "too many operations": b"\x80\2" + b"N" * 300_000 + b".",
    "an empty stack": b"\x80\2R.",
    "no mark": b"\x80\2t.",
    "labels that are huge": batch(labels=b"](\x8a\xff" + b"\x7f" * 255 + b"e"),
    "labels that are an array": batch(labels=array(number(3072) + b"\x85")),
}


def main(folder):
    from qpc_qiskit.common import pickles
    from qpc_qiskit.data.files import read_cifar_python
    from qpc_qiskit.errors import DataError

    pickles.MAX_OPERATIONS = 250_000  # for speed
    path = Path(folder) / "data_batch_1"
    for what, content in {"a good one": GOOD, **HOSTILE}.items():
        path.write_bytes(content)
        try:
            images, labels = read_cifar_python(path)
            said = f"{images.shape}, {labels.tolist()}"
        except DataError as error:
            said = f"DataError: {error}"
        sys.stdout.write(f"{what}: {said}\n")
        sys.stdout.flush()  # one that kills the process is the one after the last line
    path.unlink()
    sys.stdout.write(f"memory: {_most_memory()}\n")


def _most_memory():
    """In MB. On Linux `getrusage` begins with what the process had that this was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) // 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


if __name__ == "__main__":
    main(sys.argv[1])
