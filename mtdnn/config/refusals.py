"""Values that a pydantic model refuses → errors with the file:line of each key, in our words."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mtdnn.config.yaml_source import KeyPath, YamlSource
from mtdnn.errors import ConfigError, Fault, Place, fault, unknown

Model = TypeVar("Model", bound=BaseModel)


MAX_SHOWN_CHARACTERS = 40
"""Longest mapping or list that a message quotes; for a longer one the message has only the place."""


def validated(model: type[Model], value: object, source: YamlSource, keys: KeyPath = ()) -> Model:
    """The value validated as an instance of a model.

    Args:
        model: the pydantic model.
        value: the value as read from YAML.
        source: the document that contains it.
        keys: path of keys to the value.
    Raises:
        ConfigError: reports every error found by pydantic, with the file:line of its key.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(refusals(error, model, source, keys)) from error


def refusals(
    error: ValidationError, model: type[BaseModel], source: YamlSource, keys: KeyPath = (), *, kind: str = "key"
) -> list[Fault]:
    """The errors found by pydantic, each with its place.

    Args:
        error: raised by the model.
        model: the pydantic model.
        source: the document that contains the values.
        keys: path of keys to the values.
        kind: what messages call a field of the model: key, or keyword of a call.
    """
    details = [detail for detail in error.errors() if not _other_member(detail, error.errors())]
    return list(dict.fromkeys(_refusal_fault(detail, model, source, keys, kind) for detail in details))


def _other_member(detail: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """Whether it says "should be a string" of a mapping in which another member of the same union found an error."""
    parent = detail["loc"][:-1]
    deeper = any(len(other["loc"]) > len(detail["loc"]) and other["loc"][: len(parent)] == parent for other in details)
    return detail["type"] == "string_type" and isinstance(detail["input"], dict) and deeper


def _refusal_fault(detail: ErrorDetails, model: type[BaseModel], source: YamlSource, keys: KeyPath, kind: str) -> Fault:
    """One pydantic error as `file:line: key: found. fix`."""
    here = (*keys, *_named_in(detail["loc"], source, keys))
    if detail["type"] in ("missing", "extra_forbidden") and here[-1:] != detail["loc"][-1:]:
        here = (*here, detail["loc"][-1])  # a key that is not in the file, or that looks like a union's member
    where, name = source.where(here), ".".join(str(key) for key in here)
    if where == Place.of_flag(name):
        name = ""
    if detail["type"] == "extra_forbidden":
        inner = here[len(keys) : -1]
        return fault(where, name, unknown("key" if inner else kind, str(here[-1]), _fields_at(model, inner)))
    if detail["type"] == "missing":
        return fault(where, name, "is missing", "Add it.")
    fix = "Put the key in quotes." if detail["type"] == "invalid_key" else ""
    return fault(where, name, refusal(detail), fix)


def refusal(detail: ErrorDetails) -> str:
    """The message of one pydantic error: the value and what is expected.

    The value is left out if it is a long mapping or list. For a missing key, pydantic's value is the enclosing one.
    """
    ours, message, given = detail["type"] == "value_error", detail["msg"].removeprefix("Value error, "), detail["input"]
    expected = message if ours else message[:1].lower() + message[1:]
    long = isinstance(given, (dict, list)) and len(repr(given)) > MAX_SHOWN_CHARACTERS
    return expected if long or detail["type"] == "missing" else f"{given!r}: {expected}"


def _named_in(loc: Iterable[str | int], source: YamlSource, keys: KeyPath) -> KeyPath:
    """The keys of a pydantic location that are in the file: without the names of union members, ours being `<name>`."""
    path: KeyPath = ()
    for part in loc:
        if str(part).startswith("<"):
            continue
        if not path or not source.value or source.holds((*keys, *path, part)):
            path = (*path, part)
    return path


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Field names of the model at `path` below `model`; follows fields that are models, optional models, mappings of
    words to models, and types that are `written_as` a model."""
    parts = iter(path)
    for part in parts:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        inner = [item for item in (annotation, *getattr(annotation, "__args__", ())) if isinstance(item, type)]
        models = [each for item in inner if issubclass(each := getattr(item, "written_as", item), BaseModel)]
        if not models:
            return []
        model = models[0]
        if typing.get_origin(annotation) is dict:
            next(parts, None)
    return list(model.model_fields)
