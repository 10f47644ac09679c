"""Hidden states → logits.

Dimensions: N sequences, T tokens, H hidden, C outputs, K turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from mtdnn.batch import NO_WORD, Batch, on_device
from mtdnn.execution.products import Linear, linear
from mtdnn.networks.head_options import HeadOptions, PooledOptions, SanOptions
from mtdnn.registry import Registry
from mtdnn.tokens.families import is_causal

NO_TOKENS = -100.0
"""log P of a candidate without tokens."""

HEADS: Registry[type[Head]] = Registry(
    "head",
    base=lambda: Head,
    own=("forward",),
    takes=("hidden_size", "num_outputs"),
    keywords=("dropout", "activation", "word_embeddings"),
    modules=("mtdnn.networks.decoder",),
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "relu": torch.relu,
}

FAMILY_ACTIVATIONS = {"electra": "gelu", "distilbert": "relu", "deberta": "gelu", "deberta-v2": "gelu"}
"""Activation of each family's own classification head in transformers, where it is not BERT's tanh."""


def family_options(config: PretrainedConfig) -> dict[str, str]:
    """`activation`, `pooling` and `dense` of the family's own classification head in transformers.

    The heads of decoders are one linear layer on the last token, which has attended to all others.
    """
    causal = is_causal(config)
    activation = FAMILY_ACTIVATIONS.get(config.model_type, "tanh")
    return {"activation": activation, "pooling": "last" if causal else "first", "dense": "none" if causal else "pooler"}


Counterpart = Literal["sequence", "token", "generation"] | None


class Head(nn.Module):
    """Hidden states of the shared encoder → logits of one task, by `forward(hidden, batch)`.

    The constructor takes the size of the hidden states, the size of the output, `dropout`, `activation` (that of the
    encoder family's own head) and the options.

    Class attributes:
        Options: the options, a pydantic model.
        min_texts: smallest number of texts in a row.
        between_labels: weights that `init_head` does not copy, as they are specific to the labels.
        starts_new: weights that start new where the head that `init_head` names has none of that name.
        counterpart: the kind of transformers' model with the same layers: a classifier of sequences or of tokens, or an
            encoder-decoder.
        reads_only_mask: of the batch, `forward` reads only the mask, so that the head can be part of an exported graph.
    """

    Options: ClassVar[type[HeadOptions]] = HeadOptions
    min_texts: ClassVar[int] = 1
    between_labels: ClassVar[tuple[str, ...]] = ()
    starts_new: ClassVar[tuple[str, ...]] = ()
    counterpart: ClassVar[Counterpart] = None
    reads_only_mask: ClassVar[bool] = False


def initialize(layers: Sequence[nn.Linear], std: float) -> None:
    """Draw weights from N(0, std²), and set biases to 0."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@HEADS.register("pooled")
class PooledHead(Head):
    """One vector of the tokens, the first by default → dense(H, H) → activation → dropout → linear(H, C).

    It has the layers of the classification heads of BERT and its family, and exports to their
    `AutoModelForSequenceClassification` with equal logits. With `dense: none` it is dropout → linear(H, C) without
    bias, as in decoder-only families.

    Args:
        hidden_size: H.
        num_outputs: C.
        dropout: probability, before the output layer.
        activation: tanh | gelu | relu.
        options: see `PooledOptions`.
    Attributes:
        pooling: first | mean | max | last.
        dense: the first layer, or None.
    """

    Options = PooledOptions
    counterpart = "sequence"
    reads_only_mask = True
    dense: nn.Linear | None

    def __init__(
        self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str = "tanh", **options: Any
    ) -> None:
        super().__init__()
        settings = self.Options(**options)
        self.activation = ACTIVATIONS[activation]
        self.pooling = settings.pooling or "first"
        self.takes_pooler = settings.dense in (None, "pooler")
        self.dense = None if settings.dense == "none" else nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_outputs, bias=self.dense is not None)
        initialize([layer for layer in (self.dense, self.output) if layer is not None], settings.initializer_std)

    def start_from_pooler(self, pooler: Mapping[str, Tensor]) -> None:
        """Copy a pretrained pooler's `weight` [H, H] and `bias` [H] into the dense layer, unless `dense: random`."""
        if self.takes_pooler and self.dense is not None:
            self.dense.load_state_dict(dict(pooler))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [N, C] of hidden states [N, T, H]."""
        pooled = pooled_states(hidden, batch.mask, self.pooling)
        if self.dense is not None:
            pooled = self.activation(self.dense(pooled))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


def pooled_states(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[N, H]: one vector for each sequence; 0 for a sequence without tokens, except with `first`.

    Args:
        hidden: [N, T, H] hidden states.
        mask: [N, T] bool, True = a real token, on the host.
        pooling: first = the state of the first token; last = of the last real token; mean, max = over real tokens.
    """
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        places = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape).masked_fill(~mask, 0).amax(dim=1)
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, on_device(places, hidden.device)]
    counts = on_device(mask, hidden.device).unsqueeze(-1)
    if pooling == "mean":
        return hidden.masked_fill(~counts, 0.0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    largest = hidden.masked_fill(~counts, -torch.inf).amax(dim=1)
    return largest.masked_fill(~counts.any(dim=1), 0.0)


@HEADS.register("san")
class SanHead(Head):
    """Stochastic answer network: a state attends to the first text of a pair repeatedly, and predicts at each turn.

    With m_j the hidden states of the first text (premise) and h_j those of the second (hypothesis):

        s_0 = Σ_j α_j h_j       α = softmax_j(w₁ᵀ h_j)
        x_k = Σ_j β_j m_j       β = softmax_j(s_kᵀ W₂ m_j)
        P_k = softmax(W₃ [s_k; x_k; |s_k − x_k|; s_k · x_k])
        s_{k+1} = GRU(x_k, s_k)         k = 0 … K−1

    The output is the logarithm of the mean of P_0 … P_{K−1} or, if the task has a single output, the mean of the
    numbers before the softmax. In training, each turn of a row is left out of the mean with the probability
    `prediction_dropout`; one random turn is always kept. Everything is computed outside autocast.

    Source: Liu et al. 2018, arXiv 1804.07888; Liu et al. 2019, arXiv 1901.11504, section 3. Both define x_k by s_{k−1},
    which leaves x_0 undefined; the authors' code uses s_k. Different here: that code divides the kept P_k by 1 − p,
    which the softmax of the loss undoes, and takes a softmax over the single number of regression, which is 1.

    Args:
        hidden_size: H.
        num_outputs: C.
        dropout: probability, before the output layer, drawn again for each turn.
        activation: not used, since there is no hidden layer.
        options: see `SanOptions`.
    """

    Options = SanOptions
    min_texts = 2

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str, **options: Any) -> None:
        super().__init__()
        settings = self.Options(**options)
        self.turns, self.prediction_dropout = settings.turns, settings.prediction_dropout
        self.summary = nn.Linear(hidden_size, 1, bias=False)
        self.attention = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gru = nn.GRUCell(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(4 * hidden_size, num_outputs)
        initialize((self.summary, self.attention, self.output), settings.initializer_std)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [N, C] of hidden states [N, T, H]; the batch has the text of each token."""
        real, second = on_device(batch.mask, hidden.device), batch.second_text
        first = real & ~second
        with torch.autocast(hidden.device.type, enabled=False):
            memory = hidden.to(self.output.weight.dtype).masked_fill(~real.unsqueeze(-1), 0.0)
            state = attended(memory, self.summary(memory).squeeze(-1), second)
            found = self._found(memory, state, first)
            turns = [self._prediction(state, found)]
            for _ in range(self.turns - 1):
                state = self.gru(found, state)
                found = self._found(memory, state, first)
                turns.append(self._prediction(state, found))
            return averaged_turns(torch.stack(turns, dim=1), self._kept(turns[0]))

    def _found(self, memory: Tensor, state: Tensor, first: Tensor) -> Tensor:
        """x_k [N, H]."""
        return attended(memory, (memory @ self.attention(state).unsqueeze(-1)).squeeze(-1), first)

    def _prediction(self, state: Tensor, found: Tensor) -> Tensor:
        """[N, C], before the softmax."""
        features = torch.cat([state, found, (state - found).abs(), state * found], dim=-1)
        logits: Tensor = self.output(self.dropout(features))
        return logits

    def _kept(self, like: Tensor) -> Tensor:
        """[N, K] bool: the turns that count; drawn like dropout masks, from the device's default generator."""
        shape = (len(like), self.turns)
        if not self.training or self.prediction_dropout == 0:
            return torch.ones(shape, dtype=torch.bool, device=like.device)
        kept = torch.rand(shape, device=like.device) >= self.prediction_dropout
        always = torch.randint(self.turns, (len(like), 1), device=like.device)
        return kept.scatter(1, always, True)


def attended(memory: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """[N, H]: mean of the memory, weighted by the softmax of the scores over tokens that count; 0 if none counts.

    Args:
        memory: [N, T, H], the vectors to average.
        scores: [N, T], before the softmax.
        mask: [N, T] bool, True = counts.
    """
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1).masked_fill(~mask, 0.0)
    return (weights.unsqueeze(1) @ memory).squeeze(1)


def averaged_turns(turns: Tensor, kept: Tensor) -> Tensor:
    """[N, C]: log of the mean, over the kept turns, of the softmaxes of [N, K, C]; for C = 1 the mean of the numbers.

    `kept` is [N, K] bool, with at least one turn in every row.
    """
    counts = kept.sum(dim=1, keepdim=True).to(turns.dtype)
    if turns.shape[-1] == 1:
        return turns.masked_fill(~kept.unsqueeze(-1), 0.0).sum(dim=1) / counts
    log_shares = torch.log_softmax(turns, dim=-1).masked_fill(~kept.unsqueeze(-1), -torch.inf)
    return torch.logsumexp(log_shares, dim=1) - counts.log()


@HEADS.register("token")
class TokenHead(Head):
    """Every token → dropout → linear(H, C): the layers of transformers' `AutoModelForTokenClassification` for BERT.

    Args:
        hidden_size: H.
        num_outputs: C.
        dropout: probability, before the output layer.
        activation: not used, since there is no hidden layer.
        options: see `HeadOptions`.
    """

    counterpart: ClassVar[Counterpart] = "token"
    reads_only_mask: ClassVar[bool] = True

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str, **options: Any) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_outputs)
        initialize((self.output,), self.Options(**options).initializer_std)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [N, T, C] of hidden states [N, T, H]."""
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


@HEADS.register("crf")
class CrfHead(TokenHead):
    """As `token`, with a score for each pair of neighbouring tags: a linear-chain conditional random field.

    The score of tags y over the words of a sequence is Σ_w e[w, y_w] + transitions[y_{w−1}, y_w], plus `first` of the
    first tag and `last` of the last one; all three start at 0, where predictions equal those of `token`.

    Args:
        hidden_size, num_outputs, dropout, activation, options: as for `token`.
    Source: Lample et al. 2016, arXiv 1603.01360, section 2.2.
    """

    between_labels = ("transitions", "first", "last")
    counterpart = None
    reads_only_mask = False

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str, **options: Any) -> None:
        super().__init__(hidden_size, num_outputs, dropout=dropout, activation=activation, **options)
        self.transitions = nn.Parameter(torch.zeros(num_outputs, num_outputs))
        self.first = nn.Parameter(torch.zeros(num_outputs))
        self.last = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Potentials [N, T, C, C] of hidden states [N, T, H], as `mtdnn.networks.crf` reads them."""
        counts = batch.extras["words"] != NO_WORD
        begins, ends = first_of(counts), first_of(counts.flip(1)).flip(1)
        ends_of_chain = begins.unsqueeze(-1) * self.first + ends.unsqueeze(-1) * self.last
        emissions = super().forward(hidden, batch) + ends_of_chain
        return emissions.unsqueeze(2) + self.transitions * ~begins[..., None, None]


def first_of(counts: Tensor) -> Tensor:
    """[N, T] bool, True at the first token of each sequence that counts."""
    return counts & (counts.cumsum(dim=1) == 1)


@HEADS.register("span")
class SpanHead(Head):
    """Every token → dropout → linear(H, 2), with a separate output layer at the first token for "no answer".

    Args:
        hidden_size: H.
        num_outputs: 2, for the first and the last token of the answer.
        dropout: probability, before the output layers.
        activation: not used, since there is no hidden layer.
        options: see `HeadOptions`.
    Attributes:
        null_threshold: how much the null score must exceed the best answer's score to predict "no answer".
    """

    reads_only_mask = True
    null_threshold: Tensor

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str, **options: Any) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_outputs)
        self.null = nn.Linear(hidden_size, num_outputs)
        initialize((self.output, self.null), self.Options(**options).initializer_std)
        self.register_buffer("null_threshold", torch.zeros(()))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [N, T, C] of hidden states [N, T, H]."""
        dropped = self.dropout(hidden)
        return torch.cat([self.null(dropped[:, :1]), self.output(dropped[:, 1:])], dim=1)


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

    def start_from(self, pretrained: Mapping[str, Tensor]) -> None:
        """Copy the weights of a pretrained head, with the names used here; a bias the family does not have stays 0."""
        self.load_state_dict(dict(pretrained), strict=False)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [M, V] of hidden states [M, H]."""
        return self.words(hidden)

    def words(self, hidden: Tensor) -> Tensor:
        """Logits [M, V] of hidden states [M, H]."""
        output = self.norm(nn.functional.gelu(self.dense(self.dropout(hidden))))
        multiply = linear if isinstance(self.dense, Linear) else nn.functional.linear  # as the encoder's layers do
        return multiply(output, self._tied[0].weight, self.bias)


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
    between_labels = ("threshold",)

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
            roles: [N, T], 1 = a token of the pronoun, 2 = of the candidate.
        """
        first = hidden[:, 0]
        scale = hidden.shape[-1] ** -0.5
        p, c = (
            attended(hidden, (hidden @ state.unsqueeze(-1)).squeeze(-1) * scale, roles == role)
            for state, role in ((first, 1), (self.query(first), 2))
        )
        return (self.similarity(self.sum_dropout(c)) * self.sum_dropout(p)).sum(dim=-1)
