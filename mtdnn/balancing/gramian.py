"""Inner products and weighted sums of the gradients of several tasks, which may not touch all weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtdnn.batch import on_device
from mtdnn.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")

CHUNK = 1 << 20
"""Numbers of each gradient that are held in float64 at once."""


def gramian(gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """[K, K] float64 on the host: g_i·g_j; a weight that a task does not touch counts as 0.

    Computed in float64, so that the matrix has no negative eigenvalue beyond rounding, as solvers need.
    """
    device = next((each.device for own in gradients for each in own if each is not None), torch.device("cpu"))
    places: dict[tuple[int, ...], Tensor] = {}
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=device)
    for of_weight in zip(*gradients, strict=True):
        present = [(task, each.reshape(-1)) for task, each in enumerate(of_weight) if each is not None]
        if not present:
            continue
        tasks = tuple(task for task, _ in present)
        if tasks not in places:  # the host would wait for a copy of every weight's
            places[tasks] = on_device(torch.tensor(tasks), device)
        rows = places[tasks]
        for start in range(0, len(present[0][1]), CHUNK):
            block = torch.stack([flat[start : start + CHUNK] for _, flat in present]).double()
            total[rows[:, None], rows] += block @ block.T
    return total.cpu()


def weighted_sum(gradients: Sequence[Sequence[Tensor | None]], weights: Tensor) -> list[Tensor | None]:
    """Σ w_i g_i by weight, written over the first gradients; None where no task touches a weight.

    Args:
        gradients: of each task, by weight.
        weights: [K].
    """
    factors: list[float] = weights.tolist()
    total: list[Tensor | None] = []
    for of_weight in zip(*gradients, strict=True):
        found: Tensor | None = None
        for each, factor in zip(of_weight, factors, strict=True):
            if each is not None:
                found = each.mul_(factor) if found is None else found.add_(each, alpha=factor)
        total.append(found)
    return total


def cosines(products: Tensor) -> Tensor:
    """[K, K] cosines from inner products [K, K]; 0 where a gradient is 0."""
    norms = products.diagonal().clamp(min=0).sqrt()
    sizes = norms[:, None] * norms
    found: Tensor = torch.where(sizes > 0, products / sizes.clamp(min=torch.finfo(products.dtype).tiny), 0.0)
    return found.clamp(-1, 1)
