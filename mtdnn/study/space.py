"""The space that `mtdnn tune` searches: dotted keys of a run, each with a range or a list of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard

from mtdnn.config.run import run_source
from mtdnn.config.yaml_source import YamlSource, read_yaml
from mtdnn.errors import ConfigError, Fault, fault, unknown
from mtdnn.runs.plug_ins import checked_run, resolved

RANGE_KEYS = ("low", "high", "log", "step")

SourceWith = Callable[[Mapping[str, Any]], YamlSource]
"""Values of dotted keys → the YAML of a run with them."""


def read_space(path: str | Path, run: str) -> dict[str, Any]:
    """The space in a YAML file: dotted keys of a run, each with a list of values or `{low, high, log, step}`.

    Args:
        path: the file.
        run: the run's YAML; both ends of every range, and every value of a list, must be valid in it.
    Raises:
        ConfigError: every error of the run and of the space, with its line.
    """
    source_with: SourceWith = partial(_source, run, {})
    of_run = _faults_with(source_with, {})
    if of_run:
        source_with = partial(_source, None, _without(run, of_run))
    try:
        source = read_yaml(path)
    except ConfigError as error:
        raise ConfigError([*of_run, *error.faults]) from error
    faults: list[Fault] = []
    if not source.value:
        faults.append(fault("", "", "no key to search", "Name one, such as optimizer.lr: {low: 1e-5, high: 1e-4}."))
    for key, given in source.value.items():
        found = (
            _space_faults(key, given)
            or _value_faults(source_with, key, _ends(given))
            or _fraction_faults(source_with, key, given)
        )
        faults += [each.at(source.where((str(key),))) for each in found]
    if of_run or faults:
        raise ConfigError([*of_run, *faults])
    return dict(source.value)


def _source(run: str | None, options: Mapping[str, Any], overrides: Mapping[str, Any]) -> YamlSource:
    """A run's YAML, or options in place of one, with values of some dotted keys replaced.

    Args:
        run: the file; None: options only.
        options: values of whole keys.
        overrides: dotted key → value.
    """
    return run_source(run, {**deepcopy(dict(options)), **overrides})  # a dotted key is set within its mapping


def _faults_with(source_with: SourceWith, overrides: Mapping[str, Any]) -> list[Fault]:
    """Errors of a run with values of some keys replaced."""
    try:
        checked_run(source_with(overrides))
    except ConfigError as error:
        return list(error.faults)
    return []


def _without(run: str, faults: Sequence[Fault]) -> dict[str, Any]:
    """The keys of a run's YAML that have no error, and made-up values of those that a run must have."""
    wrong = {each.key.split(".")[0] for each in faults}
    try:
        given = run_source(run).value
    except ConfigError:
        given = {}
    needed = dict.fromkeys(("tasks", "data", "output", "encoder"), "unknown")
    return {**needed, **{key: value for key, value in given.items() if str(key) == key and key not in wrong}}


def _space_faults(key: object, given: object) -> list[Fault]:
    if not isinstance(key, str):
        return [fault("", str(key), "is not a text", "Name a key of the run, such as optimizer.lr.")]
    if key.split(".")[0] in ("output", "tasks", "data"):
        return [fault("", key, "is a path and not a setting", "Leave it out.")]
    if isinstance(given, list):
        plain = all(each is None or isinstance(each, (str, int, float, bool)) for each in given)
        return [] if given and plain else [fault("", key, f"{given!r}", "Give a list of numbers or words.")]
    if not isinstance(given, dict):
        return [fault("", key, f"{given!r}", "Give a list of values, or {low: …, high: …}.")]
    return _range_faults(key, given)


def _range_faults(key: str, given: Mapping[Any, Any]) -> list[Fault]:
    """Errors of a range, which Optuna would report during the search, without the key."""
    faults = [fault("", key, unknown("key", str(each), RANGE_KEYS)) for each in given if each not in RANGE_KEYS]
    low, high, log, step = (given.get(word) for word in RANGE_KEYS)
    if not _is_number(low) or not _is_number(high) or not low < high:
        faults.append(fault("", key, f"low {low!r}, high {high!r}", "Give two numbers, the lower one first."))
    elif log and low <= 0:
        faults.append(fault("", key, f"low {low!r} with log", "Give a number above 0."))
    if not isinstance(log, (bool, NoneType)):
        faults.append(fault("", key, f"log {log!r}", "Give true or false."))
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and not (_is_number(step) and step > 0 and (isinstance(step, int) or not whole)):
        fix = "Give a whole number above 0, as low and high are." if whole else "Give a number above 0."
        faults.append(fault("", key, f"step {step!r}", fix))
    elif step is not None and log is True:
        faults.append(fault("", key, f"step {step!r} with log", "Leave out one of them."))
    return faults


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _ends(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given["low"], given["high"]]


def _value_faults(source_with: SourceWith, key: str, values: Sequence[Any]) -> list[Fault]:
    """Errors of a run with each of some values of a key; an unknown key is reported once.

    Args:
        source_with: the run with values of dotted keys.
        key: dotted key.
        values: its values, one at a time.
    """
    found = dict[Fault, Fault]()
    for value in values:
        for each in _faults_with(source_with, {key: value}):
            found.setdefault(each, fault("", key, f"{value!r}: {each}"))
    return list(found.values())


def _fraction_faults(source_with: SourceWith, key: str, given: Any) -> list[Fault]:
    """An error of a range of whole numbers, without a step, of a key that takes fractions: either may be meant.

    Args:
        source_with: the run with values of dotted keys.
        key: dotted key.
        given: its range or list.
    """
    if not isinstance(given, dict) or given.get("step") or not all(isinstance(each, int) for each in _ends(given)):
        return []
    low, high = _ends(given)
    value: Any = resolved(checked_run(source_with({key: low}))).model_dump(mode="json", by_alias=True)
    for word in key.split("."):
        value = value.get(word) if isinstance(value, Mapping) else None
    if not isinstance(value, float):
        return []
    whole = "" if given.get("log") else ", or add `step: 1` to search whole numbers"
    fix = f"Write {{low: {low}.0, high: {high}.0}} to search those{whole}."
    return [fault("", key, f"low {low}, high {high}, but the key takes fractions", fix)]
