"""`qpc experiment`: the paper's experiments, and a user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc_cli.flags import Extra, Given, fields_of, with_flags
from qpc_cli.support import EXIT_CODES, RUNTIME_ERROR, USAGE_ERROR, fail, refuse, reported, say
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.tables import table
from qpc_qiskit.errors import ExperimentError
from qpc_qiskit.options.records import DataSource, TrainConfig

if TYPE_CHECKING:
    from qpc_qiskit.experiments import Experiment

experiment_app = typer.Typer()


def _instead(name: str, kind: Any, **options: Any) -> Extra:
    return Extra(name, kind, typer.Option(show_default=False, **options))


@experiment_app.command(epilog=EXIT_CODES)
@with_flags
def experiment(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE.toml|list", help="What to run; `list` lists them.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="experiments/NAME")
    ] = None,
    changes: Annotated[
        Given,
        _instead("data_dir", Path | None, help="Folder with the files of its data set."),
        _instead("only", list[str] | None, help="Train this line only; may be repeated."),
        _instead("seeds", str | None, metavar="0,1,..", help="Instead of its own."),
        _instead("epochs", int | None, min=1, help="Instead of its own."),
        _instead("train_images", int | None, min=1, help="Train on a random subset."),
        _instead("test_images", int | None, min=1, help="Test on a random subset."),
        _instead("device", str | None, help="auto, cpu or cuda."),
    ],
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be trained, and train nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
    ] = False,
) -> None:
    """Train every network of an experiment with every seed, and write table and figure.

    The same command again goes on where it was stopped: finished networks are not trained again.
    Given several times at once it shares the work: each takes networks that no other is training.

    For instance:

      qpc experiment list

      qpc experiment digits

      qpc experiment cifar10 --data-dir DIR --out experiments/cifar10 --only "strong, quantum"
    """
    with reported():
        if name == "list":
            if plan or out is not None or changes:
                fail("`list` takes no option but --json.", USAGE_ERROR)
            _list(as_json)
            return
        if not plan:
            require("train", "An experiment")
        only = changes.pop("only", [])
        found = _wanted(name, changes)
        labels = dict.fromkeys(cell.label for cell in found.cells())
        for label in only:
            if label not in labels:
                known = ", ".join(map(repr, labels))
                fail(f"--only must be one of {known}; got {label!r}.", USAGE_ERROR)
        if plan:
            _show(found, only or list(labels), as_json)
        else:
            _run(found, out or Path("experiments") / found.name, only, as_json)


def _list(as_json: bool) -> None:
    from qpc_qiskit.experiments import experiment_names, load_experiment

    found = [load_experiment(name) for name in experiment_names()]
    rows = [("experiment", "data", "runs", "question")]
    rows += [(each.name, each.data.name, str(len(each.cells())), each.question) for each in found]
    result = [each.model_dump(mode="json") for each in found]
    say(as_json, {"experiments": result}, table(rows))


def _wanted(name: str, given: Given) -> "Experiment":
    """The experiment with what was given laid over it; leave if that is wrong usage."""
    from qpc_qiskit.experiments import load_experiment
    from qpc_qiskit.experiments.spec import changed

    changes: dict[str, Any] = {
        "data": fields_of(DataSource, given),
        "training": fields_of(TrainConfig, given),
    }
    if "seeds" in given:
        try:
            changes["seeds"] = [int(seed) for seed in given["seeds"].split(",")]
        except ValueError:
            refuse(f"--seeds must be numbers, as in 0,1,2; got {given['seeds']!r}.")
    try:
        return changed(load_experiment(name), **changes)
    except ExperimentError as error:
        fail(str(error), USAGE_ERROR)


def _show(experiment: "Experiment", only: Sequence[str], as_json: bool) -> None:
    from qpc_qiskit.nets import build_net, parameter_table

    lines: dict[str, dict[str, Any]] = {}
    for cell in experiment.cells():
        if cell.label in only and cell.label not in lines:
            count = parameter_table(build_net(cell.net))
            lines[cell.label] = {
                "net": cell.net.model_dump(),
                "training": cell.training.model_dump(exclude={"seed"}),
                "pointwise": count.pointwise,
                "parameters": count.total,
            }
    rows = [("line", "epochs", "pointwise", "parameters")]
    for label, line in lines.items():
        epochs = line["training"]["epochs"]
        rows.append((label, str(epochs), str(line["pointwise"]), str(line["parameters"])))
    about = [experiment.title, experiment.question]
    about += [f"The paper: {experiment.paper}"] if experiment.paper else []
    seeds = ", ".join(map(str, experiment.seeds))
    text = "\n".join([*about, f"Seeds {seeds}; data {experiment.data.name}.", ""])
    result = {"name": experiment.name, "seeds": list(experiment.seeds), "lines": lines}
    say(as_json, result, f"{text}\n{table(rows)}")


def _run(experiment: "Experiment", out: Path, only: list[str], as_json: bool) -> None:
    from qpc_qiskit.experiments import run_experiment, summary_table
    from qpc_qiskit.experiments.results import DIFFERENCES_HEADER, HEADER, differences_table

    results = run_experiment(
        experiment,
        out,
        only=only,
        on_cell=lambda number, count, cell: typer.echo(
            f"run {number} of {count}: {cell.label}, seed {cell.training.seed}", err=True
        ),
        on_held=lambda cell, holder: typer.echo(
            f"{cell.label}, seed {cell.training.seed}: left to {holder}, which is training it.",
            err=True,
        ),
    )
    text = f"{out}\n{table([HEADER, *summary_table(results)])}"
    if results.differences:
        text += f"\n\n{table([DIFFERENCES_HEADER, *differences_table(results)])}\n"
    if not results.is_complete:
        text += "\nNot all runs are finished."
    say(as_json, results.model_dump(mode="json") | {"out": str(out)}, text)
    failed = [
        each
        for each in results.failures
        if each.seed in experiment.seeds and (not only or each.label in only)
    ]
    for each in failed:
        typer.echo(f"qpc: {each.label}, seed {each.seed} failed: {each.error}", err=True)
    if failed:
        runs = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
        fail(f"{runs} failed; the same command tries again. {out} has the rest.", RUNTIME_ERROR)
