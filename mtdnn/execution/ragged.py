"""Attention over a packed row without the padded square, for GPUs.

Three ways: PyTorch's kernels for ragged batches, squares of examples of similar length, and FlexAttention with a mask
of the examples. Which is the fastest on which GPU has not been measured (`docs/gpu.md`).

Dimensions: N real tokens of the batch, A attention heads, D size of one head, B blocks of BLOCK tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mtdnn.batch import on_device
from mtdnn.execution.terms import AttentionSettings, window_mask

BLOCK = 128
"""Tokens of a block of FlexAttention's mask; its default."""

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def flash_takes(query: Tensor) -> bool:
    """Whether flash attention can be used for ragged batches.

    It needs an Ampere GPU or a later one, 16-bit floats, and heads whose size is a multiple of 8, up to 256.
    """
    if query.device.type != "cuda" or query.dtype not in SIXTEEN_BITS:
        return False
    size = query.shape[-1]
    return size % 8 == 0 and size <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def attend_by_flash(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D] by flash attention for ragged batches, without dropout; see `flash_takes`.

    Args:
        query, key, value: [N, A, D].
        terms: layout, scale and window of this layer.
    """
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = _extents(terms)
    left, right = _reach(terms)
    arguments: dict[str, Any] = {"scale": terms.scale, "window_size": (left, right)}
    return cast(Tensor, varlen_attn(query, key, value, starts, starts, longest, longest, **arguments))


def dropping_kernel(query: Tensor, terms: AttentionSettings) -> Callable[..., Tensor] | None:
    """PyTorch's kernel that drops attention weights of ragged batches and can be used here, or None.

    Flash attention for 16-bit floats; memory-efficient attention also for float32, without a window.
    """
    if flash_takes(query) and query.shape[-1] <= 192:  # larger heads only on some GPUs, with dropout
        return attend_by_dropping_flash
    aligned = query.shape[-1] % 8 == 0 and query.device.type == "cuda"
    return attend_by_efficient_kernel if aligned and terms.window is None else None


def attend_by_dropping_flash(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D] by flash attention for ragged batches, with dropout.

    The operator is the one that PyTorch's attention over nested tensors calls; `varlen_attn` has no dropout. It is not
    part of the documented interface.

    Args:
        query, key, value: [N, A, D], 16-bit floats.
        terms: layout, scale, dropout and window of this layer.
    """
    starts, longest = _extents(terms)
    left, right = _reach(terms)
    windows = {} if terms.window is None else {"window_size_left": left, "window_size_right": right}
    found = torch.ops.aten._flash_attention_forward(
        query, key, value, starts, starts, longest, longest, terms.dropout, terms.causal, False,
        scale=terms.scale, **windows,
    )  # fmt: skip
    return cast(Tensor, found[0])


def attend_by_efficient_kernel(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D] by memory-efficient attention for ragged batches, with dropout; no window.

    As for `attend_by_dropping_flash`, the operator is the one for nested tensors.

    Args:
        query, key, value: [N, A, D].
        terms: layout, scale and dropout of this layer.
    """
    starts, longest = _extents(terms)
    parts = (each.unsqueeze(0) for each in (query, key, value))
    mask_type = 1 if terms.causal else 0  # causal from the upper left corner
    needs_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    found = torch.ops.aten._efficient_attention_forward(
        *parts, None, starts, starts, longest, longest, terms.dropout, mask_type, needs_gradient, scale=terms.scale
    )
    return cast(Tensor, found[0].squeeze(0))


def _extents(terms: AttentionSettings) -> tuple[Tensor, int]:
    """Where each example starts, on the device, and the length of the longest, known on the host."""
    return terms.layout.boundaries, max(terms.layout.lengths, default=0)


def _reach(terms: AttentionSettings) -> tuple[int, int]:
    """How many tokens to the left and to the right a token attends to; −1: all."""
    reach = -1 if terms.window is None else terms.window - 1
    return reach, 0 if terms.causal else reach


def attend_by_squares(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D], one call of PyTorch's attention per square of examples of similar length.

    Args:
        query, key, value: [N, A, D].
        terms: layout, scale, dropout and window of this layer.
    """
    squares = terms.layout.squares_on_device
    sizes = [shape.tokens for shape in squares.shapes]
    parts = (each.index_select(0, squares.rows).split(sizes) for each in (query, key, value))
    outputs = [query[:0]]
    for shape, bias, *of_square in zip(squares.shapes, squares.bias, *parts, strict=True):
        q, k, v = (each.unflatten(0, (shape.examples, shape.length)).transpose(1, 2) for each in of_square)
        seen = _seen(bias, shape.length, terms, q)
        attended = scaled_dot_product_attention(q, k, v, seen, dropout_p=terms.dropout, scale=terms.scale)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, squares.back)


def _seen(bias: Tensor | None, length: int, terms: AttentionSettings, query: Tensor) -> Tensor | None:
    """The mask of a square for PyTorch's attention: a bias of the keys, or bool where there is a window.

    Args:
        bias: [examples, 1, 1, length], −inf at padding; None without padding.
        length: tokens of an example.
        terms: settings with the window and the direction.
        query: has the type of a bias.
    """
    band = window_mask(length, terms, query.device)
    if band is None:
        return None if bias is None else bias.to(query.dtype)
    if bias is None:
        return band
    # Padding may see no real token inside its window: let it see itself, or NaN reaches the gradient of real keys.
    return (band & (bias == 0)) | torch.eye(length, dtype=torch.bool, device=query.device)


def flex_takes(query: Tensor) -> bool:
    """Whether FlexAttention can be used: on the CPU it has no backward pass."""
    return query.device.type != "cpu" or not (query.requires_grad and torch.is_grad_enabled())


def attend_by_flex(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D] by FlexAttention, which skips blocks of tokens that see nothing of each other; no dropout.

    Args:
        query, key, value: [N, A, D].
        terms: layout, scale and window of this layer.
    """
    q, k, v = (each.transpose(0, 1).unsqueeze(0) for each in (query, key, value))
    attended = _flex_attention(query.device.type)(q, k, v, block_mask=document_mask(terms), scale=terms.scale)
    return cast(Tensor, attended.squeeze(0).transpose(0, 1))


@cache
def _flex_attention(device: str) -> Callable[..., Any]:
    """FlexAttention, compiled for a GPU: without that it computes the whole square."""
    from torch.nn.attention.flex_attention import flex_attention

    attend: Any = flex_attention
    return cast(Callable[..., Any], attend if device == "cpu" else torch.compile(attend, dynamic=True))


def document_mask(terms: AttentionSettings) -> Any:
    """The BlockMask of a layout, computed on the host from its lengths; kept with the layout for further layers."""
    known: dict[Any, Any] = terms.layout.__dict__.setdefault("_document_masks", {})
    if (terms.window, terms.causal) not in known:
        known[terms.window, terms.causal] = _new_document_mask(terms)
    return known[terms.window, terms.causal]


def _new_document_mask(terms: AttentionSettings) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    device = terms.layout.index.device
    lengths = np.array(terms.layout.lengths)
    documents = np.repeat(np.arange(len(lengths)), lengths)
    document = on_device(torch.from_numpy(documents), device)
    window, causal = terms.window, terms.causal

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = document[query] == document[key]
        if window is not None:
            seen = seen & ((query - key).abs() < window)
        return seen & (query >= key) if causal else seen

    partial, full = blocks_of(documents, lengths, whole=window is None and not causal)
    tables = [_table(each, device) for each in (partial, full)]
    return BlockMask.from_kv_blocks(
        *tables[0], *tables[1], BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(len(documents), len(documents))
    )


def blocks_of(documents: np.ndarray, lengths: np.ndarray, *, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """[B, B] bool each: blocks of which some tokens see each other, and blocks of which all do.

    Args:
        documents: [N], the example of each token, ascending.
        lengths: tokens of each example.
        whole: whether every token sees all of its example; else no block is taken for one of which all do.
    """
    count = -(-len(documents) // BLOCK)
    first, last = documents[::BLOCK], documents[np.minimum(np.arange(1, count + 1) * BLOCK, len(documents)) - 1]
    shared = (first[:, None] <= last) & (first <= last[:, None])
    pure = (first == last) & (np.arange(1, count + 1) * BLOCK <= len(documents))
    full = shared & pure[:, None] & pure if whole else np.zeros_like(shared)
    return shared & ~full, full


def _table(blocks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """[1, 1, B] int32 and [1, 1, B, B] int32: how many blocks of keys each block of queries has, and which, first."""
    counts, order = blocks.sum(1), np.argsort(~blocks, axis=1, kind="stable")
    counted, ordered = (torch.from_numpy(each.astype(np.int32))[None, None] for each in (counts, order))
    return on_device(counted, device), on_device(ordered, device)
