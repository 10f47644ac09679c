"""Hidden states → logits.

Dimensions: N sequences, T tokens, H hidden, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.registry import Registry

HEADS: Registry[type[nn.Module]] = Registry("head")

ACTIVATIONS = {"tanh": torch.tanh, "gelu": nn.functional.gelu, "relu": torch.relu}

FAMILY_ACTIVATIONS = {"electra": "gelu", "distilbert": "relu", "deberta": "gelu", "deberta-v2": "gelu"}
"""Activation of each family's own classification head in transformers, where it is not BERT's tanh."""


def family_activation(model_type: str) -> str:
    """The activation in the classification head of an encoder family, by its `config.model_type`."""
    return FAMILY_ACTIVATIONS.get(model_type, "tanh")


@HEADS.register("pooled")
class PooledHead(nn.Module):
    """First token → dense(H, H) → activation → dropout → linear(H, C).

    The layout of the classification heads of BERT and its family, so that it exports to their
    `AutoModelForSequenceClassification` with equal logits.

    Args:
        hidden_size: H.
        num_outputs: C.
        dropout: probability, before the output layer.
        activation: tanh | gelu | relu.
        dense: what the dense layer starts from: `pooler`, the checkpoint's pretrained pooler where it holds one (as
            transformers does for BERT), or `random`.
        initializer_std: of the weights' normal distribution, BERT's 0.02; biases start at 0.
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int,
        *,
        dropout: float,
        activation: Literal["tanh", "gelu", "relu"] = "tanh",
        dense: Literal["pooler", "random"] = "pooler",
        initializer_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.takes_pooler = dense == "pooler"
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_outputs)
        for layer in (self.dense, self.output):
            nn.init.normal_(layer.weight, std=initializer_std)
            nn.init.zeros_(layer.bias)

    def start_from_pooler(self, pooler: Mapping[str, Tensor]) -> None:
        """Copy a pretrained pooler's `weight` [H, H] and `bias` [H] into the dense layer, unless told not to."""
        if self.takes_pooler:
            self.dense.load_state_dict(dict(pooler))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [N, C] of hidden states [N, T, H]."""
        pooled = self.activation(self.dense(hidden[:, 0]))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits
