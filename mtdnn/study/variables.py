"""Variables of a study's YAML: their values, and `${name}` replaced by them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtdnn.config.yaml_source import YamlSource
from mtdnn.errors import ConfigError, Fault, fault, unknown
from mtdnn.study.definition import Options

VARIABLE = re.compile(r"\$\{([^{}]*)\}")

OWN_FLAGS = ("encoder", "data")
"""Variables that `mtdnn study` has a flag for; the others are given as `--variables.name`."""


def as_in_yaml(text: str) -> Any:
    """The value of a variable given as a flag, as the same text in a study's YAML: cells are known by their values.

    A text that a number would not be written as, such as 007 or 1e3, stays a text.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    written = json.dumps(value) == text and isinstance(value, (int, float))
    return value if written else text


def declared_variables(source: YamlSource) -> Options:
    """The variables that a study declares; raises ConfigError if they are no names with values."""
    declared = source.value.get("variables") or {}
    if not isinstance(declared, dict) or not all(isinstance(name, str) for name in declared):
        fix = "Declare each as `name: value`, or `name:` alone if it is to be given."
        raise ConfigError(fault(source.where(("variables",)), "variables", "not a mapping of names to values", fix))
    return declared


def variable_values(source: YamlSource, declared: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """Name → value; ConfigError for a name that is not declared, or has no value."""
    if not isinstance(given, Mapping):
        raise ConfigError(fault("", "variables", f"{given!r} is no mapping", "Give values by name: {'data': 'rows'}."))
    faults = []
    for name in given:
        if name not in declared:
            found = unknown("variable", name, declared)
            faults.append(fault(flag_of(name), "", found, f"{source.path} declares its variables at the top."))
    values = {**declared, **given}
    for name, value in values.items():
        if value is None:
            where, key = source.where(("variables", name)), f"variables.{name}"
            faults.append(fault(where, key, "no value", f"Give {flag_of(name)}."))
    if faults:
        raise ConfigError(faults)
    return {"here": str(Path(source.path).parent), **values}


def flag_of(name: str) -> str:
    return f"--{name}" if name in OWN_FLAGS else f"--variables.{name}"


def filled(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with every ${name} replaced; as the whole text it keeps its type."""
    if isinstance(value, dict):
        return {filled(key, values): filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    alone = VARIABLE.fullmatch(value)
    if alone and alone[1] in values:
        return values[alone[1]]
    return VARIABLE.sub(lambda found: str(values.get(found[1], found[0])), value)


def unknown_variables(key: str, value: Any, known: Collection[str]) -> list[Fault]:
    """An error for each ${name} within an option that is neither a variable nor an axis of the stage.

    Args:
        key: the option.
        value: its value, before variables are replaced.
        known: the names that exist.
    """
    names = dict.fromkeys(name for text in _texts_in(value) for name in VARIABLE.findall(text) if name not in known)
    fix = "Declare it under `variables`, or use the name of an axis of this stage."
    return [fault("", key, unknown("variable", name, sorted(known)), fix) for name in names]


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value:
            yield from _texts_in(inner)
        for inner in value.values() if isinstance(value, dict) else ():
            yield from _texts_in(inner)
