"""Chains of tags against a sum over every chain there is, in float64."""

from itertools import product

import pytest
import torch
from torch import Tensor

from mtdnn.batch import IGNORED, Batch
from mtdnn.networks.crf import best_tags, log_marginals, mean_negative_log_likelihood
from mtdnn.networks.heads import CrfHead, TokenHead

COUNTS = torch.tensor(
    [
        [False, True, False, True, True, True],
        [False, False, True, False, False, True],
        [True, False, False, False, False, False],
        [False, False, False, False, False, False],
    ]
)
LENGTHS = COUNTS.sum(1)
LONGEST = 4
TAGS = 3


@pytest.fixture
def potentials() -> Tensor:
    torch.manual_seed(0)
    values = torch.randn(*COUNTS.shape, TAGS, TAGS, dtype=torch.float64)
    begins = COUNTS & (COUNTS.cumsum(1) == 1)
    return torch.where(begins[..., None, None], values[:, :, :1], values)  # the first of a chain follows no tag


def scores_of_all(chain: Tensor) -> dict[tuple[int, ...], Tensor]:
    """Every chain of tags with its score, from the potentials [W, C, C] of one sequence."""
    found = {}
    for tags in product(range(TAGS), repeat=len(chain)):
        before = (0, *tags[:-1])
        found[tags] = sum(chain[word, i, j] for word, (i, j) in enumerate(zip(before, tags, strict=True)))
    return found


def all_chains(potentials: Tensor) -> list[dict[tuple[int, ...], Tensor]]:
    return [scores_of_all(row[counts]) for row, counts in zip(potentials, COUNTS, strict=True) if counts.any()]


def test_the_likelihood_is_that_among_all_chains_and_its_gradient_is_right(potentials):
    potentials.requires_grad_()
    labels = torch.full(COUNTS.shape, IGNORED)
    tags = [(2, 0, 1, 1), (0, 2), (1,)]
    for row, chosen in enumerate(tags):
        labels[row, COUNTS[row]] = torch.tensor(chosen)
    expected = sum(
        torch.logsumexp(torch.stack(list(chains.values())), 0) - chains[chosen]
        for chains, chosen in zip(all_chains(potentials), tags, strict=True)
    ) / sum(map(len, tags))
    found = mean_negative_log_likelihood(potentials, labels, longest=LONGEST)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(value, potentials) for value in (found, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)


def test_marginals_are_sums_over_all_chains_through_a_tag(potentials):
    expected = []
    for chains in all_chains(potentials):
        total = torch.logsumexp(torch.stack(list(chains.values())), 0)
        for word, tag in product(range(len(next(iter(chains)))), range(TAGS)):
            through = [score for tags, score in chains.items() if tags[word] == tag]
            expected.append(torch.logsumexp(torch.stack(through), 0) - total)
    found = log_marginals(potentials, COUNTS, LENGTHS)
    torch.testing.assert_close(found, torch.stack(expected).view(-1, TAGS), rtol=1e-12, atol=1e-12)


def test_the_best_tags_are_those_of_the_best_chain(potentials):
    expected = [tag for chains in all_chains(potentials) for tag in max(chains, key=lambda tags: chains[tags])]
    assert best_tags(potentials, COUNTS, LENGTHS).tolist() == expected
    greedy = potentials.amax(2)[COUNTS].argmax(-1).tolist()
    assert greedy != expected  # or else this would not tell Viterbi from choosing word by word


def test_what_is_at_other_tokens_is_never_read(potentials):
    spoilt = potentials.masked_fill(~COUNTS[..., None, None], torch.nan).requires_grad_()
    labels = torch.where(COUNTS, 1, IGNORED)
    loss = mean_negative_log_likelihood(spoilt, labels, longest=LONGEST)
    torch.testing.assert_close(loss, mean_negative_log_likelihood(potentials, labels, longest=LONGEST), rtol=0, atol=0)
    (loss + log_marginals(spoilt, COUNTS, LENGTHS).sum()).backward()
    assert bool(spoilt.grad.isfinite().all())
    assert bool((spoilt.grad[~COUNTS] == 0).all())


def test_nothing_labelled_is_no_loss_and_no_gradient(potentials):
    potentials.requires_grad_()
    loss = mean_negative_log_likelihood(potentials, torch.full(COUNTS.shape, IGNORED), longest=LONGEST)
    loss.backward()
    assert loss == 0
    assert bool((potentials.grad == 0).all())


def head_and_batch() -> tuple[CrfHead, Batch]:
    torch.manual_seed(1)
    mask = torch.ones_like(COUNTS)
    words = torch.where(COUNTS, COUNTS.cumsum(1) - 1, -1)
    batch = Batch("tags", {"input_ids": mask.long(), "mask": mask}, None, list("abcd"), {"words": words})
    return CrfHead(5, TAGS, dropout=0.0, activation="tanh", initializer_std=1.0).double(), batch


def test_a_new_head_gives_every_tag_the_probability_it_has_without_chains():
    head, batch = head_and_batch()
    hidden = torch.randn(*COUNTS.shape, 5, dtype=torch.float64)
    alone = TokenHead.forward(head, hidden, batch)[COUNTS]
    found = log_marginals(head(hidden, batch), COUNTS, LENGTHS)
    torch.testing.assert_close(found, torch.log_softmax(alone, -1), rtol=1e-12, atol=1e-12)
    assert best_tags(head(hidden, batch), COUNTS, LENGTHS).tolist() == alone.argmax(-1).tolist()


def test_the_score_of_a_chain_is_that_of_its_tags_its_pairs_and_its_ends():
    head, batch = head_and_batch()
    for weights in (head.transitions, head.first, head.last):
        torch.nn.init.normal_(weights)
    hidden = torch.randn(*COUNTS.shape, 5, dtype=torch.float64)
    emissions = TokenHead.forward(head, hidden, batch)[0, COUNTS[0]]
    tags = (2, 0, 1, 1)
    expected = head.first[2] + emissions[range(4), tags].sum() + head.last[1]
    expected += head.transitions[2, 0] + head.transitions[0, 1] + head.transitions[1, 1]
    found = scores_of_all(head(hidden, batch)[0, COUNTS[0]])[tags]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
