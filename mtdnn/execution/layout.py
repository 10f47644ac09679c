"""The layout of a batch for attention: concatenated sequences, and squares of sequences of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from mtdnn.batch import on_device


@dataclass(frozen=True)
class Group:
    """Consecutive examples of equal length in a packed row; they need neither padding nor a mask."""

    examples: int
    length: int

    @property
    def tokens(self) -> int:
        """Number of real tokens in the group."""
        return self.examples * self.length


@dataclass(frozen=True)
class Squares:
    """A packed row split into squares: examples of similar length, padded to the longest of them.

    The number of calls per square does not depend on its size, and a batch has nearly as many lengths as examples, so
    similar lengths share a square. Its rows are ordered by example, head and token; A is the number of heads.

    Fields:
        shapes: number of examples and length of each square.
        rows: [R] long, for each row of the squares its position in the packed [N·A]; arbitrary for padding.
        back: [N·A] long, for each position in the packed row its row in the squares.
        padding: [P] long, rows of the squares that are padding.
        bias: per square None, or [examples, 1, 1, length], 0 at keys and −inf at padding.
    """

    shapes: tuple[Group, ...]
    rows: Tensor
    back: Tensor
    padding: Tensor
    bias: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, lengths: tuple[int, ...], heads: int) -> Squares:
        """The squares of examples of ascending lengths, on the CPU."""
        counts = torch.tensor(lengths)
        starts = counts.cumsum(0) - counts
        shapes, rows, real, bias, first = [], [], [], [], 0
        for run in similar(lengths):
            length, own = run[-1], slice(first, first + len(run))
            token = torch.arange(length)
            is_token = token < counts[own, None]  # [examples, length]
            place = torch.where(is_token, starts[own, None] + token, 0)
            rows.append((place[:, None] * heads + torch.arange(heads)[:, None]).flatten())
            real.append(is_token[:, None].expand(-1, heads, -1).flatten())
            empty = torch.zeros(is_token.shape).masked_fill(~is_token, -torch.inf)
            bias.append(None if run[0] == length else empty[:, None, None])
            shapes.append(Group(len(run), length))
            first += len(run)
        index, kept = torch.cat(rows), torch.cat(real)
        back = torch.empty(int(counts.sum()) * heads, dtype=torch.long)
        back[index[kept]] = kept.nonzero().flatten()
        return cls(tuple(shapes), index, back, (~kept).nonzero().flatten(), tuple(bias))


def similar(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Ascending lengths grouped into runs whose lengths differ by at most a sixteenth, or by two."""
    run: list[int] = []
    for length in lengths:
        if run and length > max(run[0] * 17 // 16, run[0] + 2):
            yield run
            run = []
        run.append(length)
    if run:
        yield run


@dataclass(frozen=True)
class Layout:
    """Positions of the real tokens of a padded batch in a packed row; shorter examples come first.

    Fields:
        shape: B and T.
        index: [N] long, position of each packed token in the flattened [B·T].
        lengths: real tokens of each example that has any, ascending.
        rounded: whether packed rows are padded at the end, see `tail`.
    """

    shape: tuple[int, int]
    index: Tensor
    lengths: tuple[int, ...]
    rounded: bool = False

    @classmethod
    def of(cls, mask: Tensor, device: torch.device, *, rounded: bool = False) -> Layout:
        """The layout of a [B, T] mask for tensors on `device`; a mask on the CPU avoids a synchronisation.

        Args:
            mask: [B, T] bool, True = a real token.
            device: device of the packed tensors.
            rounded: whether the number of packed tokens is rounded up.
        """
        on_cpu = mask.cpu()
        counts = on_cpu.sum(1)
        order = counts.argsort(stable=True)
        rows, columns = on_cpu[order].nonzero(as_tuple=True)
        index = order[rows] * on_cpu.shape[1] + columns
        lengths = tuple(length for length in counts[order].tolist() if length)
        shape = (on_cpu.shape[0], on_cpu.shape[1])
        return cls(shape, on_device(index, device), lengths, rounded)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Runs of examples of equal length, in packed order."""
        return tuple(Group(len(list(run)), length) for length, run in groupby(self.lengths))

    def squares(self, heads: int) -> Squares:
        """The squares of this layout for attention with that many heads; computed once."""
        known: dict[int, Squares] = self.__dict__.setdefault("_squares", {})
        if heads not in known:
            known[heads] = Squares.of(self.lengths, heads)
        return known[heads]

    @cached_property
    def squares_on_device(self) -> Squares:
        """The squares of this layout for attention that computes all heads at once, on the layout's device."""
        device, squares = self.index.device, self.squares(1)
        rows, back, padding = (on_device(each, device) for each in (squares.rows, squares.back, squares.padding))
        bias = tuple(None if each is None else on_device(each, device) for each in squares.bias)
        return Squares(squares.shapes, rows, back, padding, bias)

    @cached_property
    def boundaries(self) -> Tensor:
        """[examples + 1] int32: where each example starts in the packed row, and where the last one ends."""
        starts = torch.tensor((0, *self.lengths)).cumsum(0, dtype=torch.int32)
        return on_device(starts, self.index.device)

    @property
    def tail(self) -> int:
        """Padding positions after the real tokens, at most 1/16 of them; 0 unless rounded.

        oneDNN, which multiplies 16-bit numbers on a CPU (on some also float32), compiles a kernel for every new number
        of rows and caches up to 1,024 of them. Compiling can take longer than the product itself. With rounding, packed
        rows have few different lengths.
        """
        tokens = len(self.index)
        step = max(8, 1 << max(tokens.bit_length() - 5, 0))
        return -tokens % step if self.rounded else 0

    def pack_rounded(self, padded: Tensor) -> Tensor:
        """[B, T, …] → [N + tail, …], real tokens, then zeros."""
        packed = self.pack(padded)
        return torch.cat((packed, packed.new_zeros(self.tail, *packed.shape[1:]))) if self.tail else packed

    def pack(self, padded: Tensor) -> Tensor:
        """[B, T, …] → [N, …], real tokens only."""
        return padded.flatten(0, 1).index_select(0, self.index)

    def unpack(self, packed: Tensor) -> Tensor:
        """[N, …] → [B, T, …], zero at padding."""
        places = self.shape[0] * self.shape[1]
        return packed.new_zeros(places, *packed.shape[1:]).index_copy(0, self.index, packed).unflatten(0, self.shape)


class LastLayout:
    """The layout of a batch for all passes over it: SMART makes five, each of which would compute and copy it again.

    A copy of it is empty.
    """

    def __init__(self) -> None:
        self._known: tuple[Tensor, tuple[object, ...], Layout] | None = None

    def of(self, mask: Tensor, device: torch.device, *, rounded: bool) -> Layout:
        """The layout of a mask, the one from before if it is the same tensor, unchanged.

        Args:
            mask, device, rounded: as for `Layout.of`.
        """
        inside = torch.is_inference_mode_enabled()  # its tensors cannot be used outside of it with a gradient
        key = (device, rounded, inside, None if mask.is_inference() else mask._version)
        if self._known is None or self._known[0] is not mask or self._known[1] != key:
            self._known = (mask, key, Layout.of(mask, device, rounded=rounded))
        return self._known[2]

    def __deepcopy__(self, memo: object) -> LastLayout:
        return LastLayout()
