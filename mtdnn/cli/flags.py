"""Errors in arguments of a command's function, reported at the flag that gave the argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mtdnn.errors import ConfigError, Fault, Place


@contextmanager
def keys_as_flags(*keys: str, **renamed: str) -> Iterator[None]:
    """`stages: unknown stage …` becomes `--stages: unknown stage …`.

    Args:
        keys: arguments whose flags have the same names.
        renamed: argument → its flag, if the names differ.
    """
    flags = {**{key: key for key in keys}, **renamed}
    try:
        yield
    except ConfigError as error:
        raise ConfigError([_at_flag(each, flags) for each in error.faults]) from error


def _at_flag(found: Fault, flags: dict[str, str]) -> Fault:
    if found.place or found.key not in flags:
        return found
    return Fault(Place.of_flag(flags[found.key]), "", found.found, found.fix)
