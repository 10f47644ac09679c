"""Hidden states → logits.

Dimensions: N sequences, T tokens, H hidden, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.registry import Registry

HEADS: Registry[type[nn.Module]] = Registry("head")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "relu": torch.relu,
}

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


@HEADS.register("token")
class TokenHead(nn.Module):
    """Every token → dropout → linear(H, C): the layout of transformers' `AutoModelForTokenClassification` of BERT.

    Args:
        hidden_size: H.
        num_outputs: C.
        dropout: probability, before the output layer.
        activation: not used, since there is no hidden layer.
        initializer_std: of the weights' normal distribution; biases start at 0.
    """

    def __init__(
        self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str, initializer_std: float = 0.02
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_outputs)
        nn.init.normal_(self.output.weight, std=initializer_std)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [N, T, C] of hidden states [N, T, H]."""
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


@HEADS.register("span")
class SpanHead(nn.Module):
    """Every token → dropout → linear(H, 2), with an output layer of its own for "no answer" at the first token.

    Args:
        hidden_size: H.
        num_outputs: 2, for the first and the last token of the answer.
        dropout: probability, before the output layers.
        activation: not used, since there is no hidden layer.
        initializer_std: of the weights' normal distribution; biases start at 0.
    Attributes:
        null_threshold: by how much the null score must exceed that of the best answer to be preferred.
    """

    null_threshold: Tensor

    def __init__(
        self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str, initializer_std: float = 0.02
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_outputs)
        self.null = nn.Linear(hidden_size, num_outputs)
        for layer in (self.output, self.null):
            nn.init.normal_(layer.weight, std=initializer_std)
            nn.init.zeros_(layer.bias)
        self.register_buffer("null_threshold", torch.zeros(()))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [N, T, C] of hidden states [N, T, H]."""
        dropped = self.dropout(hidden)
        return torch.cat([self.null(dropped[:, :1]), self.output(dropped[:, 1:])], dim=1)


@HEADS.register("masked_lm")
class MaskedLMHead(nn.Module):
    """Tokens → dense(H, E) → GELU → LayerNorm → product with the encoder's own word embeddings [V, E], plus a bias.

    The layout of BERT and its kin, whose pretrained layer it can start from. The embeddings stay the encoder's: they
    are not among this head's parameters, so that they are saved, regularized and moved once.

    Args:
        hidden_size: H.
        word_embeddings: the encoder's.
        dropout: probability, before the dense layer; BERT's head has none.
        initializer_std: of the dense weights' normal distribution; biases start at 0.
    """

    def __init__(
        self, hidden_size: int, word_embeddings: nn.Embedding, *, dropout: float = 0.0, initializer_std: float = 0.02
    ) -> None:
        super().__init__()
        size = word_embeddings.embedding_dim
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, size)
        self.norm = nn.LayerNorm(size, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(word_embeddings.num_embeddings))
        nn.init.normal_(self.dense.weight, std=initializer_std)
        nn.init.zeros_(self.dense.bias)
        self._tied = (word_embeddings,)  # in a tuple, so that it does not become a part of this module

    def start_from(self, pretrained: Mapping[str, Tensor]) -> None:
        """Copy the weights of a pretrained head, named as here; a bias that the family does without stays 0."""
        self.load_state_dict(dict(pretrained), strict=False)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [M, V] of hidden states [M, H]."""
        output = self.norm(nn.functional.gelu(self.dense(self.dropout(hidden))))
        return nn.functional.linear(output, self._tied[0].weight, self.bias)
