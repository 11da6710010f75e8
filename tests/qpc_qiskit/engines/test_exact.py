"""Memory of the exact engine; its values and gradients are in test_engines_agree.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PEAKS = """
import json, sys, torch
from qpc_qiskit import ExactEngine, make_spec
from qpc_qiskit.engines import LayerCall

def status(key):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))

def extra(function):
    # The most that was resident at any time during the call, beyond what was before it.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    result = function()
    return status("VmHWM") - before

torch.set_num_threads(2)
spec, engine = make_spec(64, 12), ExactEngine()
weights = torch.rand(spec.num_kernels, spec.num_weights)
peaks = {}
for count in (4096, 16384, 81920):  # the first is a rehearsal: buffers, threads, caches
    pixels = torch.rand(count, 64)
    grad = torch.rand(count, spec.num_kernels, spec.num_maps)
    call = LayerCall(spec, pixels, weights)
    peaks[count] = [
        extra(lambda: engine.evs(call)),
        extra(lambda: engine.vjp(call, grad)),
    ]
print(json.dumps(peaks))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)
@pytest.mark.slow
def test_memory_beyond_the_output_does_not_grow_with_the_pixels():
    """In a process of its own: 16384 and 81920 pixels of 64 channels, two kernels of 6 qubits.

    The states of 65,536 more pixels alone would be 64 MiB; 24 MiB are granted for the allocator,
    whose arenas depend on which thread comes first (up to 9 MiB were seen).
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAKS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    few, many = (json.loads(done.stdout)[key] for key in ("16384", "81920"))
    more_pixels = 81920 - 16384
    output = {0: more_pixels * 12 * 4, 1: more_pixels * 64 * 4}
    for i, size in output.items():
        assert many[i] - few[i] < size + 24 * 2**20, (few, many)
        assert many[i] > size / 2  # the measurement sees the output at least
