"""Options of the heads; separate from the heads, so that definitions are checked without PyTorch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtdnn.config.options import NoOptions, Options


class HeadOptions(Options):
    """Options of every head."""

    initializer_std: float = Field(0.02, ge=0, description="Standard deviation of new weights; biases start at 0.")


class PooledOptions(HeadOptions):
    """Options of `pooled`."""

    pooling: Literal["first", "mean", "max", "last"] | None = Field(
        None, description="Which tokens represent the text. Default: first, or last for a decoder-only family."
    )
    activation: Literal["tanh", "gelu", "relu"] | None = Field(
        None, description="Activation of the dense layer. Default: that of the encoder family's own head."
    )
    dense: Literal["pooler", "random", "none"] | None = Field(
        None,
        description="Start of the dense layer: the checkpoint's pooler, if it has one, or random; none: no such layer. "
        "Default: pooler, or none for a decoder-only family.",
    )


class SanOptions(HeadOptions):
    """Options of `san`."""

    turns: int = Field(5, ge=1, description="K, predictions that are averaged; 1: a single step of attention.")
    prediction_dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of the turns left out of the average in training; 0 turns it off."
    )


HEAD_OPTIONS: dict[str, type[Options]] = {
    "decoder": NoOptions,
    "pooled": PooledOptions,
    "san": SanOptions,
    **dict.fromkeys(("token", "crf", "span", "masked_lm", "hybrid"), HeadOptions),
}
"""Registered head → its options."""

READS_PAIRS = ("san",)
"""Heads that need rows of two texts."""
