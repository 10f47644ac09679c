"""Heads that predict words: their output layer is tied to the encoder's word embeddings.

Dimensions: N sequences, T tokens, H hidden, M masked tokens, V words, E size of a word embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.execution.products import Linear, linear
from mtdnn.execution.sharding import gathered
from mtdnn.networks.heads import HEADS, Head, attended, initialize
from mtdnn.tokens.candidates import CANDIDATE, PRONOUN

NO_TOKENS = -100.0
"""log P of a candidate without tokens."""


@HEADS.register("masked_lm")
class MaskedLMHead(Head):
    """Tokens → dense(H, E) → GELU → LayerNorm → product with the encoder's word embeddings [V, E], plus a bias.

    It has the layers of BERT and similar families, and can start from their pretrained weights. The embeddings belong
    to the encoder: they are not parameters of this head, so that they are saved, regularized and moved once.

    Args:
        hidden_size: H.
        word_embeddings: those of the encoder.
        dropout: probability, before the dense layer; BERT's head has none.
        options: see `HeadOptions`.
    """

    starts_as = "masked_lm"

    def __init__(
        self, hidden_size: int, word_embeddings: nn.Embedding, *, dropout: float = 0.0, **options: Any
    ) -> None:
        super().__init__()
        size = word_embeddings.embedding_dim
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, size)
        self.norm = nn.LayerNorm(size, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(word_embeddings.num_embeddings))
        initialize((self.dense,), self.Options(**options).initializer_std)
        self._tied = (word_embeddings,)  # in a tuple, so that it is not registered as a submodule

    def start_from(self, pretrained: Mapping[str, Tensor]) -> bool:
        """Copy the weights of a pretrained head, with the names used here; a bias the family does not have stays 0."""
        self.load_state_dict(dict(pretrained), strict=False)
        return True

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [M, V] of hidden states [M, H]."""
        return self.words(hidden)

    def words(self, hidden: Tensor) -> Tensor:
        """Logits [M, V] of hidden states [M, H]."""
        output = self.norm(nn.functional.gelu(self.dense(self.dropout(hidden))))
        multiply = linear if isinstance(self.dense, Linear) else nn.functional.linear  # as the encoder's layers do
        return multiply(output, gathered(self._tied[0].weight), self.bias)


@HEADS.register("hybrid")
class HybridHead(MaskedLMHead):
    """The layers of `masked_lm`, and a bilinear similarity of a candidate and a pronoun: cᵀ W p.

    c and p are sums of hidden states, over the tokens of the candidate and of the pronoun, weighted by the softmax of
    the scaled product with the state of the first token, for c after a linear layer.

    Args:
        hidden_size: H.
        word_embeddings: those of the encoder.
        dropout: probability, of c and p; the language model has none, as BERT's.
        options: see `HeadOptions`.
    Source: He et al. 2019, arXiv 1907.11983, section 2; the authors' `hnn/src/apps/hnn_model.py`.
    """

    starts_new = ("query.weight", "similarity.weight")

    def __init__(
        self, hidden_size: int, word_embeddings: nn.Embedding, *, dropout: float = 0.0, **options: Any
    ) -> None:
        super().__init__(hidden_size, word_embeddings, **options)
        self.sum_dropout = nn.Dropout(dropout)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.similarity = nn.Linear(hidden_size, hidden_size, bias=False)
        initialize((self.query, self.similarity), self.Options(**options).initializer_std)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[N / 2, 2]: log P and similarity of each candidate, from hidden states [N, T, H].

        The batch's sequences are, by turns, a text with masks and a text with a candidate, see `Coreference.encode`.
        """
        words = self.log_probabilities(hidden[0::2], batch.extras["places"], batch.extras["targets"])
        return torch.stack([words, self.similarities(hidden[1::2], batch.extras["roles"][1::2])], dim=-1)

    def log_probabilities(self, hidden: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        """[N]: the mean over a sequence's masks of the log probability of the token under it; NO_TOKENS without one.

        Args:
            hidden: [N, T, H].
            places: [M] positions of the masks in the flattened [N·T].
            targets: [M] ids of the tokens under them.
        """
        logits = self.words(hidden.flatten(0, 1).index_select(0, places))
        terms = -nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        rows = places // hidden.shape[1]
        counts = terms.new_zeros(len(hidden)).index_add(0, rows, torch.ones_like(terms))
        means = terms.new_zeros(len(hidden)).index_add(0, rows, terms) / counts.clamp(min=1)
        return torch.where(counts > 0, means, NO_TOKENS)

    def similarities(self, hidden: Tensor, roles: Tensor) -> Tensor:
        """[N]: cᵀ W p of each sequence.

        Args:
            hidden: [N, T, H].
            roles: [N, T], PRONOUN or CANDIDATE at their tokens, else 0.
        """
        first = hidden[:, 0]
        scale = hidden.shape[-1] ** -0.5
        p, c = (
            attended(hidden, (hidden @ state.unsqueeze(-1)).squeeze(-1) * scale, roles == role)
            for state, role in ((first, PRONOUN), (self.query(first), CANDIDATE))
        )
        return (self.similarity(self.sum_dropout(c)) * self.sum_dropout(p)).sum(dim=-1)
