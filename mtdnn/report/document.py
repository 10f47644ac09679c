"""The parts of a report, and how they look as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --page: #fff; --head: #f6f8fa;
  --good: #1a7f37; --bad: #b3261e; --heat: 59, 130, 196; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --page: #0d1117; --head: #151b23; --good: #3fb950;
    --bad: #f47067; --heat: 88, 160, 226; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
p.note, figcaption, caption { color: var(--soft); font-size: .875rem; }
nav { margin: 1rem 0 0; font-size: .9rem; }
nav a { color: inherit; margin-right: 1.1rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .4rem; }
th, td { padding: .35rem .75rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { background: var(--head); font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; }
th:first-child, td:first-child, .word, .prose { text-align: left; }
td.prose { white-space: normal; min-width: 8rem; max-width: 30rem; overflow-wrap: anywhere; }
td.strong { font-weight: 700; }
td.up { color: var(--good); }
td.down { color: var(--bad); }
.matrix { display: inline-block; margin: .5rem 2rem 1rem 0; vertical-align: top; max-width: 100%; }
.matrix caption { caption-side: top; color: var(--ink); font-weight: 600; padding: 0 0 .4rem; }
.matrix th, .matrix td:not(:first-child) { text-align: center; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; display: block; }
"""


@dataclass(frozen=True)
class Heading:
    """A section, or with level 3 a part of one. Its text is shown as it is, like that of places and captions."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; a note is set smaller. What stands between backticks is set as code."""

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


@dataclass(frozen=True)
class Table:
    """Rows of places below a head.

    Attributes:
        words, prose: columns of words and of running text, set to the left; prose may wrap.
        matrix: a small table of shaded places; several stand side by side.
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
    """One page that needs nothing beside it."""
    body = "\n".join(_html(block) for block in document.blocks)
    heads = [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<a href="#{_anchor(text)}">{html.escape(text)}</a>' for text in heads)
    title = html.escape(document.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<nav>{links}</nav>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            anchor = f' id="{_anchor(text)}"' if level == 2 else ""
            return f"<h{level}{anchor}>{_plain(text)}</h{level}>"
        case Text(text, note):
            return f'<p class="note">{_marked(text)}</p>' if note else f"<p>{_marked(text)}</p>"
        case Picture(_, svg, caption):
            return (
                f'<figure role="img" aria-label="{html.escape(caption, quote=True)}">{svg}'
                f"<figcaption>{_plain(caption)}</figcaption></figure>"
            )
        case Table():
            return _html_table(block)


def _plain(text: str) -> str:
    """Text that may be a label or of a row: nothing in it means anything."""
    return html.escape(text, quote=False)


def _marked(text: str) -> str:
    """Text with `code` set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def _html_table(table: Table) -> str:
    head = "".join(f"<th{_class(table.kinds(n))}>{_plain(text)}</th>" for n, text in enumerate(table.head))
    lines = ("".join(_html_place(place, table.kinds(n)) for n, place in enumerate(each)) for each in table.rows)
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    caption = f"<caption>{_plain(table.caption)}</caption>" if table.caption else ""
    kind = "scroll matrix" if table.matrix else "scroll"
    inner = f"{caption}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>"
    return f'<div class="{kind}"><table>{inner}</table></div>'


def _html_place(place: Place, kinds: Sequence[str]) -> str:
    classes = [*kinds, *(["strong"] if place.strong else []), *place.trend.split()]
    shade = "" if place.heat is None else f' style="background: rgba(var(--heat), {0.75 * place.heat:.2f})"'
    return f"<td{_class(classes)}{shade}>{_plain(place.text)}</td>"


def _class(names: Sequence[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


def to_markdown(document: Document, *, pictures: str) -> str:
    """The same as Markdown; `pictures` is the folder of the SVG files, as seen from it."""
    return (
        "\n\n".join([f"# {_escaped(document.title)}", *(_markdown(block, pictures) for block in document.blocks)])
        + "\n"
    )


def _markdown(block: Block, pictures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escaped(text)}"
        case Text(text, _):
            return text
        case Picture(name, _, caption):
            told = _escaped(caption)
            alternative = re.sub(r"[][]", r"\\\g<0>", told)
            return f"![{alternative}]({pictures}/{name}.svg)\n\n{told}"
        case Table():
            return _markdown_table(block)


def _markdown_table(table: Table) -> str:
    left = {0, *table.words, *table.prose}
    rule = "|".join(" --- " if column in left else " ---: " for column in range(len(table.head)))
    lines = [f"| {' | '.join(map(_escaped, table.head))} |", f"|{rule}|"]
    for places in table.rows:
        texts = [f"**{_escaped(place.text)}**" if place.strong else _escaped(place.text) for place in places]
        lines.append(f"| {' | '.join(texts)} |")
    text = "\n".join(lines)
    caption = _escaped(table.caption)
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
"""What means something in Markdown."""


def _escaped(text: str) -> str:
    """The text on one line, so that Markdown and the HTML in it show it as it is."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.split("\n")))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", MARKS.sub(r"\\\g<0>", text))


def standing_alone(svg: str) -> str:
    """The SVG as a file of its own: dark ink on a white ground, readable in either mode."""
    return svg.replace("<svg ", '<svg style="color: #1f2328; background: #fff" ', 1)
