"""Gradients summed over processes while the backward pass still computes others."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from mtdnn.execution.processes import Processes, Started, buckets


@dataclass
class Bucket:
    """Weights whose gradients are summed in one exchange.

    Attributes:
        places: the weights, by number.
        missing: those whose gradient is not there yet.
        started: the exchange, once it has begun.
    """

    places: list[int]
    missing: set[int]
    started: Started | None = None


class Overlap:
    """Sums the gradients of weights in the buffers of `Processes.sums`, each as soon as all of it is there.

    Which weights have a gradient is known from the last backward pass of the same kind; a first one is summed at its
    end. A backward pass reaches the last layers first, so that exchanges begin with the last buffer, in the same order
    on all processes.

    Args:
        processes: of the run.
        weights: whose gradients are summed.
    """

    def __init__(self, processes: Processes, weights: Sequence[nn.Parameter]) -> None:
        self.processes, self.weights = processes, list(weights)
        self._of_kind: dict[Hashable, list[int]] = {}
        self._waiting: list[Bucket] = []
        self._bucket_of: dict[int, Bucket] = {}
        for place, weight in enumerate(self.weights):
            weight.register_post_accumulate_grad_hook(lambda _, place=place: self._is_there(place))  # type: ignore[misc]

    @contextmanager
    def during(self, kind: Hashable) -> Iterator[None]:
        """For one backward pass, after which each `grad` is the sum over all processes.

        Args:
            kind: passes of the same kind reach the same weights.
        Raises:
            LostProcess: another process has ended.
        """
        known = self._of_kind.get(kind, [])
        order = [Bucket([known[n] for n in own], {known[n] for n in own}) for own in self._buckets_of(known)][::-1]
        self._waiting, self._bucket_of = list(order), {place: each for each in order for place in each.places}
        try:
            yield
        finally:
            self._waiting, self._bucket_of = [], {}
        summed: set[int] = set()
        for each in order:
            if each.started is not None:
                self._set(each.places, self.processes.finish(each.started))
                summed.update(each.places)
        found = [place for place, weight in enumerate(self.weights) if weight.grad is not None]
        rest = [place for place in found if place not in summed]
        self._set(rest, self.processes.sums([self._gradient(place) for place in rest]))
        self._of_kind[kind] = found

    def _is_there(self, place: int) -> None:
        """Begin the exchanges that the gradient of a weight completes."""
        if place not in self._bucket_of:
            return
        bucket = self._bucket_of[place]
        assert bucket.started is None, "a gradient has changed after its sum began: two backward passes"
        bucket.missing.discard(place)
        while self._waiting and not self._waiting[0].missing:
            first = self._waiting.pop(0)
            first.started = self.processes.start([self._gradient(each) for each in first.places])

    def _buckets_of(self, places: Sequence[int]) -> Iterator[list[int]]:
        return buckets([self.weights[place] for place in places], self.processes.bucket_bytes)

    def _gradient(self, place: int) -> Tensor:
        gradient = self.weights[place].grad
        assert gradient is not None
        return gradient

    def _set(self, places: Sequence[int], gradients: Sequence[Tensor]) -> None:
        for place, gradient in zip(places, gradients, strict=True):
            self.weights[place].grad = gradient
