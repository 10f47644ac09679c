"""Linear-chain conditional random field: likelihood of a chain of tags, marginals of each tag, and the best chain.

Dimensions: N sequences, T tokens, W words (the longest chain), C tags. A chain has one tag at each token that counts,
in order. It is given by potentials [N, T, C, C]: at [n, t, i, j] the score of tag j at token t after tag i at the
previous token that counts; for the first token of a chain it is the same for every i. Values at other tokens are
ignored.

Source: Lafferty et al. 2001; over a neural encoder Lample et al. 2016, arXiv 1603.01360, equations 1 to 3.
Implemented here because the existing packages (pytorch-crf, TorchCRF) have had no release for years and do not return
the scores of neighbouring tags: a regularizer compares the outputs of two passes, and needs the marginals.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mtdnn.batch import IGNORED, on_device


def mean_negative_log_likelihood(potentials: Tensor, labels: Tensor, *, longest: int) -> Tensor:
    """Negative log likelihood of the labelled chains, in nats per labelled token.

    Args:
        potentials: [N, T, C, C], float.
        labels: [N, T], long; IGNORED at tokens that do not count.
        longest: W or more.
    Returns:
        Scalar ≥ 0, float32 (float64 stays float64); 0 if nothing is labelled.
    """
    counts = labels != IGNORED
    chains, in_chain = compacted(potentials, counts, longest)
    tags = compacted(labels, counts, longest)[0]
    before = torch.nn.functional.pad(tags[:, :-1], (1, 0))
    chosen = chains.flatten(2).gather(2, (before * chains.shape[-1] + tags).unsqueeze(-1)).squeeze(-1)
    score = chosen.masked_fill(~in_chain, 0.0).sum(dim=1)
    lost = (log_partition(chains, in_chain) - score).masked_fill(~in_chain[:, 0], 0.0)
    return lost.sum() / counts.sum().clamp(min=1)


def log_marginals(potentials: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """[words, C]: log marginal probability of each tag at each token that counts; ordered by row, then by token.

    Args:
        potentials: [N, T, C, C], float.
        counts: [N, T], bool.
        lengths: [N], the number of tokens that count in each sequence, on the host: reading it from a device would make
            the host wait.
    """
    chains, in_chain = compacted(potentials, counts, int(lengths.max()))
    forward = torch.stack(list(_forward(chains, in_chain)), dim=1)
    backward = torch.stack(list(_backward(chains, in_chain))[::-1], dim=1)
    return _of_chains(torch.log_softmax(forward + backward, dim=-1), lengths)


def best_tags(potentials: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """[words] long: the tags of the most likely chains (Viterbi 1967), in the order of `log_marginals`.

    Args:
        potentials, counts, lengths: as for `log_marginals`.
    """
    chains, in_chain = compacted(potentials, counts, int(lengths.max()))
    score, came_from = chains[:, 0, 0], []
    for scores, continues in _steps(chains, in_chain):
        best, tag = (score.unsqueeze(2) + scores).max(dim=1)
        stays = torch.arange(len(tag[0]), device=tag.device).expand_as(tag)
        score = torch.where(continues, best, score)
        came_from.append(torch.where(continues, tag, stays))
    tags = [score.argmax(dim=1, keepdim=True)]
    for tag in reversed(came_from):
        tags.append(tag.gather(1, tags[-1]))
    return _of_chains(torch.cat(tags[::-1], dim=1), lengths)


def log_partition(chains: Tensor, in_chain: Tensor) -> Tensor:
    """[N]: log of the sum of exp(score) over all chains, for potentials returned by `compacted`."""
    *_, last = _forward(chains, in_chain)
    return torch.logsumexp(last, dim=1)


def compacted(values: Tensor, counts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The values [N, T, …] that count, moved to the front: [N, W, …], 0 after each chain; and [N, W] bool, True in it.

    Floats are returned as float32; float64 stays float64.

    Args:
        values: [N, T, …].
        counts: [N, T], bool.
        longest: W, the largest number of tokens that count in a sequence, or more; 1 is taken for 0.
    """
    order = counts.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : max(longest, 1)]
    rows = torch.arange(len(counts), device=counts.device).unsqueeze(1)
    in_chain, moved = counts[rows, order], values[rows, order]
    wide = moved.float() if moved.is_floating_point() and moved.dtype != torch.float64 else moved
    return wide.masked_fill(~in_chain[(..., *[None] * (wide.dim() - 2))], 0), in_chain


def _of_chains(values: Tensor, lengths: Tensor) -> Tensor:
    """[words, …] of [N, W, …]: the values of each chain, without those after it."""
    width = values.shape[1]
    in_chain = torch.arange(width) < lengths.unsqueeze(1)
    places = in_chain.flatten().nonzero().flatten()
    return values.flatten(0, 1).index_select(0, on_device(places, values.device))


def _steps(chains: Tensor, in_chain: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each word from the second on: its potentials [N, C, C], and [N, 1] bool, whether the chain has this word."""
    return zip(chains.unbind(1)[1:], in_chain.unsqueeze(2).unbind(1)[1:], strict=True)


def _forward(chains: Tensor, in_chain: Tensor) -> Iterator[Tensor]:
    """For each word [N, C]: log of the sum of exp(score) over the chains up to it that end in each tag."""
    reached = chains[:, 0, 0]
    yield reached
    for scores, continues in _steps(chains, in_chain):
        reached = torch.where(continues, torch.logsumexp(reached.unsqueeze(2) + scores, dim=1), reached)
        yield reached


def _backward(chains: Tensor, in_chain: Tensor) -> Iterator[Tensor]:
    """From the last word to the first [N, C]: log of the sum of exp(score) over what may follow each tag."""
    to_come = torch.zeros_like(chains[:, 0, 0])
    yield to_come
    for scores, continues in reversed(list(_steps(chains, in_chain))):
        to_come = torch.where(continues, torch.logsumexp(scores + to_come.unsqueeze(1), dim=2), to_come)
        yield to_come
