"""Hidden states → logits: what every head has, and the heads of a linear layer or two.

`san.py`, `word_heads.py` and `decoder.py` have the others. Dimensions: N sequences, T tokens, H hidden, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from mtdnn.batch import NO_WORD, Batch, on_device
from mtdnn.networks.head_options import HeadOptions, PooledOptions
from mtdnn.registry import Registry
from mtdnn.tokens.families import is_causal

HEADS: Registry[type[Head]] = Registry(
    "head",
    base=lambda: Head,
    own=("forward",),
    takes=("hidden_size", "num_outputs"),
    keywords=("dropout", "activation", "word_embeddings"),
    modules=("mtdnn.networks.san", "mtdnn.networks.word_heads", "mtdnn.networks.decoder"),
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


Counterpart = Literal["sequence", "token", "encoder_decoder"] | None
StartsAs = Literal["pooler", "masked_lm", "decoder"] | None


class Head(nn.Module):
    """Hidden states of the shared encoder → logits of one task, by `forward(hidden, batch)`.

    The constructor takes the size of the hidden states, the size of the output, `dropout`, `activation` (that of the
    encoder family's own head) and the options.

    Class attributes:
        Options: the options, a pydantic model.
        min_texts: smallest number of texts in a row.
        between_labels: weights that `init_head` does not copy, as they are specific to the labels.
        starts_new: weights that start new where the head that `init_head` names has none of that name.
        starts_as: what its `start_from` takes: the pooler in the files of the encoder, the layers for masked words, or
            the decoder; None: its weights always start at random.
        counterpart: the kind of transformers' model with the same layers: a classifier of sequences or of tokens, or an
            encoder-decoder.
        returns_chains: for sequence labelling: its output is the potentials [N, T, C, C] of chains of tags (`crf.py`).
        reads_only_mask: of the batch, `forward` reads only the mask, so that the head can be part of an exported graph.
    """

    Options: ClassVar[type[HeadOptions]] = HeadOptions
    min_texts: ClassVar[int] = 1
    between_labels: ClassVar[tuple[str, ...]] = ()
    starts_new: ClassVar[tuple[str, ...]] = ()
    starts_as: ClassVar[StartsAs] = None
    counterpart: ClassVar[Counterpart] = None
    returns_chains: ClassVar[bool] = False
    reads_only_mask: ClassVar[bool] = False

    def start_from(self, pretrained: Mapping[str, Tensor]) -> bool:
        """Copy pretrained weights of the kind `starts_as`; False, and no change, if they are not of this head.

        Args:
            pretrained: name → weight, named as the kind has them.
        """
        return False


def add_tuned(head: nn.Module, name: str, value: Tensor) -> None:
    """Give a head a buffer whose value is chosen on the dev split: every checkpoint has it, `init_head` leaves it out.

    Args:
        head: of a task.
        name: of the buffer.
        value: until it is chosen.
    """
    head.register_buffer(name, value)
    head.between_labels = (*getattr(head, "between_labels", ()), name)  # type: ignore[assignment]


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
    starts_as = "pooler"
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

    def start_from(self, pretrained: Mapping[str, Tensor]) -> bool:
        """Copy a pretrained pooler's `weight` [H, H] and `bias` [H] into the dense layer, unless `dense: random`."""
        if not self.takes_pooler or self.dense is None:
            return False
        self.dense.load_state_dict(dict(pretrained))
        return True

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


def attended(memory: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """[N, H]: mean of the memory, weighted by the softmax of the scores over tokens that count; 0 if none counts.

    Args:
        memory: [N, T, H], the vectors to average.
        scores: [N, T], before the softmax.
        mask: [N, T] bool, True = counts.
    """
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1).masked_fill(~mask, 0.0)
    return (weights.unsqueeze(1) @ memory).squeeze(1)


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
    returns_chains = True
    reads_only_mask = False

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float, activation: str, **options: Any) -> None:
        super().__init__(hidden_size, num_outputs, dropout=dropout, activation=activation, **options)
        self.transitions = nn.Parameter(torch.zeros(num_outputs, num_outputs))
        self.first = nn.Parameter(torch.zeros(num_outputs))
        self.last = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Potentials [N, T, C, C] of hidden states [N, T, H], as `mtdnn.networks.crf` reads them."""
        counts = batch.extras["words"] != NO_WORD
        begins, ends = first_counted(counts), first_counted(counts.flip(1)).flip(1)
        ends_of_chain = begins.unsqueeze(-1) * self.first + ends.unsqueeze(-1) * self.last
        emissions = super().forward(hidden, batch) + ends_of_chain
        return emissions.unsqueeze(2) + self.transitions * ~begins[..., None, None]


def first_counted(counts: Tensor) -> Tensor:
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
