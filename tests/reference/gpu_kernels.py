"""What only a GPU has, in numbers of the CPU: attention kernels of ragged batches, and autocast of a device.

They refuse what the kernels refuse: tensors of several types, and types that a kernel has no code for.

Dimensions: N tokens, A heads, D size of one head, L tokens of one example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
SIXTEEN_BITS = (torch.bfloat16, torch.float16)

IN_16_BITS = {
    "__matmul__", "__rmatmul__", "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "conv1d", "einsum", "linear",
    "matmul", "mm", "mv", "scaled_dot_product_attention",
}  # fmt: skip
IN_FLOAT32 = {
    "__pow__", "__rpow__", "cosine_similarity", "cross_entropy", "cumsum", "exp", "expm1", "kl_div", "l1_loss",
    "layer_norm", "log", "log10", "log1p", "log2", "log_softmax", "mse_loss", "nll_loss", "norm", "pow", "prod",
    "reciprocal", "rsqrt", "smooth_l1_loss", "softmax", "softplus", "sum",
}  # fmt: skip
IN_WIDEST = {"addcdiv", "addcmul", "bilinear", "cat", "cross", "dot", "index_put", "stack", "tensordot"}
"""Functions by the type that autocast gives their arguments. Source: PyTorch's documentation of torch.amp, CUDA."""


class Autocast(TorchFunctionMode):
    """Applies `torch.autocast("cuda")` to tensors that are not truly there.

    Args:
        kind: of these tensors.
    """

    def __init__(self, kind: type[Tensor]) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in IN_16_BITS | IN_FLOAT32 | IN_WIDEST and torch.is_autocast_enabled("cuda"):
            given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, self.kind)]
            floats = [each.dtype for each in given if each.is_floating_point() and each.dtype != torch.float64]
            if floats:
                args, kwargs = tree_map_only(self.kind, self._cast_to(_dtype(name, floats)), (args, kwargs))
        return func(*args, **kwargs)

    @staticmethod
    def _cast_to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda each: each.to(dtype) if each.is_floating_point() and each.dtype != torch.float64 else each


def _dtype(name: str, given: list[torch.dtype]) -> torch.dtype:
    if name in IN_16_BITS:
        return torch.get_autocast_dtype("cuda")
    return torch.float32 if name in IN_FLOAT32 or torch.float32 in given else given[0]


@dataclass(frozen=True)
class Example:
    """The attention of one example.

    Attributes:
        own: its tokens.
        weights: [A, L, L] softmax of the scores.
        kept: [A, L, L] 0 where a weight is dropped, else 1 / P(keep).
        scale: factor of the scores.
    """

    own: slice
    weights: Tensor
    kept: Tensor
    scale: float


def _examples(
    query: Tensor, key: Tensor, starts: Tensor, seed: int, *, dropout: float, causal: bool, window: tuple[int, int],
    scale: float | None,
) -> Iterator[Example]:  # fmt: skip
    """The examples of a ragged batch.

    Args:
        query, key: [N, A, D] float32.
        starts: [examples + 1].
        seed: of what is dropped.
        dropout: probability.
        causal, window, scale: as the kernels take them.
    """
    generator = torch.Generator().manual_seed(seed)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    for first, last in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        own = slice(first, last)
        scores = torch.einsum("lad,mad->alm", query[own], key[own]) * factor
        places = torch.arange(last - first)
        ahead = places - places[:, None]
        left, right = window[0], 0 if causal else window[1]
        hidden = (ahead < -left if left >= 0 else ahead < ahead.min()) | (
            ahead > right if right >= 0 else ahead < -last
        )
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        kept = (torch.rand(weights.shape, generator=generator) >= dropout).float() / (1 - dropout)
        yield Example(own, weights, kept, factor)


def _attended(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, seed: int, **options: Any) -> Tensor:
    """[N, A, D] output, in the type of the query."""
    output = torch.empty(query.shape)
    for each in _examples(query.float(), key.float(), starts, seed, **options):
        output[each.own] = torch.einsum("alm,mad->lad", each.weights * each.kept, value[each.own].float())
    return output.to(query.dtype)


def _gradients(
    upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, starts: Tensor, seed: int, **options: Any
) -> tuple[Tensor, ...]:
    """[N, A, D] gradients of query, key and value, in their type."""
    q, k, v, upstream = (each.float() for each in (query, key, value, upstream))
    found = [torch.zeros(query.shape) for _ in range(3)]
    for each in _examples(q, k, starts, seed, **options):
        own, kept = each.own, each.weights * each.kept
        found[2][own] = torch.einsum("alm,lad->mad", kept, upstream[own])
        of_kept = torch.einsum("lad,mad->alm", upstream[own], v[own]) * each.kept
        scores = each.weights * (of_kept - (of_kept * each.weights).sum(-1, keepdim=True)) * each.scale
        found[0][own] = torch.einsum("alm,mad->lad", scores, k[own])
        found[1][own] = torch.einsum("alm,lad->mad", scores, q[own])
    return tuple(each.to(query.dtype) for each in found)


def _require(parts: tuple[Tensor, ...], starts: Tensor, longest: int, types: tuple[torch.dtype, ...]) -> None:
    """Raise the error that a kernel would."""
    kinds = {each.dtype for each in parts}
    if len(kinds) > 1 or not kinds <= set(types):
        raise RuntimeError(f"query, key and value of types {sorted(map(str, kinds))}; the kernel takes one of {types}")
    if starts.dtype != torch.int32 or not starts.is_contiguous():
        raise RuntimeError("cu_seqlens must be a contiguous tensor of int32")
    if any(each.stride(-1) != 1 or each.shape[-1] % 8 for each in parts):
        raise RuntimeError("the last dimension must be contiguous, and a multiple of 8")
    if int(starts.diff().max()) != longest or int(starts[-1]) != len(parts[0]):
        raise RuntimeError("the longest example is another, or the examples are not all tokens")


def flash(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, starts_of_keys: Tensor, longest: int,
    longest_of_keys: int, dropout: float, causal: bool, return_debug_mask: bool, *, scale: float | None = None,
    window_size_left: int | None = None, window_size_right: int | None = None, seqused_k: None = None,
    block_table: None = None, num_splits: None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`aten._flash_attention_forward` of a ragged batch."""
    _require((query, key, value), starts, longest, SIXTEEN_BITS)
    assert starts_of_keys is starts and longest_of_keys == longest and not return_debug_mask
    seed = torch.randint(2**31, (2,))
    options = {
        "dropout": dropout,
        "causal": causal,
        "scale": scale,
        "window": _window(window_size_left, window_size_right),
    }
    output = _attended(query, key, value, starts, int(seed[0]), **options)
    sums = torch.zeros(query.shape[1], len(query))
    return output, sums, seed.to(torch.uint64), torch.empty(0, dtype=torch.uint64), torch.empty(0)


def _window(left: int | None, right: int | None) -> tuple[int, int]:
    return (-1 if left is None else left, -1 if right is None else right)


def flash_backward(
    upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor, starts: Tensor,
    starts_of_keys: Tensor, longest: int, longest_of_keys: int, dropout: float, causal: bool, seed: Tensor,
    unused: Tensor, *, scale: float | None = None, window_size_left: int | None = None,
    window_size_right: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`aten._flash_attention_backward` of a ragged batch."""
    _require((upstream, query, key, value, output), starts, longest, SIXTEEN_BITS)
    options = {
        "dropout": dropout,
        "causal": causal,
        "scale": scale,
        "window": _window(window_size_left, window_size_right),
    }
    return _gradients(upstream, query, key, value, starts, int(seed[0]), **options)


def efficient(
    query: Tensor, key: Tensor, value: Tensor, bias: None, starts: Tensor, starts_of_keys: Tensor, longest: int,
    longest_of_keys: int, dropout: float, mask_type: int, log_sums: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """`aten._efficient_attention_forward` of a ragged batch, [1, N, A, D]."""
    parts = (query[0], key[0], value[0])
    _require(parts, starts, longest, (torch.float32, *SIXTEEN_BITS))
    seed = torch.randint(2**31, ())
    options = {"dropout": dropout, "causal": mask_type == 1, "scale": scale, "window": (-1, -1)}
    output = _attended(*parts, starts, int(seed), **options)
    sums = torch.zeros(len(starts) - 1, query.shape[2], longest if log_sums else 0)
    return output[None], sums, seed, torch.zeros((), dtype=torch.long), longest, longest_of_keys


def efficient_backward(
    upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: None, output: Tensor, starts: Tensor,
    starts_of_keys: Tensor, longest: int, longest_of_keys: int, sums: Tensor, dropout: float, seed: Tensor,
    offset: Tensor, mask_type: int, bias_requires_gradient: bool, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """`aten._efficient_attention_backward` of a ragged batch, [1, N, A, D]."""
    if not sums.numel():
        raise RuntimeError("the forward pass has not kept its sums: compute_log_sumexp was false")
    parts = (query[0], key[0], value[0])
    _require((upstream[0], *parts), starts, longest, (torch.float32, *SIXTEEN_BITS))
    options = {"dropout": dropout, "causal": mask_type == 1, "scale": scale, "window": (-1, -1)}
    return *(each[None] for each in _gradients(upstream[0], *parts, starts, int(seed), **options)), torch.empty(0)


KERNELS: dict[Any, Callable[..., Any]] = {
    aten._flash_attention_forward.default: flash,
    aten._flash_attention_backward.default: flash_backward,
    aten._efficient_attention_forward.default: efficient,
    aten._efficient_attention_backward.default: efficient_backward,
}
"""Operators → what computes their numbers from those of their arguments."""

MADE_OF_OTHERS: dict[Any, Callable[..., Any]] = {
    torch.ops.torch_attn._varlen_attn.default: varlen._varlen_attn._init_fn,
    torch.ops.torch_attn._varlen_attn_backward.default: varlen._varlen_attn_backward._init_fn,
}
"""Operators that PyTorch computes by those above → its own functions."""


def flex(query: Tensor, key: Tensor, value: Tensor, *, block_mask: Any, scale: float) -> Tensor:
    """FlexAttention over the whole square, for a mask that its `mask_mod` gives."""
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError("Expected query, key, and value to have the same dtype")
    places = torch.arange(query.shape[2], device=query.device)
    zero = torch.zeros((), dtype=torch.long, device=query.device)
    seen = block_mask.mask_mod(zero, zero, places[:, None], places)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, scale=scale)
