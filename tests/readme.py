"""What the documentation shows: links, anchors, code, commands; for tests that look at them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "tests" / "hardware" / "README.md",
]
HEADING = "## From simulator to device in five commands"

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAMS = ("qpc", "python", "make", "pip", "source")


def name_of(page):
    """Of a page, from the repository's root."""
    return page.relative_to(ROOT).as_posix()


def blocks(text, language):
    """Fenced blocks of a language, without their fences."""
    return [body for name, body in _FENCED.findall(text) if name == language]


def prose(text):
    """A page without its fenced and indented blocks and without code in the lines."""
    lines = _FENCED.sub("", text).splitlines()
    kept = [line for line in lines if not line.startswith("    ")]
    return re.sub(r"`[^`\n]*`", "", "\n".join(kept))


def links(text):
    """Targets of all links and images, in order."""
    told = prose(text)
    return [*re.findall(r"\]\(([^)\s]+)\)", told), *re.findall(r"<(https?:[^>\s]+)>", told)]


def anchors(text):
    """What links to a page's headings may end in: as GitHub and MkDocs both call them."""
    headings = re.findall(r"^#+ +(.*)$", _FENCED.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    github = {re.sub(r"\s", "-", heading) for heading in plain}
    return github & {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def commands(text):
    """Command lines in indented and fenced blocks, without comments and redirections."""
    shell = "\n".join(blocks(text, "sh"))
    indented = re.findall(r"^ {4}(.*)$", _FENCED.sub("", text).replace("\\\n", " "), re.MULTILINE)
    found = []
    for line in [*indented, *shell.replace("\\\n", " ").splitlines()]:
        line = re.sub(r"(^|\s)#.*", "", line).strip().rpartition(" && ")[2]
        line = re.sub(r"\s+(>|2>&1|\|\s).*$", "", line).removesuffix(" &").removesuffix(" ...")
        words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
        if words and Path(words[0]).name in _PROGRAMS:
            found.append(" ".join(line.split()))
    return found


def words_of(command):
    """A command's words without the variables that are set before it."""
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return [Path(words[0]).name, *words[1:]]


def five_commands(text):
    """Words of the `qpc` commands in that section, one list for each; comments are left out.

    Raises:
        ValueError: there is no such section.
    """
    _, found, rest = text.partition(f"\n{HEADING}\n")
    if not found:
        raise ValueError(f"The README has no section {HEADING!r}.")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return [words_of(command) for command in commands(section) if command.startswith("qpc ")]
