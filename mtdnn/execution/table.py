"""The gradient of the word embeddings on a CPU: the same numbers, in time that does not grow with the table.

A step's tokens touch a few hundred of 30,000 rows or more; the gradient of all others is 0. PyTorch clears a new tensor
of the table's size in each step, 47 MB for MiniLM and 94 MB for BERT-base, and clipping multiplies all of it. Here one
tensor is kept, whose touched rows are cleared after the update, and clipping multiplies these rows only.

Dimensions: V rows of the table, E size of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

READERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.RAdam, torch.optim.SGD)
"""Optimizers that read gradients and never write into them, unless `foreach` is set.

Others, subclasses of these included, may add weight decay to the gradient in place, which would remain in a kept one.
"""


class Embedding(nn.Embedding):
    """`nn.Embedding` whose gradient comes from a `TableGradient`, if it has one."""

    gradient: TableGradient | None

    def forward(self, input: Tensor) -> Tensor:
        if self.gradient is None or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(input)
        return cast(Tensor, _Lookup.apply(self.weight, input, self.gradient))


class TableGradient:
    """The gradient tensor of an embedding table, kept from one update to the next.

    Call `release` after each update, before the optimizer clears the gradients. The tensor is reused only if nothing
    but lookups contributed to it, which a hook on the weight checks: where a head is tied to the table, or a penalty
    is on the weights themselves, there is a new tensor for each update, as without this class.

    Args:
        table: made to use it.
    """

    def __init__(self, table: nn.Embedding) -> None:
        self._table, self._weight, self._padding = table, table.weight, table.padding_idx
        self._zeros: Tensor | None = None
        self._handle = table.weight.register_hook(self._check)
        self._begin()
        table.__class__ = Embedding
        cast(Embedding, table).gradient = self

    @classmethod
    def of(cls, table: nn.Module, optimizer: Optimizer) -> TableGradient | None:
        """The gradient of a table, or None where nothing would be gained: on a GPU, frozen, or a table of another kind.

        A sharded weight is left alone, too, and so is the table of an optimizer that may write into gradients.

        Args:
            table: the word embeddings.
            optimizer: moves their weight.
        """
        if isinstance(table, Embedding) and table.gradient is not None:
            table.gradient.close()
        if type(table) is not nn.Embedding and type(table) is not Embedding:
            return None
        weight, plain = table.weight, table.max_norm is None and not (table.sparse or table.scale_grad_by_freq)
        own = type(weight) is nn.Parameter and type(weight.data) is Tensor and weight.is_contiguous()
        gains = weight.requires_grad and weight.device.type == "cpu"
        return cls(table) if plain and own and gains and _only_reads_gradients(optimizer) else None

    def __deepcopy__(self, memo: object) -> None:
        """None: the copy of a model has the gradients of PyTorch."""
        return None

    def close(self) -> None:
        """Let the table have the gradients of PyTorch again."""
        self._handle.remove()
        cast(Embedding, self._table).gradient = None

    def of_lookup(self, ids: Tensor, upstream: Tensor) -> Tensor:
        """[V, E]: the gradient of one lookup, which is new, or the kept tensor.

        Args:
            ids: […] long, the rows that were looked up.
            upstream: […, E], the gradient of what was found.
        """
        rows, places = ids.unique(return_inverse=True)
        padding = -1 if self._padding is None else int(torch.searchsorted(rows, self._padding))
        if not (0 <= padding < len(rows) and int(rows[padding]) == self._padding):
            padding = -1
        touched = torch.ops.aten.embedding_dense_backward(upstream, places, len(rows), padding, False)
        whole, self._zeros = self._zeros, None
        if whole is None:
            whole = torch.zeros_like(self._weight)
        whole.index_copy_(0, rows, touched)
        self._rows.append(rows)
        self._given[whole.data_ptr()] = whole._version
        return whole

    def _check(self, gradient: Tensor | None) -> None:
        """Note whether what arrives at the weight is the gradient of one lookup, without anything added."""
        if gradient is None:
            return
        address = gradient.data_ptr()
        if self._given.get(address) == gradient._version:
            self._known.add(address)
        else:
            self._has_more = True

    @property
    def _rows_of_weight(self) -> Tensor | None:
        """The rows outside which the weight's gradient is 0; None if that is not known."""
        gradient = self._weight.grad
        if gradient is None or self._has_more or gradient.data_ptr() not in self._known:
            return None
        return self._rows[0] if len(self._rows) == 1 else torch.cat(self._rows).unique()

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Clip the gradient of all parameters, as `clip_grad_norm_`; returns its norm before.

        Args:
            parameters: of the run, the table's weight among them.
            limit: largest norm.
        """
        rows = self._rows_of_weight
        if rows is None or self._weight.grad is None:
            return clip_grad_norm_(parameters, limit)
        norm = get_total_norm([each.grad for each in parameters if each.grad is not None])
        clip_grads_with_norm_([each for each in parameters if each is not self._weight], limit, norm)
        factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
        gradient = self._weight.grad
        gradient.index_copy_(0, rows, gradient.index_select(0, rows).mul_(factor))
        return norm

    def release(self) -> None:
        """Take the weight's gradient back once the optimizer has used it, and clear it for the next update."""
        rows, gradient = self._rows_of_weight, self._weight.grad
        if rows is not None and gradient is not None:
            self._zeros = gradient.index_fill_(0, rows, 0.0)
        self._weight.grad = None
        self._begin()

    def _begin(self) -> None:
        self._rows: list[Tensor] = []
        self._given: dict[int, int] = {}
        self._known: set[int] = set()
        self._has_more = False


def _only_reads_gradients(optimizer: Optimizer) -> bool:
    """Whether the gradient of rows without tokens is still 0 after an optimizer's update."""
    return type(optimizer) in READERS and not any(group.get("foreach") for group in optimizer.param_groups)


class _Lookup(torch.autograd.Function):
    """Rows of a table; a gradient that is to be differentiated again is PyTorch's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, gradient: TableGradient) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.gradient, ctx.rows = gradient, len(weight)
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            padding = -1 if ctx.gradient._padding is None else ctx.gradient._padding
            whole = torch.ops.aten.embedding_dense_backward(gradients[0], ids, ctx.rows, padding, False)
            return whole, None, None
        return ctx.gradient.of_lookup(ids, gradients[0]), None, None
