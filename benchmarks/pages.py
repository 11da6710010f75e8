"""Result files: a JSON record and a Markdown page for each benchmark, and a summary of all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks.common import ROOT, Report, Settings

RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / "build" / "benchmarks"  # not under version control
BUSY_LIMIT = 0.15
"""Cores that other processes used on average, from which a result is marked as disturbed."""
PACKAGES = (
    "qpc-qiskit", "numpy", "torch", "qiskit", "qiskit-aer", "qiskit-ibm-runtime",
    "qiskit-machine-learning", "pennylane", "jax", "tensorcircuit-ng",
)  # fmt: skip


def machine_record() -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def version_record() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    git = shutil.which("git")
    if git:
        found = subprocess.run(
            [git, "describe", "--always", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        versions["commit"] = found.stdout.strip() or "unknown"
    return versions


def write_report(
    name: str, report: Report, settings: Settings, load: dict[str, object], folder: Path
) -> Path:
    """Write NAME.json and NAME.md, and the summary of all results in `folder`."""
    flags = [*(["--quick"] if settings.quick else []), "--threads", str(settings.threads)]
    record = {
        "name": name,
        "command": " ".join(["python -m benchmarks", name, *flags]),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "settings": asdict(settings),
        "machine": machine_record(),
        "versions": version_record(),
        "load": load,
        **asdict(report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    path = folder / f"{name}.md"
    path.write_text(_markdown(record))
    (folder / "README.md").write_text(_summary(folder))
    return path


def _markdown(record: dict) -> str:
    parts = [f"# {record['title']}", _warning(record)]
    if record["figures"]:
        parts.append(_figure_table(record["figures"]))
    for table in record["tables"]:
        parts += [f"## {table['title']}", _markdown_table(table["rows"])]
    if record["notes"]:
        parts.append("\n".join(f"- {note}" for note in record["notes"]))
    machine, load = record["machine"], record["load"]
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    parts.append(
        f"Made by `{record['command']}` on {record['date']}; {machine['cores']} x "
        f"{machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}; {versions}. "
        f"Other processes used {load['other_processes_cores']} cores meanwhile (load average "
        f"{load['load_average_before']} before, {load['load_average_after']} after)."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _warning(record: dict) -> str:
    if record["settings"]["quick"]:
        return "**Quick run: sizes are tiny, the numbers mean nothing.**"
    others = record["load"]["other_processes_cores"]
    if others is not None and others > BUSY_LIMIT:
        return f"**Taken on a disturbed machine: other processes used {others} cores.**"
    return ""


def _markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    if not rows:
        return "(nothing)"
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[c]) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _figure_table(figures: Sequence[Mapping[str, object]]) -> str:
    return _markdown_table(
        [
            {"figure": f["what"], "asked for": f["target"], "measured": f["value"],
             "reached": "yes" if f["is_reached"] else "**no**"}
            for f in figures
        ]
    )  # fmt: skip


def _summary(folder: Path) -> str:
    parts = ["# Results", "Written by `python -m benchmarks`; one page and one JSON file each."]
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        parts += [f"## [{record['title']}]({path.stem}.md)", _warning(record)]
        if record["figures"]:
            parts.append(_figure_table(record["figures"]))
    return "\n\n".join(part for part in parts if part) + "\n"
