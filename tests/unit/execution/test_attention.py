"""Packed rows and attention over them, against PyTorch's attention on each example alone."""

import copy
from math import prod

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention

from mtdnn.execution.attention import (
    attend_by_group,
    attend_unpacked,
    attend_with_fast_dropout,
    choose_attention,
)
from mtdnn.execution.dropout import keep_mask, keep_scale, random_bits
from mtdnn.execution.layout import Group, LastLayout, Layout, similar
from mtdnn.execution.ragged import (
    BLOCK,
    attend_by_dropping_flash,
    attend_by_efficient_kernel,
    attend_by_flash,
    attend_by_flex,
    attend_by_squares,
    document_mask,
)
from mtdnn.execution.terms import AttentionSettings, window_mask

CPU = torch.device("cpu")
HEADS, SIZE, SCALE = 2, 8, 0.3
BATCHES = {
    "ragged": (3, 5, 3, 9), "one token": (1,), "one example": (6,), "all equal": (4, 4, 4), "some empty": (0, 3),
    "padding that sees no token in its window": (48, 51),
}  # fmt: skip


def mask_of(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def rows(layout: Layout, dtype=torch.float32):
    """Random query, key and value of a packed row, as leaves."""
    generator = torch.Generator().manual_seed(1)
    shape = (sum(layout.lengths), HEADS, SIZE)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def one_by_one(query, key, value, lengths, window, kept=None, causal=False):
    """Softmax attention of each example alone, written out; `kept` holds a scaled dropout mask per example."""
    outputs, start = [], 0
    for i, length in enumerate(lengths):
        q, k, v = (x[start : start + length].transpose(0, 1) for x in (query, key, value))
        scores = q @ k.transpose(1, 2) * SCALE
        if window is not None:
            places = torch.arange(length)
            scores = scores.masked_fill((places[:, None] - places).abs() >= window, -torch.inf)
        if causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        weights = scores.softmax(-1) * (1 if kept is None else kept[i])
        outputs.append((weights @ v).transpose(0, 1))
        start += length
    return torch.cat(outputs)


def assert_same_with_gradients(found, expected, leaves):
    """Float32, sums of at most 72 products in another order: 1e-5 leaves a wide margin."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    projection = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((found * projection).sum(), leaves)
    theirs = torch.autograd.grad((expected * projection).sum(), leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_packed_row_holds_the_real_tokens_shorter_examples_first():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool)
    layout = Layout.of(mask, CPU)
    assert layout.lengths == (1, 2, 3)
    assert layout.index.tolist() == [3, 6, 7, 0, 1, 2]
    assert layout.groups == (Group(1, 1), Group(1, 2), Group(1, 3))
    assert layout.boundaries.tolist() == [0, 1, 3, 6]


def test_examples_of_equal_length_share_a_group():
    assert Layout.of(mask_of((4, 2, 4, 4)), CPU).groups == (Group(1, 2), Group(3, 4))


@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
def test_unpacking_gives_back_what_was_packed_and_zeros_at_padding(lengths):
    mask = mask_of(lengths)
    padded = torch.randn(*mask.shape, 4)
    layout = Layout.of(mask, CPU)
    assert layout.pack(padded).shape == (sum(lengths), 4)
    assert torch.equal(layout.unpack(layout.pack(padded)), padded * mask[..., None])


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("attend", [attend_by_group, attend_unpacked, attend_with_fast_dropout])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
def test_every_example_attends_to_itself_alone(lengths, attend, window, causal):
    layout = Layout.of(mask_of(lengths), CPU)
    leaves = rows(layout)
    found = attend(*leaves, AttentionSettings(layout, SCALE, 0.0, window, causal))
    assert_same_with_gradients(found, one_by_one(*leaves, layout.lengths, window, causal=causal), leaves)


def test_examples_of_similar_length_share_a_square_padded_to_the_longest():
    layout = Layout.of(mask_of((40, 4, 2, 42, 8, 51)), CPU)
    assert list(similar(layout.lengths)) == [[2, 4], [8], [40, 42], [51]]
    squares = layout.squares(1)
    assert squares.shapes == (Group(2, 4), Group(1, 8), Group(2, 42), Group(1, 51))
    assert squares.padding.tolist() == [2, 3, *range(8 + 8 + 40, 8 + 8 + 42)]
    assert squares.rows[squares.back].tolist() == list(range(147))
    assert squares.bias[0][0].flatten().tolist() == [0, 0, -torch.inf, -torch.inf]
    assert squares.bias[1] is None
    assert layout.squares(1) is squares


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
def test_dropped_attention_weights_are_those_of_the_random_state(lengths, window):
    layout, p = Layout.of(mask_of(lengths), CPU), 0.4
    leaves = rows(layout)
    torch.manual_seed(11)
    found = attend_with_fast_dropout(*leaves, AttentionSettings(layout, SCALE, p, window))
    torch.manual_seed(11)
    shapes = [(square.examples, HEADS, square.length, square.length) for square in layout.squares(HEADS).shapes]
    bits = random_bits(sum(map(prod, shapes)))
    parts = bits.split([prod(shape) for shape in shapes])
    masks = [keep_mask(part.view(shape), p, torch.float32) for part, shape in zip(parts, shapes, strict=True)]
    kept = [
        mask[:, :length, :length] * keep_scale(p)
        for mask, length in zip((mask for square in masks for mask in square), layout.lengths, strict=True)
    ]
    assert_same_with_gradients(found, one_by_one(*leaves, layout.lengths, window, kept), leaves)


def test_attention_of_16_bit_rows_comes_back_in_16_bits_within_their_rounding():
    layout = Layout.of(mask_of((3, 7)), CPU)
    leaves = rows(layout, torch.bfloat16)
    found = attend_with_fast_dropout(*leaves, AttentionSettings(layout, SCALE, 0.0, None))
    assert found.dtype == torch.bfloat16
    exact = one_by_one(*(leaf.float() for leaf in leaves), layout.lengths, None)
    torch.testing.assert_close(found.float(), exact, rtol=2**-8, atol=2**-8)  # half of bf16's 2**-7 spacing, doubled
    found.float().sum().backward()
    assert all(leaf.grad.dtype == torch.bfloat16 for leaf in leaves)


def test_pytorchs_own_dropout_serves_where_the_fast_one_is_not_wanted():
    layout = Layout.of(mask_of((5,)), CPU)
    leaves = rows(layout)
    torch.manual_seed(3)
    found = attend_by_group(*leaves, AttentionSettings(layout, SCALE, 0.5, None))
    torch.manual_seed(3)
    q, k, v = (leaf.transpose(0, 1)[None] for leaf in leaves)
    expected = scaled_dot_product_attention(q, k, v, dropout_p=0.5, scale=SCALE)[0].transpose(0, 1)
    torch.testing.assert_close(found, expected)


def test_a_batch_has_one_layout_for_all_passes_over_it():
    mask = mask_of((3, 5))
    kept = LastLayout()
    first = kept.of(mask, CPU, rounded=False)
    assert kept.of(mask, CPU, rounded=False) is first
    assert kept.of(mask.clone(), CPU, rounded=False) is not first
    first = kept.of(mask, CPU, rounded=False)
    assert kept.of(mask, CPU, rounded=True).rounded
    with torch.inference_mode():
        inside = kept.of(mask, CPU, rounded=False)
        assert inside.index.is_inference()
    assert not kept.of(mask, CPU, rounded=False).index.is_inference()
    mask[0, 2] = False
    assert kept.of(mask, CPU, rounded=False).lengths == (2, 5)
    assert copy.deepcopy(kept)._known is None


def test_a_window_is_needed_only_for_examples_longer_than_it():
    def mask(window, causal=False):
        return window_mask(3, AttentionSettings(None, SCALE, 0.0, window, causal), CPU)

    assert mask(3) is None
    assert mask(None) is None
    assert mask(2).int().tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    assert mask(2, causal=True).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert mask(None, causal=True).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("attention", "capability", "dtype", "size", "dropout", "window", "expected"),
    [
        ("auto", (8, 0), BF16, 64, 0.0, None, attend_by_flash),
        ("auto", (9, 0), torch.float16, 256, 0.0, 3, attend_by_flash),
        ("auto", (7, 5), torch.float16, 64, 0.0, None, attend_unpacked),  # Turing
        ("auto", (8, 0), FP32, 64, 0.0, None, attend_unpacked),
        ("auto", (8, 0), BF16, 64, 0.1, None, attend_unpacked),
        ("auto", (8, 0), BF16, 20, 0.0, None, attend_unpacked),
        ("auto", (8, 0), BF16, 264, 0.0, None, attend_unpacked),
        ("kernel", (8, 0), BF16, 64, 0.0, None, attend_by_flash),
        ("kernel", (8, 0), BF16, 64, 0.1, 3, attend_by_dropping_flash),
        ("kernel", (8, 0), BF16, 256, 0.1, None, attend_by_efficient_kernel),
        ("kernel", (8, 0), FP32, 64, 0.1, None, attend_by_efficient_kernel),
        ("kernel", (7, 5), torch.float16, 64, 0.0, None, attend_by_efficient_kernel),
        ("kernel", (8, 0), FP32, 64, 0.1, 3, attend_unpacked),
        ("kernel", (8, 0), FP32, 20, 0.1, None, attend_unpacked),
        ("squares", (8, 0), BF16, 64, 0.1, None, attend_by_squares),
        ("flex", (8, 0), BF16, 64, 0.0, None, attend_by_flex),
        ("flex", (8, 0), BF16, 64, 0.1, None, attend_by_squares),  # it has no dropout
        ("padded", (8, 0), BF16, 64, 0.0, None, attend_unpacked),
    ],
)
def test_the_attention_of_a_gpu(attention, capability, dtype, size, dropout, window, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with FakeTensorMode():  # has CUDA tensors without CUDA
        query = torch.empty(1, 2, 3, size, dtype=dtype, device="cuda")
    assert choose_attention(query, AttentionSettings(None, SCALE, dropout, window), "fast", attention) is expected


def test_flex_attention_gives_way_on_the_cpu_where_a_gradient_is_needed():
    query = torch.zeros(1, 2, 3, 8)
    terms = AttentionSettings(None, SCALE, 0.0, None)
    assert choose_attention(query, terms, "fast", "flex") is attend_by_flex
    assert choose_attention(query.requires_grad_(), terms, "fast", "flex") is attend_by_squares


@pytest.mark.parametrize("attend", [attend_by_flash, attend_by_dropping_flash, attend_by_efficient_kernel])
@pytest.mark.parametrize("causal", [False, True])
def test_kernels_for_ragged_batches_take_our_arguments_forward_and_backward(attend, causal):
    """On the meta device, where PyTorch checks the arguments and returns the shapes; `tests/gpu` has the numbers."""
    layout = Layout.of(mask_of((3, 5, 2)), torch.device("meta"))
    leaves = [torch.empty(10, HEADS, SIZE, dtype=BF16, device="meta", requires_grad=True) for _ in range(3)]
    dropout = 0.0 if attend is attend_by_flash else 0.1
    output = attend(*leaves, AttentionSettings(layout, SCALE, dropout, None, causal))
    assert output.shape == (10, HEADS, SIZE) and output.requires_grad
    if attend is attend_by_efficient_kernel:
        return  # PyTorch 2.13 cannot compute the shapes of its gradients: "multiple values for argument 'scale'"
    output.sum().backward()
    assert [leaf.grad.shape for leaf in leaves] == [output.shape] * 3


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
def test_squares_agree_with_one_example_at_a_time(lengths, window, causal):
    layout = Layout.of(mask_of(lengths), CPU)
    leaves = rows(layout)
    found = attend_by_squares(*leaves, AttentionSettings(layout, SCALE, 0.0, window, causal))
    assert_same_with_gradients(found, one_by_one(*leaves, layout.lengths, window, causal=causal), leaves)


def test_squares_drop_attention_weights_and_keep_their_mean():
    """Values of 1: the output is the sum of the kept weights, of mean 1, and where all weights are equal of variance
    p ∕ (1 − p) ∕ length."""
    layout = Layout.of(mask_of((40,) * 50), CPU)
    query, key = (torch.zeros(2000, HEADS, SIZE) for _ in range(2))
    torch.manual_seed(0)
    found = attend_by_squares(query, key, torch.ones_like(query), AttentionSettings(layout, SCALE, 0.2, None))[..., 0]
    assert float(found.mean()) == pytest.approx(1, abs=5 * (0.25 / 40 / 4000) ** 0.5)
    assert float(found.var()) == pytest.approx(0.25 / 40, rel=0.15)  # 4,000 sums: 5 standard errors are 0.11


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", [(3, 5, 3, 9), (1,), (0, 3), (130, 5, 300, 128, 7)], ids=str)
def test_flex_attention_agrees_with_one_example_at_a_time(lengths, window, causal):
    """Forward: on the CPU FlexAttention has no backward."""
    layout = Layout.of(mask_of(lengths), CPU)
    leaves = [leaf.detach() for leaf in rows(layout)]
    found = attend_by_flex(*leaves, AttentionSettings(layout, SCALE, 0.0, window, causal))
    torch.testing.assert_close(found, one_by_one(*leaves, layout.lengths, window, causal=causal), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", [(3, 5, 3, 9), (128,), (130, 5, 300, 128, 7), (256, 256, 100)], ids=str)
def test_blocks_of_the_document_mask_are_those_that_pytorch_finds_token_by_token(lengths, window):
    layout = Layout.of(mask_of(lengths), CPU)
    found = document_mask(AttentionSettings(layout, SCALE, 0.0, window))
    tokens = sum(lengths)
    expected = create_block_mask(found.mask_mod, None, None, tokens, tokens, device="cpu", BLOCK_SIZE=BLOCK)
    theirs, ours = expected.to_dense(), found.to_dense()
    # ours may hold blocks that a window empties: kernels look at them and find nothing
    assert bool((ours >= theirs).all()) if window else torch.equal(ours, theirs)
    if window is None:
        assert torch.equal(found.full_kv_num_blocks, expected.full_kv_num_blocks)


@pytest.mark.parametrize("tokens", (1, 7, 8, 9, 100, 1100, 5000))
def test_packed_rows_have_few_different_lengths_and_little_empty_room(tokens):
    mask = torch.ones(1, tokens, dtype=torch.bool)
    assert Layout.of(mask, CPU).tail == 0
    layout = Layout.of(mask, CPU, rounded=True)
    rounded = tokens + layout.tail
    assert layout.pack_rounded(torch.ones(1, tokens, 2)).sum(1).tolist() == [2] * tokens + [0] * layout.tail
    assert layout.tail < 8 or layout.tail <= tokens / 16
    assert rounded % 8 == 0 and (tokens < 1024 or rounded % 64 == 0)
