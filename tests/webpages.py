"""What an HTML page holds and what it would ask the network for, for tests of reports."""

import re
from html.parser import HTMLParser

_FETCHED = ("src", "srcset", "href", "action", "poster", "data", "background")
_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.headings, self.tables, self.images = [], [], [], []
        self.links, self.styles, self.warnings = [], "", []
        self.meta, self.words = {}, []
        self._open, self._into = [], None
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in _VOID:
            self._open.append(tag)
        self.links += [value for name, value in attrs if name in _FETCHED]
        self.styles += found.get("style") or ""
        if tag == "meta" and "name" in found:
            self.meta[found["name"]] = found["content"]
        elif tag == "img":
            self.images.append((found["alt"], found["src"]))
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "p" and found.get("class") == "warning":
            self.warnings.append("")
        self._into = found.get("class")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        within = self._open[-1] if self._open else ""
        if within == "style":
            self.styles += data
            return
        self.words.append(data)
        if within in ("h1", "h2", "h3", "h4"):
            self.headings[-1] += data
        elif within in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif within == "p" and self._into == "warning":
            self.warnings[-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def table(self, *heading):
        """Rows of the table with these column heads."""
        (found,) = (each[1:] for each in self.tables if each[0] == list(heading))
        return found


def self_contained(page):
    """Whether a page asks nobody for anything: what it shows is in it, and no script runs."""
    fetched = [link for link in page.links if not link.startswith("data:image/")]
    in_style = re.findall(r"url\(|@import", page.styles)
    return not (fetched or in_style or {"script", "link", "iframe", "object"} & set(page.tags))
