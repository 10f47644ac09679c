"""Options that are numbers, alone or in a unit of the run: `1e-5` or `{relative: 0.05}`, `20` or `{fraction: 0.1}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Context
from fractions import Fraction
from typing import Annotated, cast

from pydantic import BeforeValidator, Field

from mtdnn.config.options import Options


def _amount(value: object, unit: str) -> tuple[float, bool]:
    """The number given, alone or as `{unit: number}`, and whether it is in the unit; NaN for anything else."""
    in_unit = isinstance(value, Mapping) and set(value) == {unit}
    number = cast(Mapping[str, object], value)[unit] if in_unit else value
    try:
        return (math.nan if isinstance(number, bool) else float(cast(float, number))), in_unit  # YAML: 1e-5 is a text
    except (TypeError, ValueError, OverflowError):
        return math.nan, in_unit


class RelativeSize(Options):
    """A size in units of the root mean square of the encoder's word embeddings."""

    relative: float = Field(description="In units of the root mean square of the word embeddings.")


def _size(value: object) -> float | RelativeSize:
    """A number, or `{relative: number}`; neither negative nor infinite."""
    if isinstance(value, RelativeSize):
        return value
    size, relative = _amount(value, "relative")
    if not (math.isfinite(size) and size >= 0):
        raise ValueError("expected a number ≥ 0, or {relative: number} in units of the embeddings' root mean square")
    return RelativeSize(relative=size) if relative else size


def _positive(value: object) -> object:
    if (value.relative if isinstance(value, RelativeSize) else value) == 0:
        raise ValueError("expected a number above 0; to turn the regularizer off, give weight: 0")
    return value


def resolved(size: float | RelativeSize, embedding_rms: float) -> float:
    """The size as a plain number."""
    return size.relative * embedding_rms if isinstance(size, RelativeSize) else size


SizeOrZero = Annotated[float | RelativeSize, BeforeValidator(_size)]
Size = Annotated[float | RelativeSize, BeforeValidator(lambda value: _positive(_size(value)))]


def rounded_up(size: float) -> float:
    """The size rounded up to two significant digits."""
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal_from_float(size))


class PartOfRun(Options):
    """A number of optimizer steps, as a fraction of the run's."""

    fraction: float = Field(description="Of the run's optimizer steps.")

    def steps(self, total_steps: int) -> float:
        """The fraction of a run of `total_steps`, in optimizer steps."""
        return self.fraction * total_steps

    def whole_steps(self, total_steps: int) -> int:
        """The same, rounded down, with the fraction as a decimal number: 0.29 of 100 steps are 29, not 28."""
        return math.floor(Fraction(str(self.fraction)) * total_steps)


def _steps_or_part(value: object) -> float | PartOfRun:
    """A number, or `{fraction: number}`; NaN for anything else."""
    if isinstance(value, PartOfRun):
        return value
    steps, is_part = _amount(value, "fraction")
    return PartOfRun(fraction=steps) if is_part else steps


def _half_life(value: object) -> float | PartOfRun:
    """A number above 0, or `{fraction: number}` above 0."""
    found = _steps_or_part(value)
    number = found.fraction if isinstance(found, PartOfRun) else found
    if not (math.isfinite(number) and number > 0):
        raise ValueError("expected a number of optimizer steps above 0, or {fraction: number} of the run's")
    return found


def _start(value: object) -> float | PartOfRun:
    """A whole number from 0, or `{fraction: number}` from 0 up to but not including 1."""
    found = _steps_or_part(value)
    valid = 0 <= found.fraction < 1 if isinstance(found, PartOfRun) else found >= 0 and found.is_integer()
    if not valid:
        raise ValueError("expected a whole number of optimizer steps, or {fraction: number below 1} of the run's")
    return found


HalfLife = Annotated[float | PartOfRun, BeforeValidator(_half_life)]
Start = Annotated[float | PartOfRun, BeforeValidator(_start)]
