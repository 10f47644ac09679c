"""What pydantic says of a refused value → what was expected, and what to do, in our words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

WORDS = {
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "a text"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type", "dataclass_type", "mapping_type"),
        "a mapping of keys to values",
    ),
}
"""Pydantic's type of an error → what was expected."""

OWN = "value_error"
"""The type of an error that our validators raise; its text says what to do as well."""


def expectation(detail: ErrorDetails) -> str:
    """What was expected of a value that pydantic refused: `expected a number`."""
    kind, message = detail["type"], detail["msg"]
    if kind == OWN:
        return message.removeprefix("Value error, ")
    if kind == "too_short":
        return f"expected at least {_item(detail['ctx']['min_length'])}"
    return f"expected {WORDS[kind]}" if kind in WORDS else message[:1].lower() + message[1:]


def either(details: Sequence[ErrorDetails]) -> str:
    """What was expected of a value that no member of a union takes: `expected a whole number, 'epoch' or 'never'`."""
    words = list(dict.fromkeys(map(_member, details)))
    return f"expected {', or '.join(words)}"


def _member(detail: ErrorDetails) -> str:
    """What one member of a union expects."""
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"])
    return expectation(detail).removeprefix("expected ")


def remedy(detail: ErrorDetails, field: FieldInfo | None) -> str:
    """What to do about a value that pydantic refused; empty if our own message says it.

    Args:
        detail: pydantic's error.
        field: the field of the value, whose default is named; None: not known.
    """
    if detail["type"] == OWN:
        return ""
    if detail["type"] == "invalid_key":
        return "Put the key in quotes."
    default = "" if field is None else plain_default(field)
    return f"Give another value, or leave it out for the default, {default}." if default else "Give another value."


def plain_default(field: FieldInfo) -> str:
    """A field's default as YAML; empty if it is required, off, a group of fields, or in the description."""
    value: Any = field.default
    if field.is_required() or value in (None, (), {}) or "Default:" in (field.description or ""):
        return ""
    if isinstance(value, str):
        return value
    of_models = isinstance(value, BaseModel) or (isinstance(value, tuple) and isinstance(value[0], BaseModel))
    return "" if of_models else json.dumps(value)


def _item(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"
