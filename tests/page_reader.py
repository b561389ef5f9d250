"""Read report.html as a browser would: its elements, their texts, and what is stored in it."""

import base64
import gzip
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "col", "source"}


def plain(columns):
    """Columns of a data set as lists, of text too."""
    return {
        name: [values["texts"][place] for place in values["which"]] if isinstance(values, dict) else values
        for name, values in columns.items()
    }


@dataclass
class Element:
    """tag, attributes and all text inside, that of inner elements too, but for scripts and styles."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    inside: tuple[str, ...] = ()  # tags of the elements around it


@dataclass
class PageReader(HTMLParser):
    """elements: every one, in the order of the page."""

    html: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []
        self.feed(self.html)
        self.close()
        assert not self._open, [element.tag for element in self._open]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs}, inside=tuple(e.tag for e in self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open[-1].tag == tag, (self._open[-1], tag)
        self._open.pop()

    def handle_data(self, data):
        holders = self._open[-1:] if self._open and self._open[-1].tag in ("script", "style") else self._open
        for element in holders:
            element.text += data

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [e for e in self.elements if e.tag == tag and wanted.items() <= e.attributes.items()]

    def by_id(self, name):
        (element,) = (e for e in self.elements if e.attributes.get("id") == name)
        return element

    @property
    def scripts(self):
        """Scripts that a browser runs, not what is stored in elements of that name."""
        return [e for e in self.all("script") if "type" not in e.attributes]

    def stored(self, name):
        """What is stored under an id: bytes."""
        return gzip.decompress(base64.b64decode(self.by_id(name).text, validate=True))

    @property
    def charts(self):
        """{"spec", "data"} by chart."""
        return json.loads(self.stored("specs"))["charts"]

    def data_of(self, chart):
        """Columns of a chart's data sets, by name."""
        return {name: plain(json.loads(self.stored(name))) for name in self.charts[chart]["data"]}

    def table(self, name):
        """The CSV that the page offers for a table."""
        (button,) = self.all("button", data_name=name)
        return self.stored(f"{button.attributes['data-table']}-csv").decode()
