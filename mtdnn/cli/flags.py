"""Flags: the lists in their words, and errors in a function's arguments, reported at the flag that gave one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mtdnn.errors import ConfigError, DataError, Fault, Place, fault


def flags_of(function: Callable[..., object]) -> dict[str, str]:
    """Key of an error → flag, for every argument of a command that is given as a flag.

    `task` is the key of an unknown task; its flag is --tasks where a command accepts several.
    """
    parameters = inspect.signature(function).parameters.values()
    flags = {each.name: each.name.rstrip("_") for each in parameters if each.kind is each.KEYWORD_ONLY}
    return {**({"task": "tasks"} if "tasks" in flags else {}), **flags}


@contextmanager
def keys_as_flags(**flags: str) -> Iterator[None]:
    """`stages: unknown stage …` becomes `--stages: unknown stage …`.

    Args:
        flags: key → flag.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)([_at_flag(each, flags) for each in error.faults]) from error


def _at_flag(found: Fault, flags: dict[str, str]) -> Fault:
    if found.place or found.key not in flags:
        return found
    return Fault(Place.of_flag(flags[found.key]), "", found.found, found.fix)


def names_in(words: str | None) -> list[str] | None:
    """`rte,mrpc` as a list, each name once; None stays None."""
    return None if words is None else list(dict.fromkeys(name.strip() for name in words.split(",") if name.strip()))


def some_names_in(words: str | None, *, flag: str, kind: str, fix: str) -> list[str] | None:
    """As `names_in`, of a flag that names one at least: an empty word is no choice of all.

    Args:
        words: as given.
        flag: with its dashes.
        kind: what it names.
        fix: what to do.
    Raises:
        ConfigError: no name is in the words.
    """
    names = names_in(words)
    if names == []:
        raise ConfigError(fault(flag, "", f"names no {kind}", fix))
    return names
