"""The stochastic answer network: a head that reads the first text of a pair repeatedly.

Dimensions: N sequences, T tokens, H hidden, C outputs, K turns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch, on_device
from mtdnn.networks.head_options import SanOptions
from mtdnn.networks.heads import HEADS, Head, attended, initialize


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


def averaged_turns(turns: Tensor, kept: Tensor) -> Tensor:
    """[N, C]: log of the mean, over the kept turns, of the softmaxes of [N, K, C]; for C = 1 the mean of the numbers.

    `kept` is [N, K] bool, with at least one turn in every row.
    """
    counts = kept.sum(dim=1, keepdim=True).to(turns.dtype)
    if turns.shape[-1] == 1:
        return turns.masked_fill(~kept.unsqueeze(-1), 0.0).sum(dim=1) / counts
    log_shares = torch.log_softmax(turns, dim=-1).masked_fill(~kept.unsqueeze(-1), -torch.inf)
    return torch.logsumexp(log_shares, dim=1) - counts.log()
