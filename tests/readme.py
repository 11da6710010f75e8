"""Commands that the README shows, for tests that look at them and tests that run them."""

import re
import shlex

HEADING = "## From simulator to device in five commands"


def five_commands(text):
    """Words of the `qpc` commands in that section, one list for each; comments are left out.

    Raises:
        ValueError: there is no such section.
    """
    _, found, rest = text.partition(f"\n{HEADING}\n")
    if not found:
        raise ValueError(f"The README has no section {HEADING!r}.")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.replace("\\\n", " ").splitlines()
    return [
        shlex.split(re.sub(r"\s{2,}#.*", "", line)) for line in lines if re.match(r" {4}qpc ", line)
    ]
