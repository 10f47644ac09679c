"""The switches of an encoder that change its speed, but not its results."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mtdnn.config.options import Frozen


class Execution(Frozen):
    """The speed switches of an encoder."""

    layout: Literal["auto", "packed", "padded"] = Field("auto", description="packed: no computation on padding.")
    dropout: Literal["fast", "torch"] = Field("fast", description="fast: a faster random generator on CPUs.")
    products: Literal["fast", "torch"] = Field(
        "fast", description="fast: on CPUs by oneDNN, and bf16 runs in float32, where quicker."
    )
    attention: Literal["auto", "kernel", "squares", "flex", "padded"] = Field(
        "auto", description="Of packed rows on GPUs: see `gpu.md`."
    )
    deterministic: bool = Field(False, description="On GPUs: sums in a fixed order, the same bits in every run.")


def with_word(value: object) -> object:
    """`packed` as `{layout: packed}`; other values unchanged."""
    return {"layout": value} if isinstance(value, str) else value


ExecutionOrWord = Annotated[Execution, BeforeValidator(with_word, json_schema_input_type=str | Execution)]


def execution_of(value: Execution | str) -> Execution:
    """The switches from a record, or from a word for the layout with defaults for the others.

    Raises:
        ConfigError: an unknown word.
    """
    return Execution(layout=value) if isinstance(value, str) else value  # type: ignore[arg-type]
