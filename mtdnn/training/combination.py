"""From the backward passes of an update's tasks to the gradient that the optimizer moves by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mtdnn.balancing.base import Balancer, Gradient
from mtdnn.balancing.gramian import cosines, gramian, weighted_sum
from mtdnn.batch import on_device
from mtdnn.execution.overlap import Overlap
from mtdnn.execution.processes import Processes, Sum
from mtdnn.execution.sharding import is_part, own
from mtdnn.model import MultiTaskModel
from mtdnn.seeding import preserved_default_generators, seed_default_generators
from mtdnn.training.optim import HEADS


@dataclass(frozen=True)
class Conflicts:
    """How the gradients of an update's tasks over the shared weights agree.

    Attributes:
        tasks: names, in the order of rows and columns.
        cosine: [K, K].
        norm: [K].
    """

    tasks: list[str]
    cosine: list[list[float]]
    norm: list[float]

    @classmethod
    def of(cls, tasks: Sequence[str], products: Tensor) -> Conflicts:
        """Those of gradients with these inner products [K, K]."""
        return cls(list(tasks), cosines(products).tolist(), products.diagonal().clamp(min=0).sqrt().tolist())


@dataclass
class Move:
    """What is known of one movement of the optimizer while its tasks go backward.

    Attributes:
        tasks: those of the update that take part.
        keep: whether the shared weights' gradient of each task is kept.
        factors: task → factor of its loss, where it is known before its backward pass.
        kept: task → gradient by shared weight, over all processes.
        norms: task → norm of the last shared layer's gradient.
        losses: task → loss that the balancer weighted it by.
        weights: task → the weight it ended with, for the log.
    """

    tasks: list[str]
    keep: bool
    factors: dict[str, Tensor]
    kept: dict[str, Gradient] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


class Combination:
    """Combines the gradients of an update's tasks as a balancer says; shared weights are those outside the heads.

    Args:
        model: encoder and heads; a weight that is both the encoder's and a head's is shared.
        balancer: the run's.
        reduce: sums over processes; None in a run of one.
        seed: the run's, for methods that draw.
        processes: those, if gradients may be summed during a backward pass.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        balancer: Balancer,
        *,
        seed: int,
        reduce: Sum | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.balancer, self.reduce, self.seed = balancer, reduce, seed
        named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self.shared = [weight for name, weight in named if not name.startswith(HEADS)]
        self.of_heads = [weight for name, weight in named if name.startswith(HEADS)]
        whole = not any(map(is_part, [*self.shared, *self.of_heads]))
        self._overlap = Overlap(processes, [*self.shared, *self.of_heads]) if processes is not None and whole else None
        self._is_summed = False
        layer_of = model.encoder.layer_of if self.shared else None
        depth = {name: layer_of(name) for name, _ in named if layer_of and not name.startswith(HEADS)}
        self.last_layer = [weight for name, weight in named if name in depth and depth[name] == max(depth.values())]

    def begin(self, tasks: Sequence[str], *, keep: bool = False) -> Move:
        """The start of a movement by these tasks.

        Args:
            tasks: those that go backward before the optimizer moves.
            keep: keep the shared weights' gradient of each task, whatever the balancer needs.
        """
        before = self.balancer.acts == "before"
        together = self.balancer.acts == "together" and len(tasks) > 1
        move = Move(list(tasks), keep or together, self.balancer.weights(tasks) if before else {})
        move.weights.update(move.factors)
        return move

    @contextmanager
    def summing(self, move: Move) -> Iterator[None]:
        """For the one backward pass of a movement: gradients are summed over the processes during it.

        Args:
            move: of one task, whose gradient nothing else is needed of.
        """
        if self._overlap is None:
            yield
            return
        with self._overlap.during(tuple(move.tasks)):
            yield
        self._is_summed = True

    @contextmanager
    def going_backward(self, move: Move, task: str, loss: Callable[[], Tensor]) -> Iterator[Tensor | None]:
        """For the backward passes of one task; gives the factor of its loss, None for 1.

        Args:
            move: the movement.
            task: whose passes they are.
            loss: what the task's gradient is weighted by where the balancer acts after it; asked for at the end.
        """
        after, norms = self.balancer.acts == "after", self.balancer.needs_norms and not move.keep
        aside = self._taken(self.last_layer) if norms else []
        rest = self._taken([*self.shared, *self.of_heads]) if after else []
        yield move.factors.get(task)
        if after:
            self._weigh(move, task, loss())
        if move.keep:
            taken = self._taken(self.shared)
            move.kept[task] = taken if after else self._summed(taken)  # `_weigh` has summed them
        if norms:
            move.norms[task] = _norm(self._summed(_copies(self.last_layer)))
            _add(self.last_layer, aside)
        elif self.balancer.needs_norms:
            of_layer = {id(weight) for weight in self.last_layer}
            pairs = zip(self.shared, move.kept[task], strict=True)
            move.norms[task] = _norm([each for weight, each in pairs if id(weight) in of_layer])
        if after:
            _add([*self.shared, *self.of_heads], rest)

    def finish(self, move: Move, step: int) -> Tensor | None:
        """Leave in `grad` of every weight what the optimizer moves by; [K, K] products of the kept gradients.

        Args:
            move: the movement, all of whose tasks have gone backward.
            step: optimizer steps before it, for methods that draw.
        """
        kept = list(move.kept.values())
        products = None
        if move.keep:
            products = gramian(kept)
            _set(self.shared, self._combined(move, kept, step))
        if self.balancer.acts == "after":
            self._normalize(move)
        else:
            self._sum_over_ranks(self.of_heads if move.keep else [*self.shared, *self.of_heads])
        return products

    def _combined(self, move: Move, kept: list[Gradient], step: int) -> list[Tensor | None]:
        """One gradient from the kept ones."""
        if self.balancer.acts != "together" or len(kept) == 1:
            return weighted_sum(kept, torch.ones(len(kept)))
        with preserved_default_generators():
            seed_default_generators(self.seed, "balance", step)
            combined, weights = self.balancer.combine_apart(kept)
        if weights is not None:
            move.weights.update(zip(move.kept, on_device(weights, self.shared[0].device).unbind(), strict=True))
        return combined

    def _weigh(self, move: Move, task: str, loss: Tensor) -> None:
        """Multiply the gradient of the task by the weight that its loss gives it."""
        weights = [*self.shared, *self.of_heads]
        self._sum_over_ranks(weights)
        move.losses[task] = loss
        move.weights[task] = self.balancer.weight_after(task, move.tasks, loss)
        for each in weights:
            if each.grad is not None:
                own(each.grad).mul_(move.weights[task])

    def _normalize(self, move: Move) -> None:
        factor = self.balancer.common_factor(move.tasks, move.losses)
        move.weights = {task: weight * factor for task, weight in move.weights.items()}
        for weight in [*self.shared, *self.of_heads]:
            if weight.grad is not None:
                own(weight.grad).mul_(factor)

    def _sum_over_ranks(self, weights: Sequence[nn.Parameter]) -> None:
        """Sum gradients over the processes of a distributed run.

        The model is not wrapped in DistributedDataParallel: a step runs several forward passes, a different head each
        time, and several backward passes for some regularizers, none of which its hooks allow. Shares already divide
        by the totals over all ranks, so that the sum is the gradient of the whole batch.
        """
        if self._is_summed:
            self._is_summed = False
        elif self.reduce is not None:
            whole = [weight for weight in weights if not is_part(weight)]  # gradients of parts are summed already
            _set(whole, self._summed([weight.grad for weight in whole]))

    def _summed(self, gradient: Gradient) -> Gradient:
        if self.reduce is None:
            return gradient
        summed = iter(self.reduce([each for each in gradient if each is not None]))
        return [None if each is None else next(summed) for each in gradient]

    def _taken(self, weights: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """The gradients of the weights, which have none any more."""
        found = [weight.grad for weight in weights]
        _set(weights, [None] * len(found))
        return found


def totals(losses: Mapping[str, Tensor], reduce: Sum | None) -> dict[str, Tensor]:
    """Values of which every process has its share, summed: those of the whole batch.

    Args:
        losses: name → this process's share.
        reduce: sums over processes; None in a run of one.
    """
    if reduce is None or not losses:
        return dict(losses)
    (values,) = reduce([torch.stack(list(losses.values()))])
    return dict(zip(losses, values.unbind(), strict=True))


def _set(weights: Sequence[nn.Parameter], gradient: Gradient) -> None:
    for weight, each in zip(weights, gradient, strict=True):
        weight.grad = each


def _add(weights: Sequence[nn.Parameter], gradient: Gradient) -> None:
    """Add a gradient set aside to the one that has come since."""
    for weight, each in zip(weights, gradient, strict=True):
        if each is not None:
            if weight.grad is not None:
                own(each).add_(own(weight.grad))
            weight.grad = each


def _copies(weights: Sequence[nn.Parameter]) -> list[Tensor | None]:
    return [None if weight.grad is None else weight.grad.clone() for weight in weights]


def _norm(gradient: Gradient) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([each.norm() for each in gradient if each is not None]))
