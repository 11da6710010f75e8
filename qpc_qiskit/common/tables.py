"""Tables of plain text."""

import re
from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows in columns, the first of them the heading: words to the left, numbers to the right."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numbers = [all(map(_is_number, column[1:])) for column in zip(*texts, strict=True)]
    lines = (
        "  ".join(
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(row, widths, numbers, strict=True)
        )
        for row in texts
    )
    return "\n".join(line.rstrip() for line in lines)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-|[\d.,]+( ?[%s])?( \(.*\))?", text) is not None
