"""Lists that are written in one cell of a table, as JSON, Python or NumPy write them."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from typing import Any

from mtdnn.config.json_source import SURROGATE, json_value
from mtdnn.errors import NOWHERE, DataError

TEXT = r"'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\""
TEXTS_WITHOUT_COMMAS = re.compile(rf"\[\s*(?:{TEXT})(?:\s*(?:{TEXT}))++\s*\]", re.DOTALL)
NUMBERS_WITHOUT_COMMAS = re.compile(r"\[\s*-?\d+\.?(?:\s+-?\d+\.?)++\s*\]")
PIECES = re.compile(rf"(?P<text>{TEXT})|[^'\"]+", re.DOTALL)
BEGINS_LIKE_TEXTS = re.compile(r"\[['\"].*['\"]\]", re.DOTALL)


def written_list(text: str) -> list[Any] | None:
    """The list that a text writes; None for any other text, such as one that happens to be in brackets.

    JSON is tried first, as Python reads some of its escapes differently (`\\/`, and pairs such as `\\ud83d\\ude00`).
    NumPy writes no commas, which Python takes for one text in several parts: `['New' 'York']`.

    >>> written_list('["a", "b"]'), written_list("['a', 'b']"), written_list("['a' 'b']"), written_list("[0 3]")
    (['a', 'b'], ['a', 'b'], ['a', 'b'], [0, 3])
    """
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        return _list_or_none(json_value(text, NOWHERE))
    except DataError:
        pass
    if TEXTS_WITHOUT_COMMAS.fullmatch(text):
        return _literal(re.sub(TEXT, lambda found: f"{found.group()},", text, flags=re.DOTALL))
    if NUMBERS_WITHOUT_COMMAS.fullmatch(text):
        return _literal(",".join(text.split()).replace("[,", "[").replace(",]", "]"))
    return None if _lacks_a_comma(text) else _literal(text)


def is_broken(text: str) -> bool:
    """Whether a text is meant as a list of texts but is none: `['a' 'b', 'c']`, `['a' ... 'z']`."""
    return BEGINS_LIKE_TEXTS.fullmatch(text) is not None and written_list(text) is None


def _lacks_a_comma(text: str) -> bool:
    """Whether two texts in quotes follow each other with at most white space between them."""
    pieces = [piece for piece in PIECES.finditer(text) if piece.group().strip()]
    return any(piece["text"] and after["text"] for piece, after in pairwise(pieces))


def _literal(text: str) -> list[Any] | None:
    """The list of a Python literal; None for another text.

    `ast.literal_eval` raises TypeError for a text such as `[{[1]}]`: a set cannot hold a list.
    """
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return _list_or_none(found)


def _list_or_none(value: Any) -> list[Any] | None:
    """The value if it is a list whose texts UTF-8 can encode."""
    whole = isinstance(value, list) and not any(isinstance(each, str) and SURROGATE.search(each) for each in value)
    return value if whole else None
