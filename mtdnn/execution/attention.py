"""Attention over one packed row: the real tokens of a batch without padding; each example attends to itself only.

Dimensions: B batch, T tokens of the longest example, N real tokens of the batch, A attention heads, D size of one head.
`Layout` has the position of each real token. It is passed with each call as the keyword `packing`, through
transformers' attention interface, so that several passes may share a graph and recomputed layers get the layout of
their own pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from mtdnn.execution.dropout import keep_mask, keep_scale, random_bits
from mtdnn.execution.layout import Layout, Squares
from mtdnn.execution.ragged import (
    attend_by_flash,
    attend_by_flex,
    attend_by_squares,
    dropping_kernel,
    flash_takes,
    flex_takes,
)
from mtdnn.execution.terms import Attend, AttentionSettings, window_mask

ATTENTION_NAME = "mtdnn"


def use_packed_attention(backbone: PreTrainedModel) -> None:
    """Make a model attend over packed rows when it is called with `packing=Layout`, and as before otherwise."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, padding_mask)
    backbone.set_attn_implementation(ATTENTION_NAME)


_ALL_REAL: ContextVar[bool | None] = ContextVar("all_real", default=None)
"""Whether the padded batch at hand has no padding; None: not known on the host."""


@contextmanager
def known_padding(mask: Tensor) -> Iterator[None]:
    """A context for the padded pass of a batch, in which transformers does not ask a device whether there is padding.

    Args:
        mask: [B, T] bool, True = a real token, on the host.
    """
    AttentionMaskInterface.register("sdpa", padding_mask)
    AttentionMaskInterface.register("eager", partial(padding_mask, made_by=eager_mask))
    known = mask.device.type == "cpu" and not torch.compiler.is_exporting()  # a graph is for any mask
    before = _ALL_REAL.set(bool(mask.all()) if known else None)
    try:
        yield
    finally:
        _ALL_REAL.reset(before)


def padding_mask(
    *args: Any,
    attention_mask: Tensor | None = None,
    made_by: Callable[..., Tensor | None] = sdpa_mask,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **options: Any,
) -> Tensor | None:
    """What a mask function of transformers returns: None where attention needs no mask, else [B, 1, T, T].

    On a device that function would make the host wait for the answer whether any token is padding; here
    `known_padding` has it.

    Args:
        args, options: as transformers gives them.
        attention_mask: [B, T], 0 at padding.
        made_by: transformers' function.
        allow_is_causal_skip, allow_is_bidirectional_skip: whether None may be returned.
    """
    all_real = _ALL_REAL.get()
    if all_real is not None and attention_mask is not None and attention_mask.device.type != "cpu":
        attention_mask = None if all_real else attention_mask
        allow_is_causal_skip, allow_is_bidirectional_skip = (
            allowed and all_real for allowed in (allow_is_causal_skip, allow_is_bidirectional_skip)
        )
    skips = {
        "allow_is_causal_skip": allow_is_causal_skip,
        "allow_is_bidirectional_skip": allow_is_bidirectional_skip,
    }
    return made_by(*args, attention_mask=attention_mask, **skips, **options)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Layout | None = None,
    dropout_masks: str = "fast",
    packed_by: str = "auto",
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as called by transformers: [1, A, N, D] → [1, N, A, D]; each example attends to itself only.

    Positions after the real tokens are 0 in the output. Without `packing` the tensors are padded, and PyTorch's
    attention is called.

    Args:
        module: the attention layer.
        query: [1, heads, ΣT, D].
        key: [1, heads, ΣT, D].
        value: [1, heads, ΣT, D].
        attention_mask: used only without `packing`.
        packing: layout of the packed rows.
        dropout_masks: fast | torch.
        packed_by: auto | kernel | squares | flex | padded.
        dropout: probability.
        scaling: factor of q·k.
        sliding_window: as `window` of `AttentionSettings`; None: all tokens.
    """
    if packing is None:
        others |= {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    query, key, value = _as_autocast_has_them(query, key, value)
    repeats = query.shape[1] // key.shape[1]
    tokens, places = len(packing.index), query.shape[2]
    q, k, v = (x[0, :, :tokens].transpose(0, 1) for x in (query, repeat_kv(key, repeats), repeat_kv(value, repeats)))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = bool(getattr(module, "is_causal", False))
    terms = AttentionSettings(packing, scale, dropout, sliding_window, causal)
    output = choose_attention(query, terms, dropout_masks, packed_by)(q, k, v, terms)
    return pad(output, (0, 0, 0, 0, 0, places - tokens)).unsqueeze(0), None


def _as_autocast_has_them(*tensors: Tensor) -> list[Tensor]:
    """Query, key and value in the type that PyTorch's attention would cast them to under autocast.

    Rotary positions leave query and key in float32, next to a value in 16 bits, which kernels for ragged batches
    refuse. Attention on a CPU takes both types.
    """
    device = tensors[0].device.type
    coarse = device != "cpu" and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return [each.to(torch.get_autocast_dtype(device)) for each in tensors] if coarse else list(tensors)


def choose_attention(
    query: Tensor, terms: AttentionSettings, dropout_masks: str = "fast", attention: str = "auto"
) -> Attend:
    """The attention function for the device and precision of `query`.

    Args:
        query: [1, heads, ΣT, D].
        terms: of the layer and the pass.
        dropout_masks: fast | torch.
        attention: auto | kernel | squares | flex | padded, as in `Execution`.
    """
    dropout = terms.dropout
    if attention == "flex" and dropout == 0 and flex_takes(query):
        return attend_by_flex
    if attention in ("squares", "flex"):
        return attend_by_squares
    if query.device.type == "cpu":
        return attend_with_fast_dropout if dropout > 0 and dropout_masks == "fast" else attend_by_group
    if attention in ("auto", "kernel") and dropout == 0 and flash_takes(query):
        return attend_by_flash
    return (attention == "kernel" and dropping_kernel(query, terms)) or attend_unpacked


def attend_by_group(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D], one fused call per group of equal length.

    Args:
        query: [1, heads, ΣT, D].
        key: [1, heads, ΣT, D].
        value: [1, heads, ΣT, D].
        terms: layout, scale, dropout and window of this layer.
    """
    groups = terms.layout.groups
    sizes = [group.tokens for group in groups]
    outputs = [query[:0]]
    for group, *parts in zip(groups, *(x.split(sizes) for x in (query, key, value)), strict=True):
        q, k, v = (x.unflatten(0, (group.examples, group.length)).transpose(1, 2) for x in parts)
        seen = window_mask(group.length, terms, q.device)
        attended = scaled_dot_product_attention(q, k, v, seen, dropout_p=terms.dropout, scale=terms.scale)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def attend_with_fast_dropout(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D] with dropout on the attention weights, on the CPU.

    Args:
        query: [1, heads, ΣT, D].
        key: [1, heads, ΣT, D].
        value: [1, heads, ΣT, D].
        terms: layout, scale, dropout and window of this layer.
    """
    return cast(Tensor, _DroppedAttention.apply(query, key, value, terms))


def attend_unpacked(query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
    """[N, A, D] → [N, A, D] over the padded batch, on GPUs by default wherever flash attention cannot be used.

    Args:
        query: [1, heads, ΣT, D].
        key: [1, heads, ΣT, D].
        value: [1, heads, ΣT, D].
        terms: layout, scale, dropout and window of this layer.
    """
    layout = terms.layout
    q, k, v = (layout.unpack(x).transpose(1, 2) for x in (query, key, value))
    seen = layout.unpack(torch.ones_like(layout.index, dtype=torch.bool))[:, None, None, :]
    band = window_mask(layout.shape[1], terms, query.device)
    if band is not None:
        # Padding may see no real token inside its window: let it see itself, or NaN reaches the gradient of real keys.
        seen = (seen & band) | torch.eye(layout.shape[1], dtype=torch.bool, device=query.device)
    attended = scaled_dot_product_attention(q, k, v, seen, dropout_p=terms.dropout, scale=terms.scale)
    return layout.pack(attended.transpose(1, 2))


class _DroppedAttention(torch.autograd.Function):
    """softmax(q kᵀ · scale) · mask / P(keep) · v in squares of examples of similar length, in float32.

    It has its own backward, because slicing under autograd would sum one full-sized gradient per square, and because
    the row sums of the softmax backward are (gradient · output), known for all squares at once (Dao et al. 2022).
    Float32 also for 16-bit inputs, as such small matrices are not faster in 16 bits. First derivatives only.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, terms: AttentionSettings) -> Tensor:
        heads, dropout, dtype = query.shape[1], terms.dropout, query.dtype
        squares = terms.layout.squares(heads)
        query, key, value = (_spread(x, squares) for x in (query, key, value))
        query, value = query.mul_(terms.scale), value.mul_(keep_scale(dropout))
        output = torch.empty_like(query)
        sizes = [shape.tokens * shape.length * heads for shape in squares.shapes]
        bits = random_bits(sum(sizes)).split(sizes)
        saved = []
        with torch.autocast("cpu", enabled=False):
            parts = _squares((query, key, value, output), squares, heads)
            for bias, square_bits, q, k, v, place in zip(squares.bias, bits, *parts, strict=True):
                weights = _attention_weights(q, k, bias, terms)
                kept = keep_mask(square_bits.view(weights.shape), dropout, weights.dtype).mul_(weights)
                torch.bmm(kept, v, out=place)
                saved += [weights, kept]
        ctx.save_for_backward(query, key, value, output, *saved)
        ctx.terms, ctx.dtype, ctx.heads = terms, dtype, heads
        return _gathered(output, squares, heads).to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, *saved = ctx.saved_tensors
        heads, squares = ctx.heads, ctx.terms.layout.squares(ctx.heads)
        gradient = _spread(gradient, squares).index_fill_(0, squares.padding, 0.0)
        grads = [torch.empty_like(output) for _ in range(3)]
        row_sums = (gradient * output).sum(-1, keepdim=True)
        rows = _squares((*grads, query, key, value, gradient, row_sums), squares, heads)
        with torch.autocast("cpu", enabled=False):
            for weights, kept, grad_q, grad_k, grad_v, q, k, v, g, sums in zip(
                saved[::2], saved[1::2], *rows, strict=True
            ):
                scores = torch.bmm(g, v.transpose(1, 2)).mul_(kept).addcmul_(weights, sums, value=-1)
                torch.bmm(scores, k, out=grad_q)
                torch.bmm(scores.transpose(1, 2), q, out=grad_k)
                torch.bmm(kept.transpose(1, 2), g, out=grad_v)
        grads[0].mul_(ctx.terms.scale)
        grads[2].mul_(keep_scale(ctx.terms.dropout))
        return *(_gathered(grad, squares, heads).to(ctx.dtype) for grad in grads), None


def _spread(packed: Tensor, squares: Squares) -> Tensor:
    """[N, A, D] → [R, D] float32, a new tensor; rows of padding have the numbers of an arbitrary token."""
    return packed.flatten(0, 1).index_select(0, squares.rows).float()


def _gathered(rows: Tensor, squares: Squares, heads: int) -> Tensor:
    """[R, D] → [N, A, D], without the padding."""
    return rows.index_select(0, squares.back).unflatten(0, (-1, heads))


def _squares(rows: Sequence[Tensor], squares: Squares, heads: int) -> list[list[Tensor]]:
    """For each tensor [R, D] its squares, views [examples·A, length, D]."""
    sizes = [shape.tokens * heads for shape in squares.shapes]
    lengths = [shape.length for shape in squares.shapes]
    return [
        [part.view(-1, length, part.shape[-1]) for part, length in zip(each.split(sizes), lengths, strict=True)]
        for each in rows
    ]


def _attention_weights(q: Tensor, k: Tensor, bias: Tensor | None, terms: AttentionSettings) -> Tensor:
    """[examples·A, length, length] softmax of the scores, over real keys inside the window."""
    scores = torch.bmm(q, k.transpose(1, 2))
    by_example = scores if bias is None else scores.unflatten(0, (bias.shape[0], -1))
    band = window_mask(q.shape[1], terms, q.device)
    if band is not None:
        seen = band if bias is None else (band & (bias == 0)) | torch.eye(len(band), dtype=torch.bool)
        # Padding may see no real token inside its window: let it see itself, or NaN reaches the gradient of real keys.
        by_example.masked_fill_(~seen, -torch.inf)
    elif bias is not None:
        by_example.add_(bias)
    return scores.softmax(-1)
