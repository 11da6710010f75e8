import base64
import sys

import pytest
from webpages import Page, self_contained

from qpc_qiskit.plots.pages import Picture, Table, number, write_page

TEMPLATE = """{% extends "page.html.j2" %}
{% from "page.html.j2" import table, picture %}
{% block title %}{{ title }}{% endblock %}
{% block body %}
<h1>{{ title }}</h1>
{{ table(numbers) }}
{{ picture(drawn) }}
<p>{{ 0.123456 | number }}</p>
{% endblock %}
"""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a template of its own."""
    (tmp_path / "paged" / "templates").mkdir(parents=True)
    (tmp_path / "paged" / "__init__.py").touch()
    (tmp_path / "paged" / "templates" / "own.html.j2").write_text(TEMPLATE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "paged"
    sys.modules.pop("paged", None)


@pytest.fixture
def values(tmp_path):
    (tmp_path / "dot.png").write_bytes(PIXEL)
    rows = [("<b>", 1, "of words"), ("second", 22, "&")]
    return {
        "title": "A & B",
        "numbers": Table("Numbers", ("what", "how many", "why"), rows, "A <note>.", words=(2,)),
        "drawn": Picture(tmp_path / "dot.png", 'A "dot"', "figures/dot.csv"),
    }


def test_a_page_has_everything_in_it(package, values, tmp_path):
    path = tmp_path / "page.html"
    write_page(path, package, "own.html.j2", **values)
    html = path.read_text()
    assert html.startswith("<!doctype html>")
    page = Page(html)
    assert self_contained(page)
    assert page.meta["viewport"] == "width=device-width, initial-scale=1"
    assert page.headings == ["A & B", "Numbers"]
    assert page.table("what", "how many", "why") == [
        ["<b>", "1", "of words"],
        ["second", "22", "&"],
    ]
    ((caption, source),) = page.images
    assert caption == 'A "dot"'
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PIXEL
    for words in ("A <note>.", "figures/dot.csv", "0.12"):
        assert words in page.text
    assert html.count('class="word"') == 3  # the head and two cells of one column


def test_what_a_template_is_not_given_is_an_error(package, values, tmp_path):
    from jinja2 import UndefinedError

    del values["numbers"]
    with pytest.raises(UndefinedError, match="numbers"):
        write_page(tmp_path / "page.html", package, "own.html.j2", **values)
    assert not (tmp_path / "page.html").exists()


def test_pictures_are_png_or_svg(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    assert Picture(tmp_path / "a.svg", "").source == "data:image/svg+xml;base64,PHN2Zy8+"
    (tmp_path / "a.bmp").touch()
    with pytest.raises(KeyError):
        _ = Picture(tmp_path / "a.bmp", "").source
    with pytest.raises(FileNotFoundError):
        _ = Picture(tmp_path / "none.png", "").source


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (float("nan"), "-"), (0.123, "0.12"), (1234, "1.2e+03")]
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "html",
    [
        '<img src="https://example.org/a.png" alt="">',
        '<link href="style.css">',
        "<style>body { background: url(a.png) }</style>",
        '<p style="background: url(//example.org)"></p>',
        "<script>fetch('/')</script>",
    ],
)
def test_the_check_sees_what_a_page_asks_for(html):
    assert not self_contained(Page(html))
    assert self_contained(Page('<p><img src="data:image/png;base64,AA==" alt=""></p>'))
