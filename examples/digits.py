"""Train a small network with a quantum pointwise convolution on handwritten digits, then run the
same test images through Qiskit circuits on Aer.

    python examples/digits.py [--out runs/demo] [--epochs 20]

Writes into the folder: the training run (metrics.csv, curves.png, model.safetensors, model.json), a
drawing of the circuit (circuit.png) and the table that it prints (comparison.csv).
"""

import argparse
import csv
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from qpc_qiskit import use_engine
from qpc_qiskit.common.progress import busy
from qpc_qiskit.data.images import load
from qpc_qiskit.errors import QPCError
from qpc_qiskit.nets import build_net, config_for, quantum_layers
from qpc_qiskit.options.records import TrainConfig
from qpc_qiskit.training.evaluation import predict, score
from qpc_qiskit.training.trainer import train

BATCH = 64
DEMO = Path("runs/demo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    console = Console(highlight=False)

    data = load("digits")
    config = TrainConfig(epochs=args.epochs)
    model = build_net(config_for(data), seed=config.seed)
    console.print(model)
    started = time.monotonic()
    train(model, data, config, args.out, force=args.out == DEMO)
    console.print(f"Trained in {time.monotonic() - started:.0f} s.\n")

    logits, rows = {}, []
    for name in ("exact", "estimator"):
        started = time.monotonic()
        num_images = len(data.test_images)
        with use_engine(model, name), busy(f"Testing on {name}", num_images, "images") as bar:
            logits[name] = predict(model, data.test_images, BATCH, bar.advance)
        agreeing = (logits[name].argmax(1) == logits["exact"].argmax(1)).sum()
        rows.append(
            {
                "engine": "Aer, one circuit per pixel and kernel" if name == "estimator" else name,
                "test accuracy": f"{score(logits[name], data.test_labels).accuracy:.4f}",
                "same prediction as exact": f"{int(agreeing)}/{num_images}",
                "largest |logit - exact|": f"{(logits[name] - logits['exact']).abs().max():.1e}",
                "seconds": f"{time.monotonic() - started:.1f}",
            }
        )

    table = Table(title=f"{len(data.test_images)} test images")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    with (args.out / "comparison.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    (layer,) = quantum_layers(model).values()
    drawing: Figure = layer.circuit().draw("mpl", fold=30)
    drawing.savefig(args.out / "circuit.png", dpi=120, bbox_inches="tight")

    console.print(f"\nIn {args.out}/:")
    for name, what in {
        "curves.png": "loss and accuracy over the epochs",
        "metrics.csv": "the same as numbers",
        "circuit.png": "the one circuit that all pixels and kernels share",
        "comparison.csv": "the table above",
        "model.safetensors, model.json": "the trained network and every option behind it",
    }.items():
        console.print(f"  {name:30}{what}")
    if (disagreeing := len(logits["exact"]) - int(agreeing)) > 0:
        sys.exit(f"error: {disagreeing} predictions on Aer differ from the exact ones")
    console.print(f"\nGo on with: qpc evaluate {args.out} --engine estimator --images 32")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:  # TrainingInterrupted says how to resume
        print(stop or "Interrupted.", file=sys.stderr)
        sys.exit(130)
    except QPCError as error:
        sys.exit(f"error: {error}")
