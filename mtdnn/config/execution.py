"""How fast a run computes, never what: the three switches of an encoder, one record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mtdnn.config.options import Frozen


class Execution(Frozen):
    """The switches of an encoder."""

    layout: Literal["auto", "packed", "padded"] = Field("auto", description="packed: no work on padding.")
    dropout: Literal["fast", "torch"] = Field("fast", description="fast: a faster generator on CPUs.")
    products: Literal["fast", "torch"] = Field("fast", description="fast: float32 by oneDNN on AMD CPUs with AVX-512.")


def with_word(value: object) -> object:
    """`packed` as `{layout: packed}`; anything else as it is."""
    return {"layout": value} if isinstance(value, str) else value


ExecutionOrWord = Annotated[Execution, BeforeValidator(with_word, json_schema_input_type=str | Execution)]


def execution_of(value: Execution | str) -> Execution:
    """The switches, of which a word gives the layout and leaves the others at their defaults.

    Raises:
        ConfigError: an unknown word.
    """
    return Execution(layout=value) if isinstance(value, str) else value  # type: ignore[arg-type]
