"""Workers for ranges of pixels."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import current_thread

import processes
import pytest
import torch
from cases import Case

from qpc_qiskit.common import threads
from qpc_qiskit.common.threads import run_in_workers, split_ranges

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 1), (19, 1), (20, 2), (21, 2), (1001, 2)])
def test_ranges_cover_everything_in_order(size, count):
    ranges = split_ranges(size, 10, CPU)
    assert len(ranges) == count
    covered = [i for items in ranges for i in range(items.start, items.stop)]
    assert covered == list(range(size))


def test_other_devices_are_not_split():
    elsewhere = torch.device("cuda")
    assert split_ranges(1000, 10, elsewhere) == [slice(0, 1000)]
    name = current_thread().name
    assert run_in_workers(lambda _: current_thread().name, [1, 2], elsewhere) == [name, name]


def test_results_are_in_order():
    assert run_in_workers(lambda i: i * i, range(7), CPU) == [i * i for i in range(7)]


def modes(_):
    torch.ones(100_000).sum()  # a first parallel call is where torch looks up its thread count
    return torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def test_workers_see_the_callers_modes():
    with torch.inference_mode():
        assert {m[1:] for m in run_in_workers(modes, range(4), CPU)} == {(False, True)}
    with torch.no_grad():
        assert {m[1:] for m in run_in_workers(modes, range(4), CPU)} == {(False, False)}
    assert {m[1:] for m in run_in_workers(modes, range(4), CPU)} == {(True, False)}


def test_workers_use_one_thread_each_and_the_caller_keeps_its_own():
    assert {m[0] for m in run_in_workers(modes, range(8), CPU)} == {1}
    assert torch.get_num_threads() == 2
    names = set(run_in_workers(lambda _: current_thread().name, range(8), CPU))
    assert current_thread().name not in names


def test_first_calls_at_once_share_one_pool(monkeypatch):
    monkeypatch.setattr(threads, "_pools", {})
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run_in_workers(modes, range(2), CPU), range(8)))
    assert {m[0] for result in results for m in result} == {1}
    assert list(threads._pools) == [2]
    assert torch.get_num_threads() == 2


def test_without_threads_to_be_had_the_caller_works(monkeypatch):
    """A limit on processes, or an interpreter that shuts down."""

    class Refusing(ThreadPoolExecutor):
        def submit(self, *args):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pools", {})
    monkeypatch.setattr(threads, "ThreadPoolExecutor", Refusing)
    assert run_in_workers(lambda i: i + 1, range(3), CPU) == [1, 2, 3]
    assert torch.get_num_threads() == 2


def test_an_error_in_a_worker_reaches_the_caller():
    def fail(i):
        if i:
            raise MemoryError("too many pixels")

    with pytest.raises(MemoryError, match="too many pixels"):
        run_in_workers(fail, [0, 1], CPU)
    assert run_in_workers(lambda i: i, [0, 1], CPU) == [0, 1]


def test_layers_in_many_threads_at_once(generator):
    layer = Case(5, 7, 3).layer(generator)
    images = torch.randn(4, 5, 30, 30, generator=generator, dtype=torch.float64)
    expected = layer(images).detach()

    def job(i):
        found = images.clone().requires_grad_()
        maps = layer(found)
        maps.sum().backward()
        return maps.detach(), found.grad

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(job, range(12)))
    for maps, grad in results:
        # Not to the bit: a thread may have fewer workers than another, and so other parts.
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(grad, results[0][1], rtol=0, atol=1e-12)


FORK = """
import os, sys, torch
from qpc_qiskit import QuantumPointwiseConv2d
torch.set_num_threads(2)
layer = QuantumPointwiseConv2d(4, 4)
images = torch.rand(1, 4, 40, 40)
expected = layer(images)
child = os.fork()
if child == 0:
    same = torch.allclose(layer(images), expected, atol=1e-5)
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_makes_its_own_workers():
    """As a DataLoader's worker does; without care it would wait for its parent's threads."""
    processes.run([sys.executable, "-c", FORK], check=True)
