"""Types of fields that are words: labels, names of columns, splits and tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator


def _tuple_of_words(value: object) -> object:
    """A tuple of words from one word, a number (labels such as 0 and 1) or a list of them.

    YAML reads an unquoted `yes` or `off` as a boolean; the word cannot be recovered, so a boolean is an error.
    """
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_word(item) for item in items)


def _word(item: object) -> object:
    if isinstance(item, bool):
        raise ValueError("YAML reads yes/no/on/off/true/false without quotes as booleans; put the word in quotes")
    return str(item) if isinstance(item, (int, float)) else item


def _words_to_words(value: object) -> object:
    """As `_tuple_of_words`, for the keys and values of a mapping of labels."""
    return {_word(key): _word(item) for key, item in value.items()} if isinstance(value, dict) else value


def words_as_keys(value: object) -> object:
    """A mapping whose keys are words, of one with numbers such as 0 and 1 among them."""
    return {_word(key): item for key, item in value.items()} if isinstance(value, dict) else value


Word = str | int | float
Words = Annotated[tuple[str, ...], BeforeValidator(_tuple_of_words, json_schema_input_type=Word | list[Word])]
WordToWord = Annotated[dict[str, str], BeforeValidator(_words_to_words, json_schema_input_type=dict[str, Word])]
