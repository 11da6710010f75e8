from qpc_qiskit.common.tables import table


def test_words_stand_left_and_numbers_right_under_their_heading():
    rows = [
        ("line", "runs", "accuracy / %", "note"),
        ("4 qubits", 5, "81.24 (80.89 to 81.83)", "1 of 2"),
        ("classical", 12, "9", None),
    ]
    assert table(rows).splitlines() == [
        "line       runs            accuracy / %  note",
        "4 qubits      5  81.24 (80.89 to 81.83)  1 of 2",
        "classical    12                       9  -",
    ]
