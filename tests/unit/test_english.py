"""Messages, descriptions, docstrings and comments of the package, and its pages, use the field's usual words."""

import ast
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from tests.unit.test_layout import modules

WORDS = {
    r"tell|tells|telling|told": "report, say, state",
    r"taught": "trained, distilled",
    r"beside": "next to, in addition to",
    r"lies|lie|lying|lay": "is, are",
    r"stands?|stood": "is, are, represents",
    r"go(?:es)? on|going on": "continues, resumes",
    r"faults?|faulty": "error (the class Fault and the function fault keep their names)",
    r"hands? out|handed out": "returns",
    r"mends?|mended|mending": "fix, repair",
    r"kin": "similar",
    r"anew": "again",
    r"strangers?": "unknown, foreign",
}
"""Words that no message, docstring or comment has → the usual ones."""

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`]*`|^\s*\w+(?:, \w+)*: |^\s*(>>>|\.\.\.) .*")
"""Parts of a line that are code: between backticks, the names that open a line of Args, examples."""


@cache
def prose():
    """(module, line, text) of every string and comment of the package that is written for people.

    A string counts when it has a space, and no tab: others are names, keys and patterns, or rows of data.
    """
    return [(module, *each) for module, path in modules().items() for each in _prose_of(path)]


def _prose_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and " " in value and "\t" not in value:
            yield node.lineno, value
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def found(words):
    """`module:line: text` of every line of prose with one of these words."""
    pattern = re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for module, start, text in prose():
        for number, line in enumerate(text.splitlines()):
            if pattern.search(CODE.sub("", line)):
                yield f"{module}:{start + number}: {line.strip()}"


@pytest.mark.parametrize("words", WORDS)
def test_no_prose_has_an_unusual_word(words):
    assert list(found(words)) == [], f"usual: {WORDS[words]}"


ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
RECORDS = ("findings.md", "reliability.md")
"""Pages that are mostly figures of past runs, in the words of those who took them."""


def lines_of(page):
    """(number, text) of the lines of a page, without blocks of code and what is between backticks."""
    text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))
    return [(number, re.sub(r"`[^`]*`", "", line)) for number, line in enumerate(text.splitlines(), 1)]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RECORDS], ids=lambda page: page.name)
def test_no_page_has_an_unusual_word(page):
    pattern = re.compile(rf"\b(?:{'|'.join(WORDS)})\b(?!-)", re.IGNORECASE)
    assert [(number, line) for number, line in lines_of(page) if pattern.search(line)] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no token stands for 3 words", r"stands?|stood"),
        ("        faults: every fault of the block", r"faults?|faulty"),
        ("the run goes on where it was", r"go(?:es)? on|going on"),
    ],
)
def test_an_unusual_word_is_found(line, words):
    assert re.search(rf"\b(?:{words})\b", CODE.sub("", line))


@pytest.mark.parametrize("line", ["        faults: all errors, as records.", "`fault(place, key)` is a record"])
def test_names_are_not_prose(line):
    assert not re.search(r"\bfaults?\b", CODE.sub("", line))
