"""Faster products of linear layers on some CPUs: equal up to rounding, in as little as half the time.

For float32 PyTorch uses MKL, which leaves half of the AVX-512 units of AMD processors idle; oneDNN, which PyTorch has
for 16-bit numbers, uses all of them. On such processors the forward and backward products of large layers are computed
by oneDNN; elsewhere by PyTorch as usual. And some processors multiply bf16 numbers more slowly than float32 ones.

Dimensions: N rows of the input, I input features, O output features.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST = 1 << 24
"""Products with fewer multiplications stay with MKL: oneDNN compiles a kernel for each shape, in about 0.5 ms."""


class Linear(nn.Linear):
    """`nn.Linear` with faster products of float32 matrices on some CPUs."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def use_fast_products(model: nn.Module) -> None:
    """Make every plain `nn.Linear` in a model use the faster products; weights, names and hooks are kept."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[…, I] → […, O], as `torch.nn.functional.linear`; by oneDNN where that is faster.

    Args:
        input: […, in features].
        weight: [out features, in features].
        bias: [out features] or None.
    """
    if not (_is_eligible(input, weight) and onednn_is_faster()):
        return functional.linear(input, weight, bias)
    return cast(Tensor, _Product.apply(input, weight, bias))


def compiled_for(rows: int, size: int) -> bool:
    """Whether products of that many float32 rows with a square matrix of this size, or a larger one, go to oneDNN."""
    return rows * size * size >= _SMALLEST and onednn_is_faster()


def _is_eligible(input: Tensor, weight: Tensor) -> bool:
    """Whether these are large enough float32 matrices on the CPU, outside autocast and torch.compile."""
    return (
        input.dtype == weight.dtype == torch.float32
        and input.device.type == "cpu"
        and input.numel() * len(weight) >= _SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512, and PyTorch has MKL and a working oneDNN product.

    The operator is not part of PyTorch's documented interface, so it is tested on a small product first.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not (torch.backends.cpu.get_cpu_capability().startswith("AVX512") and "AuthenticAMD" in processor()):
        return False
    x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        return torch.equal(_onednn(x, weight), x @ weight.t())
    except (AttributeError, RuntimeError, TypeError):
        return False


@cache
def bf16_is_faster() -> bool:
    """Whether this processor multiplies matrices of bf16 numbers faster than those of float32 numbers.

    On x86: AMX does, and so does AVX512_BF16 of AMD's and of Intel's older processors. In Intel's processors from
    Sapphire Rapids on (those with AVX512_FP16) these instructions are slow; virtual machines often hide their AMX.
    Without either, oneDNN converts to float32 and back. Other processors are taken to be faster.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not (described := processor()):
        return True
    found = re.search(r"^flags\s*:(.*)$", described, re.MULTILINE)
    if found is None:  # not Linux: no such list
        return True
    flags = set(found.group(1).split())
    slow_instructions = "AuthenticAMD" not in described and "avx512_fp16" in flags
    return "amx_bf16" in flags or ("avx512_bf16" in flags and not slow_instructions)


def has_tf32() -> bool:
    """Whether products of float32 numbers are TF32 on a GPU, in whichever of PyTorch's two ways it was allowed."""
    products: Any = torch.backends.cuda.matmul
    return bool(products.fp32_precision == "tf32")


@contextmanager
def whole_float32() -> Iterator[None]:
    """A context in which float32 numbers are multiplied as such, without TF32 on a GPU or bf16 on a CPU.

    `torch.get_float32_matmul_precision` is an error where a script has allowed TF32 by `fp32_precision`.
    """
    backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
    before = [each.matmul.fp32_precision for each in backends]
    for each in backends:
        each.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        for each, precision in zip(backends, before, strict=True):
            each.matmul.fp32_precision = precision


def processor() -> str:
    """The operating system's description of the first processor, with its vendor."""
    described = Path("/proc/cpuinfo")
    return described.read_text(errors="replace").partition("\n\n")[0] if described.exists() else platform.processor()


def _onednn(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, I] · [O, I]ᵀ + [O] → [N, O]."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], ""))


class _Product(torch.autograd.Function):
    """x Wᵀ + b and its gradients. First derivatives only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = _needed_gradients(ctx)
        rows = gradients[0].reshape(-1, len(weight)).contiguous()
        return (
            _onednn(rows, weight.t()).view(x.shape) if of_x else None,
            _onednn(rows.t(), x.reshape(-1, x.shape[-1]).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _needed_gradients(ctx: Any) -> list[bool]:
    """For x, W and b, whether this backward pass needs their gradient.

    `needs_input_grad` only says which gradients could be needed. Regularizers compute the gradient of embeddings only;
    such a pass would take twice as long if it also computed those of all weights.
    """
    asked = [False, False, False]
    for place, (node, _) in enumerate(ctx.next_functions):  # none for a layer without bias
        try:
            asked[place] = ctx.needs_input_grad[place] and torch._C._will_engine_execute_node(node)
        except RuntimeError:  # a leaf given to torch.autograd.grad
            asked[place] = True
    return asked
