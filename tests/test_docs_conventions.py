"""docs/conventions.md tells what is decided for each question of the paper, and where."""

import re

from readme import ROOT

PAGE = (ROOT / "docs" / "conventions.md").read_text("utf-8")
ROWS = re.findall(r"^\| (A\d+) \| (.*) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)


def test_every_question_has_a_row():
    assert [row[0] for row in ROWS] == [f"A{i}" for i in range(1, 28)]
    assert all(all(cells) for cells in ROWS)


def test_places_in_the_code_exist():
    for number, _, _, where in ROWS:
        named = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", where)
        assert named, number
        for path, names in named:
            source = (ROOT / "qpc_qiskit" / path).read_text("utf-8")
            for name in re.findall(r"`(\w+)`", names):
                assert re.search(rf"^ *(?:def|class) {name}\b|^{name}\b", source, re.MULTILINE), (
                    number,
                    path,
                    name,
                )


def test_options_exist():
    from qpc_qiskit.options.records import NetConfig, TrainConfig

    known = {*NetConfig.model_fields, *TrainConfig.model_fields}
    told = {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)", PAGE)}
    assert told
    assert told <= known
