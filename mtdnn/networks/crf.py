"""Linear-chain conditional random field: how likely a chain of tags is, how likely each tag, and the best chain.

Dimensions: N sequences, T tokens, W words (the longest chain), C tags. A chain has one tag at each token that counts,
in order. It is given by potentials [N, T, C, C]: at [n, t, i, j] the score of tag j at token t after tag i at the token
that counted before; the first of a chain has the same for every i. What lies at other tokens is never read.

Source: Lafferty et al. 2001; over a neural encoder Lample et al. 2016, arXiv 1603.01360, equations 1 to 3.
Written here because the packages there are (pytorch-crf, TorchCRF) have had no release for years, and keep the scores
of neighbouring tags to themselves: a regularizer compares two passes by what they hand out, and needs the marginals.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mtdnn.batch import IGNORED


def mean_negative_log_likelihood(potentials: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood of the labelled chains, in nats per labelled token.

    Args:
        potentials: [N, T, C, C], float.
        labels: [N, T], long; IGNORED at tokens that do not count.
    Returns:
        Scalar ≥ 0, float32 (float64 stays float64); 0 when nothing is labelled.
    """
    counts = labels != IGNORED
    chains, held = closed_up(potentials, counts)
    tags = closed_up(labels, counts)[0]
    before = torch.nn.functional.pad(tags[:, :-1], (1, 0))
    chosen = chains.flatten(2).gather(2, (before * chains.shape[-1] + tags).unsqueeze(-1)).squeeze(-1)
    score = chosen.masked_fill(~held, 0.0).sum(dim=1)
    lost = (log_partition(chains, held) - score).masked_fill(~held[:, 0], 0.0)
    return lost.sum() / counts.sum().clamp(min=1)


def log_marginals(potentials: Tensor, counts: Tensor) -> Tensor:
    """[words, C]: log probability of each tag at each token that counts, given all chains; by row, then by token.

    Args:
        potentials: [N, T, C, C], float.
        counts: [N, T], bool.
    """
    chains, held = closed_up(potentials, counts)
    forward = torch.stack(list(_forward(chains, held)), dim=1)
    backward = torch.stack(list(_backward(chains, held))[::-1], dim=1)
    return torch.log_softmax(forward + backward, dim=-1)[held]


def best_tags(potentials: Tensor, counts: Tensor) -> Tensor:
    """[words] long: the tags of the most likely chains (Viterbi 1967), in the order of `log_marginals`."""
    chains, held = closed_up(potentials, counts)
    score, came_from = chains[:, 0, 0], []
    for scores, goes_on in _steps(chains, held):
        best, tag = (score.unsqueeze(2) + scores).max(dim=1)
        stays = torch.arange(len(tag[0]), device=tag.device).expand_as(tag)
        score = torch.where(goes_on, best, score)
        came_from.append(torch.where(goes_on, tag, stays))
    tags = [score.argmax(dim=1, keepdim=True)]
    for tag in reversed(came_from):
        tags.append(tag.gather(1, tags[-1]))
    return torch.cat(tags[::-1], dim=1)[held]


def log_partition(chains: Tensor, held: Tensor) -> Tensor:
    """[N]: log of the sum of exp(score) over all chains, of potentials as `closed_up` leaves them."""
    *_, last = _forward(chains, held)
    return torch.logsumexp(last, dim=1)


def closed_up(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What counts of [N, T, …], moved to the front: [N, W, …], 0 behind each chain, and [N, W] bool, True in a chain.

    W is at least 1. Floats come out in float32, or in float64 when they came so.
    """
    length = max(int(counts.sum(dim=1).max()), 1) if len(counts) else 1
    order = counts.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    rows = torch.arange(len(counts), device=counts.device).unsqueeze(1)
    held, moved = counts[rows, order], values[rows, order]
    wide = moved.float() if moved.is_floating_point() and moved.dtype != torch.float64 else moved
    return wide.masked_fill(~held[(..., *[None] * (wide.dim() - 2))], 0), held


def _steps(chains: Tensor, held: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """From the second word on: its potentials [N, C, C] and whether the chain has it [N, 1]."""
    return zip(chains.unbind(1)[1:], held.unsqueeze(2).unbind(1)[1:], strict=True)


def _forward(chains: Tensor, held: Tensor) -> Iterator[Tensor]:
    """At each word [N, C]: log of the summed exp(score) of the chains up to it that end in each tag."""
    reached = chains[:, 0, 0]
    yield reached
    for scores, goes_on in _steps(chains, held):
        reached = torch.where(goes_on, torch.logsumexp(reached.unsqueeze(2) + scores, dim=1), reached)
        yield reached


def _backward(chains: Tensor, held: Tensor) -> Iterator[Tensor]:
    """From the last word to the first [N, C]: log of the summed exp(score) of what may follow each tag."""
    to_come = torch.zeros_like(chains[:, 0, 0])
    yield to_come
    for scores, goes_on in reversed(list(_steps(chains, held))):
        to_come = torch.where(goes_on, torch.logsumexp(scores + to_come.unsqueeze(1), dim=2), to_come)
        yield to_come
