"""Fast dropout masks on a CPU: the distribution of PyTorch's masks in about a tenth of the time.

PyTorch draws one uniform number per element from one sequential generator (6 ns each on an AVX-512 core). Here each
call draws one seed from PyTorch's default generator and generates 16 random bits per element from it (0.4 ns); a
training step with PyTorch's masks takes 6 to 16 % longer (`benchmarks/README.md`). The masks still depend only on the
state of the default generator: restoring it, as in gradient checkpointing or a replayed pass, gives the same masks.
Other devices use PyTorch's own dropout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """`nn.Dropout` with fast masks on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        if input.device.type != "cpu" or self.p == 1:
            return functional.dropout(input, self.p, training=True)
        return _ScaledMask.apply(input, random_bits(input.numel()).view(input.shape), self.p)


def use_fast_dropout(model: nn.Module) -> None:
    """Replace every plain `nn.Dropout` in a model, in place; probabilities and modes are kept."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))


def hide_from_compiler() -> None:
    """Exclude the fast masks from torch.compile, which would replace numpy's generator."""
    if not hasattr(Dropout.forward, "_torchdynamo_disable"):
        setattr(Dropout, "forward", torch.compiler.disable(Dropout.forward))  # noqa: B010  mypy refuses an assignment


def random_bits(count: int) -> Tensor:
    """[count] int16, uniform over all values; the seed is drawn from PyTorch's default generator.

    Source: SFC64 (Doty-Humphrey, PractRand), numpy's fastest generator; four elements share a 64-bit word.
    """
    seed = int(torch.randint(torch.iinfo(torch.int64).max, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, size=(count + 3) // 4, dtype=np.uint64)
    return torch.from_numpy(words.view(np.int16))[:count]


def keep_mask(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """1 where an element is kept, 0 where it is dropped, in the shape of `bits`.

    Writing the comparison directly as numbers of `dtype` is several times faster than multiplying by a bool mask.

    Args:
        bits: random int16 numbers.
        p: probability of a 0.
        dtype: dtype of the result.
    """
    return torch.ge(bits, _dropped_levels(p) - _LEVELS // 2, out=torch.empty(bits.shape, dtype=dtype))


def keep_scale(p: float) -> float:
    """The factor of kept elements with which the expectation is unchanged: 1 / P(keep).

    P(drop) is p rounded to 16 bits, with an error below 1e-5.
    """
    return _LEVELS / (_LEVELS - _dropped_levels(p))


def _dropped_levels(p: float) -> int:
    return min(round(p * _LEVELS), _LEVELS - 1)


class _ScaledMask(torch.autograd.Function):
    """x · mask / P(keep). Saves two bytes per element for the backward pass: the random bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.p = p
        return keep_mask(bits, p, x.dtype).mul_(x).mul_(keep_scale(p))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (bits,) = ctx.saved_tensors
        return keep_mask(bits, ctx.p, gradients[0].dtype).mul_(gradients[0]).mul_(keep_scale(ctx.p)), None, None
