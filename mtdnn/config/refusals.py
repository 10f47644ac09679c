"""Values that a pydantic model refuses → errors with the file:line of each key, in our words."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mtdnn.config.expectations import either, expectation, remedy
from mtdnn.config.other_names import dotted, ours
from mtdnn.config.yaml_source import KeyPath, YamlSource
from mtdnn.errors import ConfigError, Fault, Place, did_you_mean, fault, unknown

Model = TypeVar("Model", bound=BaseModel)


WITH_KEY = ("missing", "extra_forbidden")
"""Pydantic's types of errors about keys; all others are about values."""

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
    groups: dict[Any, list[ErrorDetails]] = {}
    for number, detail in enumerate(details):
        of_key = number if detail["type"] in WITH_KEY else None  # each for itself
        here = _named_in(detail["loc"], source, keys)
        groups.setdefault((here, id(detail["input"]), of_key), []).append(detail)
    of_one = (group[0] for group in groups.values() if len(group) == 1)
    of_union = (group for group in groups.values() if len(group) > 1)
    faults = [_refusal_fault(each, model, source, keys, kind) for each in of_one]
    faults += [_union_fault(each, model, source, keys) for each in of_union]
    return list(dict.fromkeys(faults))


def _union_fault(members: Sequence[ErrorDetails], model: type[BaseModel], source: YamlSource, keys: KeyPath) -> Fault:
    """One error for a value that no member of a union takes.

    Args:
        members: pydantic's error of each member.
        model: the pydantic model.
        source: the document that contains the value.
        keys: path of keys to the model's values.
    """
    inner = _named_in(members[0]["loc"], source, keys)
    where, name = source.where((*keys, *inner)), ".".join(map(str, (*keys, *inner)))
    fix = remedy(members[0], _field_at(model, inner))
    return fault(where, "" if where == Place.of_flag(name) else name, _with_value(members[0], either(members)), fix)


def _other_member(detail: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """Whether it says "should be a string" of a mapping in which another member of the same union found an error."""
    parent = detail["loc"][:-1]
    deeper = any(len(other["loc"]) > len(detail["loc"]) and other["loc"][: len(parent)] == parent for other in details)
    return detail["type"] == "string_type" and isinstance(detail["input"], dict) and deeper


def _refusal_fault(detail: ErrorDetails, model: type[BaseModel], source: YamlSource, keys: KeyPath, kind: str) -> Fault:
    """One pydantic error as `file:line: key: found. fix`."""
    here = (*keys, *_named_in(detail["loc"], source, keys))
    if detail["type"] in WITH_KEY and here[-1:] != detail["loc"][-1:]:
        here = (*here, detail["loc"][-1])  # a key that is not in the file, or that looks like a union's member
    where, name = source.where(here), ".".join(str(key) for key in here)
    if where == Place.of_flag(name):
        name = ""
    if detail["type"] == "extra_forbidden":
        inner, known = here[len(keys) : -1], _fields_at(model, here[len(keys) : -1])
        is_run = "optimizer" in known
        instead = dotted(str(here[-1]), known) or ours(str(here[-1])) if is_run else ""
        found = unknown("key" if inner else kind, str(here[-1]), known, instead=instead)
        of_task = kind == "keyword" and "options" in known
        return fault(where, name, found, _as_option(str(here[-1]), known) if of_task else "")
    if detail["type"] == "missing":
        return fault(where, name, "is missing", "Add it.")
    return fault(where, name, refusal(detail), remedy(detail, _field_at(model, here[len(keys) :])))


def _as_option(word: str, known: Sequence[str]) -> str:
    """How a key that only some types of tasks have is given to a `TaskDef`; empty for one that seems misspelt."""
    of_some_types = ours(word, within="tasks") != ours(word)
    if did_you_mean(word, known) and not of_some_types:
        return ""
    return f"A key of its task type is given as options={{'{word}': …}}."


def refusal(detail: ErrorDetails) -> str:
    """The message of one pydantic error: the value and what is expected.

    The value is left out if it is a long mapping or list. For a missing key, pydantic's value is the enclosing one.
    """
    return "field required" if detail["type"] == "missing" else _with_value(detail, expectation(detail))


def _with_value(detail: ErrorDetails, expected: str) -> str:
    """What was expected, after the value; a long mapping or list is left out."""
    given = detail["input"]
    if isinstance(given, bool):  # of which YAML does not keep how it was written
        shown = "true (or yes, on)" if given else "false (or no, off)"
        return f"{shown}: {expected}"
    long = isinstance(given, (dict, list)) and len(repr(given)) > MAX_SHOWN_CHARACTERS
    return expected if long else f"{given!r}: {expected}"


def _named_in(loc: Iterable[str | int], source: YamlSource, keys: KeyPath) -> KeyPath:
    """The keys of a pydantic location that are in the file: without the names of union members, ours being `<name>`."""
    path: KeyPath = ()
    for part in loc:
        if str(part).startswith("<"):
            continue
        if not path or not source.value or source.holds((*keys, *path, part)):
            path = (*path, part)
    return path


def _field_at(model: type[BaseModel], path: KeyPath) -> FieldInfo | None:
    """The field at `path` below `model`; None where it is not one of a model."""
    if not path or not all(isinstance(part, str) for part in path):
        return None
    inner = _model_at(model, path[:-1])
    return None if inner is None else inner.model_fields.get(str(path[-1]))


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Names of the fields of the model at `path` below `model`, as they are written in YAML: `from`, not `from_`."""
    inner = _model_at(model, path)
    return [] if inner is None else [field.alias or name for name, field in inner.model_fields.items()]


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The model at `path` below `model`, or None; follows fields that are models, optional models, mappings of
    words to models, and types that are `written_as` a model."""
    parts = iter(path)
    for part in parts:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        inner = [item for item in (annotation, *getattr(annotation, "__args__", ())) if isinstance(item, type)]
        models = [each for item in inner if issubclass(each := getattr(item, "written_as", item), BaseModel)]
        if not models:
            return None
        model = models[0]
        if typing.get_origin(annotation) is dict:
            next(parts, None)
    return model
