"""The paper's experiments: grids of training runs, each a small TOML file beside this one.

spec.py       what an experiment is; its cells (one training run each)
running.py    run the cells, resume
folder.py     what is in the folder; collect it
results.py    tables, curves

May import `grid`, trainings and all below them; nothing of the package imports it.
"""

from qpc_qiskit.experiments.results import CellResult, Results, summary_table
from qpc_qiskit.experiments.running import run_experiment
from qpc_qiskit.experiments.spec import Cell, Experiment, Line, experiment_names, load_experiment

__all__ = [
    "Cell",
    "CellResult",
    "Experiment",
    "Line",
    "Results",
    "experiment_names",
    "load_experiment",
    "run_experiment",
    "summary_table",
]
