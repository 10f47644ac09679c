"""What attention over a packed row needs in addition to query, key and value.

Dimensions: N real tokens of the batch, A attention heads, D size of one head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtdnn.execution.layout import Layout


@dataclass(frozen=True)
class AttentionSettings:
    """The settings of one layer and one pass.

    Fields:
        layout: positions of the packed tokens.
        scale: factor of the scores before the softmax.
        dropout: probability of dropping an attention weight; 0 outside training.
        window: a token attends to tokens less than this many positions away; None: to all of its example.
        causal: whether a token attends only to itself and earlier tokens.
    """

    layout: Layout
    scale: float
    dropout: float
    window: int | None
    causal: bool = False


Attend = Callable[[Tensor, Tensor, Tensor, AttentionSettings], Tensor]
"""Query, key and value [N, A, D] → the output [N, A, D]."""


def window_mask(length: int, terms: AttentionSettings, device: torch.device) -> Tensor | None:
    """[length, length] bool, True where a token (row) attends to another one (column); None if all attend to all.

    Args:
        length: number of tokens.
        terms: settings with the window and the direction.
        device: device of the result.
    """
    window = None if terms.window is None or length <= terms.window else terms.window
    if window is None and not terms.causal:
        return None
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    seen = torch.ones_like(distance, dtype=torch.bool) if window is None else distance.abs() < window
    return seen & (distance >= 0) if terms.causal else seen
