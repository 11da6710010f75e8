"""A noise study in ten minutes: the code of docs/tutorial-noise-study.md, as one script.

    python examples/noise_study_in_ten_minutes.py            # the whole study
    python examples/noise_study_in_ten_minutes.py --quick    # a small grid, to see that it runs

It calls `qpc noise study` on examples/noise_study/ten_minutes.toml and reads answers from the
tables. The same call again computes nothing that is there. Two seeds, as with --quick, are too few
for p-values (nan). Writes studies/ten-minutes (--out), or studies/ten-minutes-quick.
"""

import argparse
import sys
from pathlib import Path

from noise_models.study.run import load_study
from noise_models.study.spec import StudySpec
from qpc_cli.app import app
from qpc_qiskit.common.files import write_text

STUDY = Path(__file__).parent / "noise_study" / "ten_minutes.toml"


def smaller(spec: StudySpec) -> StudySpec:
    """The same study with two seeds, few images, one epoch and two strengths of each noise."""
    content = spec.model_dump(mode="json", exclude_unset=True)
    content |= {"name": f"{spec.name}-quick", "seeds": list(spec.seeds[:2]), "test_images": 60}
    for network in content["train"].values():
        network["data"] |= {"train_images": 200}
        network["training"] |= {"epochs": 1}
    for grid in content["grid"]:
        for axis in grid["noise"]:
            axis["strengths"] = axis["strengths"][::3]
    return StudySpec.from_dict(content)


def answers(folder: str | Path) -> None:
    study = load_study(folder)

    print("Five points of accuracy are lost at")
    for line in study.thresholds.itertuples():
        found = f"{line.strength:.2g}" if line.num_crossed == line.num_seeds else "no strength"
        print(f"  {line.noise} ({line.quantity}): {found}")

    print("At the largest strength")
    for row in study.summary.query("grid == 'channels' and strength in (0.1, 32)").itertuples():
        interval = f"{100 * row.drop_low:.1f} to {100 * row.drop_high:.1f}"
        print(f"  {row.noise}: {100 * row.drop:.1f} points ({interval}), p = {row.p_value:.2g}")

    print("With few shots, at sixteen times the errors of a device")
    for row in study.summary.query("grid == 'mitigation'").itertuples():
        print(f"  {row.shots} shots, {row.mitigation}: {100 * row.accuracy:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", default="2")
    args = parser.parse_args()
    file, spec = STUDY, StudySpec.load(STUDY)
    folder = args.out or Path("studies") / (f"{spec.name}-quick" if args.quick else spec.name)
    if args.quick:
        file = folder.with_suffix(".toml")
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, smaller(spec).to_toml())
    command = ["noise", "study", str(file), "--out", str(folder), "--workers", args.workers]
    if code := app(command, standalone_mode=False):
        sys.exit(code)
    answers(folder)


if __name__ == "__main__":
    main()
