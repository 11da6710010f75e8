"""The report of a training as files: one HTML page with everything in it, JSON, and the figures."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qiskit import QuantumCircuit, qasm3
from qiskit.circuit import Gate
from torch import Tensor

from qpc_qiskit.circuits.encoder import make_encoder
from qpc_qiskit.common.extras import require
from qpc_qiskit.common.files import write_text
from qpc_qiskit.layer import QuantumLayer
from qpc_qiskit.nets import quantum_layers
from qpc_qiskit.plots.figures import plot_circuit, plot_confusion, plot_history, plot_predictions
from qpc_qiskit.plots.pages import Picture, Table, write_page
from qpc_qiskit.training.model_report import LayerReport, ModelReport
from qpc_qiskit.training.predictions import Accuracy, Predictions, Shown
from qpc_qiskit.training.trained import Training

PAGE_FILE = "report.html"
JSON_FILE = "report.json"
FIGURES = "figures"

_SHORT = 4  # letters of a class name that has place beside another
_DRAWN_QUBITS = 4  # of an encoder whose gates are drawn


@dataclass(frozen=True)
class Written:
    """Files of a report."""

    page: Path
    data: Path
    """Everything that the page tells, as JSON."""
    figures: tuple[Path, ...]
    """Pictures, and the data or circuit of each beside it."""


def write_model_report(
    folder: Path, report: ModelReport, training: Training, images: Tensor | None = None
) -> Written:
    """Write the page, the JSON and the figures.

    Args:
        folder: made if it is missing; a report in it is replaced.
        report: what to tell.
        training: whose circuits are drawn.
        images: those that `report.predictions.shown` tells of, (N, C, H, W) in [0, 1]; None if
            there are no predictions.
    """
    require("train", "The report of a training")
    figures = folder / FIGURES
    figures.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    drawn = _Drawing(figures, files)
    layers = quantum_layers(training.model)
    values: dict[str, Any] = {
        "report": report,
        "sentences": list(_sentences(report)),
        "trained": _trained(report),
        "curves": drawn.curves(report),
        "confusion": None,
        "layers": [drawn.layer(told, layers[told.name]) for told in report.layers],
        "parameters": _parameters(report),
        "counted": _counted(report),
        "hardware": _hardware(report),
        "command": _command(report),
        "versions": Table("Versions", ("library", "version"), list(report.versions.items())),
    }
    if report.predictions is not None and images is not None:
        values["confusion"] = drawn.confusion(report.predictions)
        values["classes"] = _classes(report.predictions)
        values["shown"] = drawn.shown(report.predictions, images)
    for name in ("curves", "confusion", "predictions"):  # of a report that knew more
        for old in {figures / f"{name}{suffix}" for suffix in (".png", ".svg", ".csv")} - {*files}:
            old.unlink(missing_ok=True)
    page, data = folder / PAGE_FILE, folder / JSON_FILE
    write_text(data, json.dumps(report.to_dict(), indent=2) + "\n")
    write_page(page, "qpc_qiskit.training", "model_report.html.j2", **values)
    return Written(page, data, tuple(files))


@dataclass(frozen=True)
class _Drawing:
    """Draws into a folder and keeps the names of the files."""

    folder: Path
    files: list[Path]

    def _picture(self, files: list[Path], caption: str) -> Picture:
        self.files.extend(files)
        beside = ", ".join(file.suffix for file in files[1:])
        return Picture(files[0], caption, f"{FIGURES}/{files[0].stem}{beside}")

    def curves(self, report: ModelReport) -> Picture | None:
        if not report.history:
            return None
        files = plot_history(self.folder / "curves", report.history, report.title)
        return self._picture(
            files,
            "Loss and accuracy after each epoch on training and test images, both with fixed "
            "weights in evaluation mode.",
        )

    def confusion(self, found: Predictions) -> Picture:
        names = [each.name for each in found.classes]
        files = plot_confusion(self.folder / "confusion", found.confusion, names)
        return self._picture(
            files,
            f"Which classes were taken for which, {found.accuracy.num_images:,} test images; empty "
            "cells are 0.",
        )

    def shown(self, found: Predictions, images: Tensor) -> Picture:
        titles = [_caption(each) for each in found.shown]
        wrong = [each.is_wrong for each in found.shown]
        files = plot_predictions(self.folder / "predictions", images.numpy(), titles, wrong)
        certain = (
            ""
            if found.shown[0].probability is None
            else " The percentage is the softmax of the outputs, not a chance of being right."
        )
        return self._picture(
            files,
            "Test images, wrong ones first, the most certain mistake first: class, and behind the "
            f"arrow what it was taken for.{certain}",
        )

    def layer(self, told: LayerReport, layer: QuantumLayer) -> dict[str, Any]:
        name = f"circuit-{told.name}"
        files = plot_circuit(self.folder / name, _kernel(layer))
        circuit = self.folder / f"{name}.qasm"
        layer.export("qasm3", circuit)
        pictures = [
            self._picture(
                [*files, circuit],
                f"Kernel 0 of {told.num_kernels} with its angles in radians, behind the encoder of "
                "a pixel; feature q is the expectation value of Z on qubit q.",
            )
        ]
        if told.num_qubits <= _DRAWN_QUBITS:
            pictures.append(self._encoder(told.num_qubits))
        blocks = "" if told.num_layers is None else f", {told.num_layers} blocks"
        text = (
            f"{told.in_channels} channels to {told.out_channels} maps: {told.num_kernels} circuits "
            f"of {told.num_qubits} qubits ({told.ansatz}{blocks}), {told.num_weights} angles each, "
            f"at {told.pixels_per_image:,} positions of an image."
        )
        return {"title": told.name, "text": text, "counts": _counts(told), "pictures": pictures}

    def _encoder(self, num_qubits: int) -> Picture:
        path = self.folder / f"encoder-{num_qubits}"
        circuit = make_encoder("multiplexor", num_qubits).circuit
        gates = path.with_suffix(".qasm")
        write_text(gates, qasm3.dumps(circuit))
        return self._picture(
            [*plot_circuit(path, circuit), gates],
            "The multiplexor encoder, exact; its angles are computed from the pixel.",
        )


def _kernel(layer: QuantumLayer) -> QuantumCircuit:
    """The first kernel with its weights, behind a box for the encoder."""
    spec = layer.spec
    weights = layer.weight[0].detach().double().tolist()
    circuit = QuantumCircuit(spec.num_qubits)
    circuit.append(Gate("encoder", spec.num_qubits, [], label="   pixel"), range(spec.num_qubits))
    values = dict(zip(spec.ansatz.parameters, weights, strict=True))
    return circuit.compose(spec.ansatz.circuit.assign_parameters(values))


def _caption(each: Shown) -> str:
    lines = [each.truth]
    if each.is_wrong:
        is_short = max(len(each.truth), len(each.prediction)) <= _SHORT
        lines = (
            [f"{each.truth} → {each.prediction}"]
            if is_short
            else [each.truth, f"→ {each.prediction}"]
        )
    if each.probability is not None:
        lines.append(f"{100 * each.probability:.0f} %")
    return "\n".join(lines)


def percent(accuracy: Accuracy) -> str:
    """An accuracy with its interval."""
    low, high = 100 * accuracy.low, 100 * accuracy.high
    return f"{100 * accuracy.value:.2f} % (95 % interval {low:.1f} to {high:.1f})"


def _sentences(report: ModelReport) -> Iterator[str]:
    """What most readers want to know."""
    if report.final is not None:
        noise = (report.training or {}).get("noise")
        under = f", under the noise that it was trained with ({noise})" if noise else ""
        yield (
            f"Test accuracy after epoch {report.final.epoch}: {percent(report.final)}, "
            f"{report.final.num_images:,} images{under}."
        )
    if report.best is not None and report.final is not None and report.best != report.final:
        yield (
            f"The best of all epochs was {percent(report.best)}, after epoch {report.best.epoch}; "
            "it is chosen by the test images themselves, so that it is too high."
        )
    if (found := report.predictions) is not None:
        of = ""
        if found.accuracy.num_images < found.num_available:
            of = f", a random subset of {found.num_available:,}"
        yield (
            f"Predicted again by the exact engine for this report: {percent(found.accuracy)}, loss "
            f"{found.loss:.4f}, {found.accuracy.num_images:,} test images{of}."
        )
    own, twin = report.parameters, report.twin
    if twin is not None:
        yield (
            f"{own.pointwise:,} parameters in the pointwise layers, {twin.pointwise:,} in those of "
            f"{twin.network}; {own.total:,} against {twin.total:,} in the whole network."
        )
    else:
        yield f"{own.total:,} parameters, {own.pointwise:,} of them in pointwise layers."


def _trained(report: ModelReport) -> Table:
    return Table("What was trained", ("", "as it was recorded"), list(_facts(report)), words=(1,))


def _facts(report: ModelReport) -> Iterator[tuple[str, str]]:
    net, training, data = report.network, report.training, report.data
    yield "network", f"{net['name']}: {net['text']}"
    if net["preset"]:
        yield "preset", f"{net['preset']} (its options are all there)"
    channels, height, width = net["image"]
    yield "images", f"{channels} x {height} x {width}, {net['num_classes']} classes"
    yield "options of the network", _words(net["options"])
    if data is None:
        yield "data", "not known"
    else:
        yield "data", f"{data['name']}: {data['provenance']}"
        yield "split", f"{data['num_train']:,} training and {data['num_test']:,} test images"
        yield "re-encoded", report.encoding
        yield "SHA-256 of the data", data["sha256"][:16]
    if training is None:
        yield "training", "not known"
    else:
        told = dict(training)
        done = report.history[-1].epoch if report.history else None
        epochs = told.pop("epochs")
        yield "epochs", f"{epochs}" if report.is_finished else f"{done} of {epochs}"
        yield "seed", str(told.pop("seed"))
        noise = told.pop("noise")
        yield "engine", f"{told.pop('engine')}{f', noise {noise}' if noise else ''}"
        idle = {"momentum": told["optimizer"] in ("adam", "adamw")}
        idle["eta_min"] = told["schedule"] == "constant"
        yield "options of the training", _words({k: v for k, v in told.items() if not idle.get(k)})
    yield "time of an epoch", _time(report)
    if report.weights_sha256:
        yield "SHA-256 of the weights", report.weights_sha256[:16]


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())


def _time(report: ModelReport) -> str:
    if report.median_seconds is None:
        return "not known"
    known, total = report.seconds, sum(report.seconds.values())
    text = f"{report.median_seconds:.1f} s (median), {total:,.0f} s together, scoring included"
    missing = len(report.history) - len(known)
    return f"{text}; {missing} epochs not timed" if missing else text


def _classes(found: Predictions) -> Table:
    rows = [
        (
            each.name,
            each.num_images,
            each.num_correct,
            "-" if each.accuracy is None else f"{100 * each.accuracy.value:.1f}",
            "-"
            if each.accuracy is None
            else f"{100 * each.accuracy.low:.1f} to {100 * each.accuracy.high:.1f}",
            "-" if each.mistaken_for is None else f"{each.mistaken_for} ({each.num_mistaken})",
        )
        for each in found.classes
    ]
    columns = ("class", "images", "right", "accuracy / %", "95 % interval", "most often taken for")
    return Table("Class by class", columns, rows)


def _counts(layer: LayerReport) -> Table:
    rows = [
        (
            each.part,
            each.one_qubit_gates,
            each.two_qubit_gates,
            each.depth,
            each.two_qubit_depth,
            ", ".join(f"{count} {name}" for name, count in each.gates.items()),
        )
        for each in layer.counts
    ]
    columns = ("part", "one-qubit gates", "two-qubit gates", "depth", "two-qubit depth", "gates")
    note = (
        "As written, before a device's gates and couplings make it longer. An encoder and the "
        "ansatz make a circuit: the multiplexor is exact, the brickwall is fitted to each pixel."
    )
    return Table("Gates of a circuit", columns, rows, note)


def _parameters(report: ModelReport) -> Table:
    networks = [report.parameters, *([report.twin] if report.twin else [])]
    rows = [
        ("pointwise layers", *(f"{each.pointwise:,}" for each in networks)),
        ("other layers", *(f"{each.total - each.pointwise:,}" for each in networks)),
        ("network", *(f"{each.total:,}" for each in networks)),
        ("of them trained", *(f"{each.trainable:,}" for each in networks)),
    ]
    note = "The twin has classical layers where this network has quantum ones." * bool(report.twin)
    return Table("Parameters", ("", *(each.network for each in networks)), rows, note)


def _counted(report: ModelReport) -> Table:
    rows = [
        (each["name"], each["kind"], f"{each['parameters']:,}") for each in report.parameters.layers
    ]
    return Table("Layer by layer", ("layer", "kind", "parameters"), rows, words=(1,))


def _hardware(report: ModelReport) -> str:
    if not report.layers:
        return "This network has no quantum layer, so that there is nothing to run on a device."
    parts = " + ".join(
        f"{layer.pixels_per_image:,} x {layer.num_kernels}" for layer in report.layers
    )
    after = (
        "This tells how many jobs and how much QPU time that is on a device, and sends nothing:"
        if report.is_finished
        else "When the training is finished, qpc run plan tells what that costs on a device."
    )
    return (
        f"One image is {report.rows_per_image:,} rows (positions x circuits: {parts}), each a "
        f"circuit with as many shots as are asked for; rows of equal pixels run once. {after}"
    )


def _command(report: ModelReport) -> str:
    if not report.layers or not report.is_finished:
        return ""
    folder = shlex.quote(report.folder)
    return f"qpc run plan {folder} --backend ibm_fez --images 8 --shots 256"
