"""Heads: hidden states → logits."""

import torch
from transformers import AutoConfig

from mtdnn.batch import Batch
from mtdnn.networks.heads import PooledHead, family_options, pooled_states

BATCH = Batch("task", {"mask": torch.ones(2, 4, dtype=torch.bool)}, None, ["a", "b"])


def test_the_pooled_head_is_dense_activation_output_on_the_first_token() -> None:
    torch.manual_seed(0)
    head = PooledHead(8, 3, dropout=0.5).eval()
    hidden = torch.randn(2, 4, 8)
    first = hidden[:, 0]
    by_hand = torch.tanh(first @ head.dense.weight.T + head.dense.bias) @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(hidden, BATCH), by_hand)


def test_a_pretrained_pooler_starts_the_dense_layer_unless_configured_otherwise() -> None:
    pooler = {"weight": torch.randn(8, 8), "bias": torch.randn(8)}
    taken, left = PooledHead(8, 3, dropout=0.1), PooledHead(8, 3, dropout=0.1, dense="random")
    before = left.dense.weight.clone()
    for head in (taken, left):
        head.start_from(pooler)
    assert torch.equal(taken.dense.weight, pooler["weight"])
    assert torch.equal(left.dense.weight, before)


def test_families_use_their_own_activation() -> None:
    found = [family_options(AutoConfig.for_model(name)) for name in ("bert", "electra", "distilbert", "qwen3")]
    assert [each["activation"] for each in found[:3]] == ["tanh", "gelu", "relu"]
    assert [each["pooling"] for each in found] == ["first", "first", "first", "last"]
    assert [each["dense"] for each in found] == ["pooler", "pooler", "pooler", "none"]


def test_a_sequence_is_pooled_over_its_real_tokens_alone() -> None:
    """Worked by hand: two sequences, of three tokens and of one; 9 stands at padding, on either side."""
    hidden = torch.tensor([[[1.0, -5], [4, -2], [1, -2], [9, 9]], [[9, 9], [9, 9], [9, 9], [2, 3]]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    wanted = {
        "first": [[1.0, -5], [9, 9]],
        "mean": [[2, -3], [2, 3]],
        "max": [[4, -2], [2, 3]],
        "last": [[1, -2], [2, 3]],
    }
    for pooling, values in wanted.items():
        assert pooled_states(hidden, mask, pooling).tolist() == values
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert [pooled_states(hidden[:1], nothing, each).tolist() for each in ("mean", "max")] == [[[0, 0]], [[0, 0]]]


def test_without_a_dense_layer_the_head_is_one_linear_layer_without_bias() -> None:
    head = PooledHead(8, 3, dropout=0.5, dense="none", pooling="last").eval()
    hidden = torch.randn(2, 4, 8)
    torch.testing.assert_close(head(hidden, BATCH), hidden[:, -1] @ head.output.weight.T)
    assert [name for name, _ in head.named_parameters()] == ["output.weight"]
