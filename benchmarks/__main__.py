"""Command line: `python -m benchmarks [NAME ...] [--quick] [--threads T] [--out FOLDER]`.

Every benchmark runs in a process of its own, so that none sees another's thread pools or memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks import common, pages

NAMES = (
    "gemm",
    "peers",
    "stock",
    "primitives",
    "aer",
    "noisy",
    "devices",
    "brickwall",
    "qpu_seconds",
    "memory",
    "imports",
)


def main() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--threads", type=int, default=cores, help="cores and threads for all")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    names = options.names or list(NAMES)
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if not 1 <= options.threads <= cores:
        parser.error(f"--threads must be 1 to {cores}")
    out = options.out or (pages.QUICK_RESULTS if options.quick else pages.RESULTS)
    if len(names) == 1:
        return run_here(names[0], common.Settings(options.quick, options.threads), out)
    flags = ["--threads", str(options.threads), "--out", str(out)]
    flags += ["--quick"] if options.quick else []
    codes = {
        name: subprocess.run(
            [sys.executable, "-m", "benchmarks", name, *flags], cwd=common.ROOT, check=False
        ).returncode
        for name in names
    }
    failed = [name for name, code in codes.items() if code]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def run_here(name: str, settings: common.Settings, out: Path) -> int:
    print(f"{name} ...", flush=True)
    if hasattr(os, "sched_setaffinity"):  # before any library starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])
    benchmark = import_module(f"benchmarks.{name}")
    meter = common.LoadMeter()
    report = benchmark.run(settings)
    path = pages.write_report(name, report, settings, meter.read(), out)
    print(path.read_text())
    print(f"-> {path}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
