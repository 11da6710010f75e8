"""What the documentation shows runs, and its links lead somewhere.

Its commands are in test_docs_commands.py, the tutorials in test_examples.py.
"""

import os
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import processes
import pytest
from readme import PAGES, ROOT, anchors, blocks, five_commands, links, name_of

from hardware_runs.standin import Rules, Standin
from noise_models.spec import NoiseSpec
from noise_models.study.spec import StudySpec
from qpc_qiskit.backends.named import GROUP
from qpc_qiskit.experiments.spec import Experiment

TUTORIALS = ("docs/tutorial-own-network.md", "docs/tutorial-noise-study.md")
WITH_CODE = [
    name_of(page)
    for page in PAGES
    if blocks(page.read_text("utf-8"), "python") and name_of(page) not in TUTORIALS
]


LONG = ("docs/backends.md", "docs/noise-studies.md")
"""Five seconds each; test_opening.py and test_study.py prove what they show."""


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow) if p in LONG else p for p in WITH_CODE]
)
def test_the_examples_print_what_they_say(page, tmp_path):
    text = (ROOT / page).read_text()
    code = "\n".join(blocks(text, "python"))
    done = processes.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    assert done.stdout == "".join(blocks(text, "text"))


def test_pages_with_code_are_found():
    assert {"README.md", "docs/layer.md", "docs/noise.md", *LONG} <= set(WITH_CODE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page):
    """Files and headings, of this page and of others."""
    broken = []
    for link in links(page.read_text("utf-8")):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_other_links_have_the_form_of_one(page):
    """Nothing is fetched."""
    for link in links(page.read_text("utf-8")):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
            assert not parts.username, link


def test_links_and_anchors_are_seen():
    text = "# A `b` (c)\n[x](y.md#z) `[no](no.md)`\n\n    [no](no.md)\n```python\n# D\n```\n"
    assert links(text + "<https://a.b/c>") == ["y.md#z", "https://a.b/c"]
    assert anchors(text) == {"a-b-c"}
    assert anchors("## A -- b\n") == set()  # GitHub and MkDocs would call it by two names


def test_no_page_of_the_site_is_left_out():
    """All pages are in the navigation and in the index, and there are no others."""
    names = {page.name for page in (ROOT / "docs").glob("*.md")}
    told = re.findall(r"^\s+- .*?: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert set(told) == names
    assert len(told) == len(names)
    listed = links((ROOT / "docs" / "index.md").read_text())
    assert {link for link in listed if link.endswith(".md")} == names - {"index.md"}


def test_tables_in_toml_are_what_they_are_said_to_be():
    """Experiments, noise studies and noise that the pages show can be read."""
    kinds = {
        "docs/backends.md": lambda found: found["project"]["entry-points"][GROUP],
        "docs/experiments.md": Experiment.model_validate,
        "docs/noise-studies.md": StudySpec.from_dict,
        "docs/tutorial-noise-study.md": StudySpec.from_dict,
        "docs/noise.md": NoiseSpec.from_dict,
    }
    shown = {
        name_of(page): found for page in PAGES if (found := blocks(page.read_text("utf-8"), "toml"))
    }
    assert set(shown) == set(kinds)
    for name, texts in shown.items():
        for text in texts:
            assert kinds[name](tomllib.loads(text))


def test_no_placeholder_is_left():
    assert not re.findall(r"^[A-Z_]{6,}$", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_the_five_commands(tmp_path):
    """From simulator to device, against the stand-in: real client, HTTP, one process for each."""
    text = (ROOT / "README.md").read_text()
    commands = five_commands(text)
    assert [words[1] for words in commands] == ["train", "run", "run", "run", "run"]
    qpc = [sys.executable, Path(sys.executable).parent / "qpc"]
    with Standin(Rules()) as standin:
        environment = {**os.environ, **standin.environment()}
        for words in commands:
            done = processes.run([*qpc, *words[1:]], cwd=tmp_path, env=environment)
            assert done.returncode in ((0, 75) if "submit" in words else (0,)), done.stderr
        jobs = standin.records()["jobs"]
    assert len(jobs) == 1
    assert "accuracy" in done.stdout
    assert 3 < jobs[0]["usage_seconds"] < 30
    told = re.search(
        r"one job of ([\d,]+) executions, about (\d+) s", (ROOT / "README.md").read_text()
    )
    assert int(told[1].replace(",", "")) * 256 == jobs[0]["num_executions"]
    assert abs(int(told[2]) - jobs[0]["usage_seconds"]) < 2
