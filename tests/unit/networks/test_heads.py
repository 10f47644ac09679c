"""Heads: hidden states → logits."""

import torch

from mtdnn.batch import Batch
from mtdnn.networks.heads import PooledHead, family_activation

BATCH = Batch("task", {"mask": torch.ones(2, 4, dtype=torch.bool)}, None, ["a", "b"])


def test_the_pooled_head_is_dense_activation_output_on_the_first_token() -> None:
    torch.manual_seed(0)
    head = PooledHead(8, 3, dropout=0.5).eval()
    hidden = torch.randn(2, 4, 8)
    first = hidden[:, 0]
    by_hand = torch.tanh(first @ head.dense.weight.T + head.dense.bias) @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(hidden, BATCH), by_hand)


def test_a_pretrained_pooler_starts_the_dense_layer_unless_told_otherwise() -> None:
    pooler = {"weight": torch.randn(8, 8), "bias": torch.randn(8)}
    taken, left = PooledHead(8, 3, dropout=0.1), PooledHead(8, 3, dropout=0.1, dense="random")
    before = left.dense.weight.clone()
    for head in (taken, left):
        head.start_from_pooler(pooler)
    assert torch.equal(taken.dense.weight, pooler["weight"])
    assert torch.equal(left.dense.weight, before)


def test_families_use_their_own_activation() -> None:
    assert [family_activation(name) for name in ("bert", "electra", "distilbert")] == ["tanh", "gelu", "relu"]
