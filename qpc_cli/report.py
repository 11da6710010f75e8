"""`qpc report`: what a training came to, as one HTML page; a thin shell over `model_report`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc_cli.flags import option_of, usage_errors
from qpc_cli.support import EXIT_CODES, USAGE_ERROR, fail, refuse, reported, say
from qpc_qiskit.common.extras import require
from qpc_qiskit.errors import CheckpointError
from qpc_qiskit.options.records import DataSource

if TYPE_CHECKING:
    from qpc_qiskit.data.images import ImageData
    from qpc_qiskit.training.trained import Training

FOLDER = "report"
"""Of the report in the folder of a training, by default."""

report_app = typer.Typer()


@report_app.command(epilog=EXIT_CODES)
def report(
    model: Annotated[
        Path, typer.Argument(help="Folder of a training, finished or stopped after an epoch.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report.", show_default=f"MODEL/{FOLDER}", file_okay=False),
    ] = None,
    data_dir: Annotated[Path | None, option_of(DataSource, "data_dir", "Data")] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Test images to predict, a random subset, the same every time.",
            show_default="all",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
    ] = False,
) -> None:
    """Report a training: one HTML page that needs no network, JSON, and figures with their data.

    Curves, accuracy with intervals, confusion matrix, circuits, parameters beside those of the
    classical twin, and test images with their predictions, computed anew by the exact engine. Where
    the data are not at hand, everything else is told. For instance:

      qpc report runs/digits
    """
    with reported():
        if not model.is_dir():
            raise CheckpointError(f"{model}: expected the folder of a training, found none.")
        require("train", "The report of a training")
        from qpc_qiskit.common.progress import busy
        from qpc_qiskit.training.trained import open_training

        with busy("Reading the training"):
            training = open_training(model)
        data, notes = _test_data(training, data_dir, images)
        _write(training, data, notes, images, out or model / FOLDER, as_json)


def _test_data(
    training: Training, data_dir: Path | None, num_images: int | None
) -> tuple[ImageData | None, list[str]]:
    """The data of the training if they are at hand, and what is to be said of them.

    A folder or a number that was given and does not fit is wrong usage.
    """
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.data.images import load_source
    from qpc_qiskit.errors import DataError
    from qpc_qiskit.nets import check_data

    nothing = "so that no test images are shown and there is no confusion matrix"
    source = training.data.source if training.data else None
    if source is None:
        why = "does not say how to load its data"
        if data_dir is not None:
            fail(f"--data-dir has no effect: {training.folder} {why}.", USAGE_ERROR)
        return None, [f"This training {why}, {nothing}."]
    if data_dir is not None:
        with usage_errors(refuse, DataSource):
            source = DataSource(**{**source.model_dump(), "data_dir": str(data_dir.resolve())})
    try:
        with busy(f"Loading {source.name}"):
            data = load_source(source)
            check_data(training.model.config, data)
    except (DataError, OSError) as error:
        if data_dir is not None:
            fail(f"--data-dir: {error}", USAGE_ERROR)
        folder = shlex.quote(str(training.folder))
        advice = f"Say where they are now: qpc report {folder} --data-dir DIR"
        return None, [f"The data cannot be read, {nothing}: {error} {advice}"]
    available = len(data.test_labels)
    if num_images is not None and num_images > available:
        fail(f"--images: there are {available} test images; got {num_images}.", USAGE_ERROR)
    return data, []


def _write(
    training: Training,
    data: ImageData | None,
    notes: list[str],
    num_images: int | None,
    out: Path,
    as_json: bool,
) -> None:
    from qpc_qiskit.common.progress import busy
    from qpc_qiskit.training.model_page import percent, write_model_report
    from qpc_qiskit.training.model_report import model_report
    from qpc_qiskit.training.predictions import predict_images

    predictions, images = None, None
    if data is not None:
        with busy("predicting", num_images or len(data.test_labels), "images") as bar:
            predictions, images = predict_images(training, data, num_images, bar.advance)
        if not predictions.same_data:
            notes = [
                *notes,
                "The data are not those of the training (their checksums differ), so that the "
                "predictions here need not agree with its accuracy.",
            ]
    with busy("Drawing figures"):
        made = model_report(training, predictions, notes)
        written = write_model_report(out, made, training, images)
    result: dict[str, Any] = {
        "page": str(written.page),
        "data": str(written.data),
        "figures": [str(path) for path in written.figures],
        "report": made.to_dict(),
    }
    accuracy = f"; test accuracy {percent(made.final)}" if made.final else ""
    say(as_json, result, "\n".join([f"{written.page}: {made.title}{accuracy}", *made.notes]))
