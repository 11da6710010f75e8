"""What `qpc run` says to people: plans and states of runs as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from qpc_qiskit.common.tables import table
from qpc_qiskit.options.economy import ENCODERS, Economy

if TYPE_CHECKING:
    from hardware_runs.checkpoints.cancelling import Cancelled
    from hardware_runs.durable_engine.status import JobRecord, RunStatus
    from hardware_runs.planning.comparison import Choice
    from hardware_runs.planning.plan import LayerPlan, RunPlan, WhatIf


def plan_line(plan: RunPlan) -> str:
    """A plan in a line."""
    shots = "exact values" if plan.shots is None else f"{plan.shots:,} shots each"
    return (
        f"{_place(plan.backend, plan.noise)}: {_count(plan.num_images, 'image')}, "
        f"{plan.num_executions:,} circuit executions of {plan.num_rows:,} rows, {shots}, in "
        f"{_count(plan.num_jobs, 'job')}; "
        f"{_price(plan.qpu_seconds, plan.cost)}{_budget(plan)}"
    )


def plan_text(plan: RunPlan) -> str:
    """A plan with its layers, assumptions and alternatives."""
    heading = (
        "layer",
        "pixels",
        "rows",
        "merged",
        "executions",
        "jobs",
        "shots",
        "us/shot",
        "QPU time",
        "dollars",
    )
    rows: list[Iterable[object]] = [
        (
            layer.name,
            f"{layer.num_pixels:,}",
            f"{layer.num_rows:,}",
            f"{layer.num_unique_rows:,}",
            f"{layer.num_executions:,}",
            layer.num_jobs,
            None if layer.shots is None else f"{layer.shots_per_execution:,}",
            None if layer.seconds_per_shot is None else f"{1e6 * layer.seconds_per_shot:.1f}",
            _seconds(layer.qpu_seconds),
            _money(None if plan.rate is None else _times(layer.qpu_seconds, plan.rate)),
        )
        for layer in plan.layers
    ]
    lines = [plan_line(plan), "", table([tuple(row) for row in [heading, *rows]])]
    for layer in plan.layers:
        lines += _layer_lines(layer)
    if plan.choices:
        lines += ["", "Choices, for the same rows and shots:", _choices_text(plan.choices)]
    lines += ["", "This assumes:", *(f"- {sentence}" for sentence in plan.assumptions)]
    if plan.what_if:
        lines += ["", "What if (scaled from this plan):", _what_if_text(plan.what_if)]
    return "\n".join(lines)


def _layer_lines(layer: LayerPlan) -> Iterator[str]:
    """Where a layer's circuit stands, how short it is, and how rows share executions."""
    if layer.patch is not None:
        count = len(layer.patches)
        qubits = ", ".join(map(str, layer.patch))
        where = f"on qubits {qubits}" if count == 1 else f"on {count} patches, best on {qubits}"
        yield (
            f"{layer.name}: {where}; {layer.num_two_qubit_gates} two-qubit gates in "
            f"{layer.two_qubit_depth} layers, {1e6 * (layer.circuit_seconds or 0):.1f} us, "
            f"predicted fidelity {_range(min(layer.fidelities), max(layer.fidelities), 3)}"
        )
    count = max(len(layer.patches), 1)
    if count > 1 or layer.num_references:
        references = (
            f", {layer.num_references} reference rows each job" if layer.num_references else ""
        )
        yield (
            f"{layer.name}: {_count(layer.num_unique_rows, 'row')} in "
            f"{_count(layer.num_executions, 'execution')} on {count} "
            f"patch{'es' * (count != 1)}{references}"
        )
    words = [] if layer.encoder == ENCODERS[0] else [f"{layer.encoder} encoder"]
    if layer.num_absorbed == 0:
        words.append("tail to absorb: none found, so --absorb-tail has no effect")
    elif layer.num_absorbed is not None:
        words.append(
            f"tail absorbed: {_count(layer.num_absorbed, 'gate')} of the ansatz "
            f"({layer.num_absorbed_two_qubit} on two qubits) measured as parities"
        )
    if words:
        yield f"{layer.name}: {'; '.join(words)}"


def _choices_text(choices: tuple[Choice, ...]) -> str:
    heading = [
        "choice", "two-qubit gates", "depth", "patches", "fidelity", "executions", "jobs",
        "QPU time", "equal-error shots", "QPU time so", "dollars",
    ]  # fmt: skip
    has_cost = any(choice.cost is not None for choice in choices)
    rows: list[tuple[object, ...]] = [
        (
            f"{'*' if choice.is_asked else ' '} {choice.name}",
            *(
                "/".join(map(str, told))
                for told in (choice.num_two_qubit_gates, choice.two_qubit_depth, choice.num_patches)
            ),
            "/".join(_range(low, high, 2) for low, high in choice.fidelity),
            f"{choice.num_executions:,}",
            choice.num_jobs,
            _seconds(choice.qpu_seconds),
            None if choice.equal_error_shots is None else f"{choice.equal_error_shots:,}",
            _seconds(choice.equal_error_seconds),
            *([_money(choice.cost)] if has_cost else []),
        )
        for choice in choices
        if choice.problem is None
    ]
    lines = [table([tuple(heading if has_cost else heading[:-1]), *rows])]
    lines += [f"{each.name}: {each.problem}" for each in choices if each.problem is not None]
    lines.append(
        "*: as asked. Fidelity: predicted for the worst and the best patch; noise shrinks a value "
        "by about that, and reference rows correct most of it. Equal-error shots: with them values "
        "of every layer, divided by their predicted fidelity, have the standard error that the "
        "plain way's have with the shots asked for; shot noise of the reference rows themselves is "
        "not in it. Recommended: measured to be best on snapshots of several families; what a "
        "parity costs at readout is not in a predicted fidelity."
    )
    return "\n".join(lines)


def _what_if_text(found: tuple[WhatIf, ...]) -> str:
    pooled = {(w.num_images, w.shots): w for w in found if w.pooling > 1}
    heading = ["images", "shots", "executions", "jobs", "QPU time", "dollars"]
    has_cost = any(w.cost is not None for w in found)
    rows = []
    for each in found:
        if each.pooling > 1:
            continue
        row: list[object] = [
            f"{each.num_images:,}",
            f"{each.shots:,}",
            f"{each.num_executions:,}",
            f"{each.num_jobs:,}",
            _seconds(each.qpu_seconds),
            _money(each.cost),
        ]
        other = pooled.get((each.num_images, each.shots))
        if other is not None:
            row.append(_seconds(other.qpu_seconds))
        rows.append(row)
    if pooled:
        heading.append("2x2 pooled")
    if not has_cost:
        heading.pop(5)
        rows = [[*row[:5], *row[6:]] for row in rows]
    note = (
        "\n2x2 pooled: each quantum layer reads the means of 2x2 positions; the network must be "
        "trained so."
        if pooled
        else ""
    )
    return table([heading, *rows]) + note


def result_text(result: Mapping[str, Any], go_on: str) -> str:
    """What came of `submit` or `collect`.

    Args:
        result: see `driving.finish`.
        go_on: the command for a run whose results are pending.
    """
    if result["state"] != "done":
        message = f"\n{result['message']}" if result["message"] else ""
        return (
            f"{result['run']}: results are pending; {result['jobs_done']} jobs done, "
            f"{result['jobs_open']} under way, {result['jobs_unsent']} still to be sent.{message}\n"
            f"Go on with: {go_on}"
        )
    shots = "exact values" if result["shots"] is None else f"{result['shots']:,} shots each"
    low, high = result["accuracy_interval"]
    text = (
        f"{result['run']} on {_place(result['backend'], result['noise'])}: accuracy "
        f"{100 * result['accuracy']:.2f} % (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %), loss {result['loss']:.4f} on {result['images']} test images\n"
        f"exact: accuracy {100 * result['exact_accuracy']:.2f} %; {100 * result['agreement']:.2f} "
        f"% of the predictions agree, logits differ by {result['max_logit_difference']:.2g} at "
        f"most\n{result['executions']:,} circuit executions, {shots}, in "
        f"{_count(result['jobs'], 'job')}"
    )
    if economy := Economy.from_dict(result["economy"]).text():
        text += f"; {economy}"
    if result["backend"].startswith("ibm_"):
        text += (
            f"; {result['used_qpu_seconds']:,.1f} s of QPU time, "
            f"{_known(result['predicted_qpu_seconds'])} predicted"
        )
        if held := result["reserved_qpu_seconds"]:
            text += f"; {held:,.0f} s are held back until the service says what was used"
    text += "".join(f"\n{line}" for line in _patch_lines(result))
    if not result["same_data_as_in_training"]:
        text += "\nNote: these are not the data that the network was trained and tested on."
    return text


def _patch_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """What reference rows say: of all patches together, and of each that was found bad."""
    patches = result["patches"]
    scales = [patch["scale"] for patch in patches if patch["scale"] is not None]
    if scales:
        low, high = min(scales), max(scales)
        made_up = ", and made up for" if Economy.from_dict(result["economy"]).calibrate else ""
        places = {tuple(patch["qubits"]) for patch in patches}
        yield (
            f"reference rows: {_range(low, high, 2)} of a value is left on "
            f"{_count(len(places), 'patch', 'patches')}{made_up}"
        )
    left = sum(patch["num_not_calibrated"] for patch in patches)
    if left:
        yield (
            f"not calibrated, since their reference rows tell too little: {left} of "
            f"{sum(patch['num_features'] for patch in patches)} features of patches and jobs"
        )
    for patch in patches:
        if patch["problems"]:
            qubits = "-".join(map(str, patch["qubits"]))
            where = f"bad patch, qubits {qubits}," if qubits else "bad"
            yield (
                f"{where} in {len(patch['problems'])} of "
                f"{_count(patch['num_jobs'], 'job')} of {patch['layer']}: {patch['problems'][0]}"
            )


def status_text(status: RunStatus) -> str:
    """What the ledger says of a run."""
    reason = f" ({status.cancel_reason})" if status.cancel_reason else ""
    lines = [
        f"{status.run}: {status.state}{reason}; {status.asked.backend}, mode {status.asked.mode}, "
        f"begun {status.created}",
        _settings_text(status),
    ]
    if status.layers:
        heading = ("layer", "blocks", "pixels", "executions", "unsent", "open", "done", "failed")
        rows = [
            (
                layer.layer,
                layer.num_blocks,
                _part(layer.num_pixels, status.pixels_expected.get(layer.layer)),
                _part(layer.num_rows_done, layer.num_rows),
                *(layer.num_chunks[state] for state in ("unsent", "open", "done", "failed")),
            )
            for layer in status.layers
        ]
        lines += ["", table([heading, *rows])]
    if status.jobs:
        names = ("job", "layer", "chunk", "attempt", "executions", "state", "forecast", "used")
        jobs = [_job_row(job) for job in status.jobs]
        lines += ["", table([names, *jobs])]
        attempts = [job.attempt for job in status.jobs]
        lines += [f"{each.tag}: {each.error}" for each in attempts if each.error]
    lines += [f"revision {each.number}: {each.reason}" for each in status.revisions[1:]]
    lines += ["", _budget_text(status)]
    if status.usage_over_forecast is not None:
        lines.append(f"jobs used {status.usage_over_forecast:.2f} times their forecast")
    if status.duplicates:
        lines.append(f"duplicate jobs, which do not count: {', '.join(status.duplicates)}")
    return "\n".join(lines)


def _settings_text(status: RunStatus) -> str:
    """What was asked for, beyond defaults."""
    asked = status.asked
    if asked.is_exact:
        shots = "exact values"
    elif asked.precision is None:
        shots = "as many shots as the backend's default"
    else:
        shots = f"{status.shots:,} shots each"
    told = {
        "resilience": asked.resilience or None,
        "noise": status.noise,
        "options": json.dumps(asked.options) if asked.options else None,
        "seed": asked.seed,
    }
    parts = [shots, *(f"{name} {value}" for name, value in told.items() if value is not None)]
    text = ", ".join(parts) + ("" if asked.dedupe_grid else ", equal directions not merged")
    return "; ".join(filter(None, (text, asked.text())))


def _job_row(job: JobRecord) -> tuple[object, ...]:
    return (
        job.attempt.job_id or f"(none; tag {job.attempt.tag})",
        job.chunk.layer,
        job.chunk.id,
        job.attempt.number,
        job.chunk.num_rows,
        job.attempt.state,
        _seconds(job.chunk.predicted_seconds),
        _seconds(job.attempt.usage_seconds),
    )


def _budget_text(status: RunStatus) -> str:
    budget = status.budget
    used = (
        f"QPU time: {budget.used_seconds:,.1f} s used, {budget.reserved_seconds:,.0f} s held back"
    )
    if budget.max_qpu_seconds is None:
        return f"{used}; no limit was given"
    left = budget.left_seconds or 0.0
    return f"{used}, {left:,.1f} s left of {budget.max_qpu_seconds:,g} s"


def list_text(runs: Iterable[Mapping[str, Any]]) -> str:
    """Runs of a ledger, one on a line."""
    heading = ("run", "state", "backend", "mode", "executions", "used", "begun")
    rows = [
        (
            run["run"],
            run["state"],
            run["backend"],
            run["mode"],
            f"{run['num_rows_done']:,}/{run['num_rows']:,}",
            _seconds(run["used_seconds"]),
            run["created"],
        )
        for run in runs
    ]
    return table([heading, *rows]) if rows else "No runs."


def cancel_text(name: str, found: Cancelled) -> str:
    """What cancelling did."""
    lines = [f"{name}: cancelled; nothing more is sent, and its results are kept"]
    if found.cancelled:
        lines.append(f"cancelled at the service: {', '.join(found.cancelled)}")
    if found.not_cancelled:
        lines.append(
            f"could not be cancelled, and may be charged: {', '.join(found.not_cancelled)}"
        )
    if found.unclear:
        lines.append(
            f"not found at the service, look again: {', '.join(found.unclear)} (tags of jobs that "
            "may have been accepted)"
        )
    if found.problem:
        lines.append(f"the service was not asked: {found.problem}")
    return "\n".join(lines)


def _place(backend: str, noise: str | None) -> str:
    return backend if noise is None else f"{backend} with noise {noise}"


def _price(seconds: float | None, cost: float | None) -> str:
    if seconds is None:
        return "QPU time unknown, or none"
    money = "" if cost is None else f", ${cost:,.2f} at the rate given"
    return f"about {seconds:,.1f} s of QPU time{money}"


def _budget(plan: RunPlan) -> str:
    if plan.max_qpu_seconds is None:
        return ""
    word = {True: "within", False: "MORE THAN", None: "not to be compared with"}
    return f" ({word[plan.is_within_budget]} the budget of {plan.max_qpu_seconds:,g} s)"


def _count(number: int, thing: str, things: str | None = None) -> str:
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def _range(low: float, high: float, digits: int) -> str:
    """Of two numbers; one where they look the same."""
    texts = dict.fromkeys(f"{value:.{digits}f}" for value in (low, high))
    return " to ".join(texts)


def _part(some: int, of_all: int | None) -> str:
    return f"{some:,}" if of_all is None else f"{some:,}/{of_all:,}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f} s"


def _known(value: float | None) -> str:
    return _seconds(value) or "nothing"


def _money(value: float | None) -> str | None:
    return None if value is None else f"{value:,.2f}"


def _times(value: float | None, rate: float) -> float | None:
    return None if value is None else value * rate
