"""The parts of a report, and their rendering as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

PAGE = "page.html.jinja"
"""The template of the HTML page, next to this module, with its style sheet."""


@dataclass(frozen=True)
class Heading:
    """A section, or with level 3 a part of one. Its text is shown verbatim, like that of places and captions."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; a note is set smaller. Text between backticks is set as code."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Place:
    """One place of a table.

    Attributes:
        strong: the best of its column.
        trend: "up" or "down" colours a difference that is unlikely to be chance.
        heat: share in [0, 1] that shades the place; None does not.
    """

    text: str
    strong: bool = False
    trend: str = ""
    heat: float | None = None

    @property
    def kinds(self) -> list[str]:
        """How the place is set, in addition to its column."""
        return [*(["strong"] if self.strong else []), *self.trend.split()]


@dataclass(frozen=True)
class Table:
    """Rows of places below a head.

    Attributes:
        words, prose: columns of words and of running text, set to the left; prose may wrap.
        matrix: a small table of shaded places; several are set side by side.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Place]]
    caption: str = ""
    words: Sequence[int] = ()
    prose: Sequence[int] = ()
    matrix: bool = False

    def kinds(self, column: int) -> list[str]:
        """How a column is set."""
        return [name for name, columns in (("word", self.words), ("prose", self.prose)) if column in columns]


@dataclass(frozen=True)
class Picture:
    """An SVG whose ink is `currentColor`, so that it suits light and dark pages."""

    name: str
    svg: str
    caption: str


Block = Heading | Text | Table | Picture


@dataclass
class Document:
    """A report."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        """Append blocks."""
        self.blocks.extend(blocks)


def row(*texts: str) -> list[Place]:
    """Plain places."""
    return [Place(text) for text in texts]


def to_html(document: Document) -> str:
    """One page without external files. All text in it is escaped, whoever wrote it."""
    blocks = [(type(block).__name__, block) for block in document.blocks]
    return _page().render(title=document.title, blocks=blocks)


@cache
def _page() -> Template:
    """The template, read once; jinja2 is imported here because only a written report needs it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"anchor": _anchor, "with_code": _with_code, "drawn": Markup}
    return environment.get_template(PAGE)


def _anchor(text: str) -> str:
    """What a link within the page names: letters of any script, digits and underscores, by which tasks may differ."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _with_code(text: str) -> Markup:
    """Text that is escaped, with what is between backticks set as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def to_markdown(document: Document, *, pictures: str) -> str:
    """The same as Markdown; `pictures` is the folder of the SVG files, as seen from it."""
    return (
        "\n\n".join([f"# {escaped(document.title)}", *(_markdown(block, pictures) for block in document.blocks)]) + "\n"
    )


def _markdown(block: Block, pictures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {escaped(text)}"
        case Text(text, _):
            return prose(text)
        case Picture(name, _, caption):
            explanation = escaped(caption)
            alternative = re.sub(r"[][]", r"\\\g<0>", explanation)
            return f"![{alternative}]({pictures}/{quote(name)}.svg)\n\n{explanation}"
        case Table():
            return _markdown_table(block)


def _markdown_table(table: Table) -> str:
    left = {0, *table.words, *table.prose}
    rule = "|".join(" --- " if column in left else " ---: " for column in range(len(table.head)))
    lines = [f"| {' | '.join(map(escaped, table.head))} |", f"|{rule}|"]
    for places in table.rows:
        texts = [f"**{escaped(place.text)}**" if place.strong else escaped(place.text) for place in places]
        lines.append(f"| {' | '.join(texts)} |")
    text = "\n".join(lines)
    caption = escaped(table.caption)
    if table.matrix:
        return f"{caption}\n\n{text}"
    return f"{text}\n\n{caption}" if caption else text


MARKS = re.compile(
    r"""
    \\(?=[!-/:-@\[-`{-~])     # a backslash that would take the meaning of what follows
    | [`*|$] | ~(?=~)
    | (?<!\w)_ | _(?!\w)       # not within a word
    | (?<=\])\(                # of a link
    """,
    re.VERBOSE,
)
"""Characters with a meaning in Markdown."""


def escaped(text: str) -> str:
    """The text on one line, so that Markdown and the HTML in it show it as it is."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", re.sub(r"[\r\n]", " ", text))  # either ends a line of Markdown
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", MARKS.sub(r"\\\g<0>", text))


CODE = re.compile(r"(`[^`]+`)")
"""What is between backticks."""

OPENING = re.compile(r"^(?:(?=[#>+-])|\d+(?=[.)](?:\s|$)))")
"""The start of a line that Markdown would take as a heading, a quotation or an item of a list."""


def prose(text: str) -> str:
    """A paragraph that Markdown shows as it is, with what is between backticks set as code."""
    parts = CODE.split(re.sub(r"[\r\n]", " ", text).lstrip())
    shown = "".join(part if CODE.fullmatch(part) else escaped(part) for part in parts)
    return OPENING.sub(r"\g<0>\\", shown)


def as_code(text: str) -> str:
    """A text on one line set as code in Markdown, whatever backticks it contains."""
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"`{line}`" if len(fence) == 1 else f"{fence} {line} {fence}"


def standing_alone(svg: str) -> str:
    """The SVG as a separate file: dark lines on white, readable in light and dark mode."""
    return svg.replace("<svg ", '<svg style="color: #1f2328; background: #fff" ', 1)
