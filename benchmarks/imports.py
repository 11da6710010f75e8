"""Time to import the package and to show the command line's help, against `import torch`."""

from __future__ import annotations

from benchmarks.common import Figure, Report, Settings, Table, interleaved, python_seconds

COMMANDS = {
    "python": "pass",
    "import torch": "import torch",
    "import qpc_qiskit": "import qpc_qiskit",
    "the layer": "from qpc_qiskit import QuantumPointwiseConv2d",
    "qpc --help": "from qpc_cli.app import main; import sys; sys.argv[1:] = ['--help']; main()",
}


def run(settings: Settings) -> Report:
    commands = dict(COMMANDS)
    report = Report("Start-up")
    try:
        import qpc_cli.app  # noqa: F401
    except ModuleNotFoundError as error:
        del commands["qpc --help"]
        report.notes.append(f"`qpc --help` was left out: {error}.")
    timings = interleaved(
        {name: lambda code=code: python_seconds(code) for name, code in commands.items()},
        rounds=settings.pick(5, 2),
        budget_seconds=120,
        slice_seconds=0,
    )
    rows = [
        {"process": name, "best s": t.best, "median s": t.median, "runs": len(t.seconds)}
        for name, t in timings.items()
    ]
    report.tables.append(Table("Wall time of a fresh process (files in the page cache)", rows))
    torch_seconds = timings["import torch"].best
    for name in ("import qpc_qiskit", "the layer"):
        extra = timings[name].best - torch_seconds
        report.figures.append(
            Figure(f"{name}, beyond import torch", "<= 0.3 s", f"{extra:+.2f} s", extra <= 0.3)
        )
    if "qpc --help" in timings:
        best = timings["qpc --help"].best
        report.figures.append(Figure("qpc --help", "<= 1 s", f"{best:.2f} s", best <= 1))
    report.notes.append("the layer: `from qpc_qiskit import QuantumPointwiseConv2d`.")
    return report
