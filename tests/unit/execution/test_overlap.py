"""Gradients summed during the backward pass: the same sums, in the same buffers, begun before the pass has ended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtdnn.execution.overlap import Overlap
from mtdnn.execution.processes import Processes
from tests.unit.execution.test_processes import Twin


class Work:
    """An exchange with another process that does the same: the buffer doubles when it is waited for."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat

    def wait(self) -> None:
        self.flat.mul_(2)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened: "exchange N" with so many numbers, "waited N" if it was waited for, "gradient N" of layer N."""
    found: list[str] = []

    def all_reduce(flat: Tensor, async_op: bool = False) -> Work | None:
        found.append(f"{'exchange' if async_op else 'waited'} {flat.numel()}")
        work = Work(flat)
        return work if async_op else work.wait()

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return found


def network() -> nn.Sequential:
    """Three layers of 2 x 2 weights without bias, and one that no pass reaches."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(4)))


def go_backward(layers: nn.Sequential, count: int = 3) -> None:
    layers.zero_grad()
    value = torch.ones(1, 2)
    for layer in list(layers)[:count]:
        value = layer(value).tanh()
    value.sum().backward()


def gradients(layers: nn.Sequential) -> list[Tensor | None]:
    return [layer.weight.grad for layer in layers]


def test_sums_begin_before_the_backward_pass_has_ended_and_are_as_many_as_without(events: list[str]) -> None:
    """Two matrices are 32 bytes: buffers of layers 0 and 1, and of layer 2, which comes first in a backward pass."""
    accelerator: Any = Twin()
    layers, processes = network(), Processes(accelerator, bucket_bytes=32)
    overlap = Overlap(processes, list(layers.parameters()))
    for place, layer in enumerate(layers):
        layer.weight.register_post_accumulate_grad_hook(lambda _, place=place: events.append(f"gradient {place}"))  # type: ignore[misc]
    with overlap.during("first"):
        go_backward(layers)
    assert [each for each in events if "waited" in each] == ["waited 8", "waited 4"] and processes.exchanges == 2
    events.clear()
    with overlap.during("first"):
        go_backward(layers)
    assert processes.exchanges == 4
    assert events == ["exchange 4", "gradient 2", "gradient 1", "exchange 8", "gradient 0"]
    found = gradients(layers)
    go_backward(layers)
    expected = processes.sums([each for each in gradients(layers) if each is not None])
    assert found[3] is None and all(torch.equal(*pair) for pair in zip(expected, found[:3], strict=True))  # type: ignore[arg-type]


def test_a_pass_that_reaches_other_weights_than_the_last_is_summed_as_well(events: list[str]) -> None:
    """Two layers where three were expected, and four."""
    accelerator: Any = Twin()
    layers = network()
    overlap = Overlap(Processes(accelerator, bucket_bytes=32), list(layers.parameters()))
    for count in (3, 2, 4, 4):
        with overlap.during("alike"):
            go_backward(layers, count)
        found = [None if each is None else each.clone() for each in gradients(layers)]
        go_backward(layers, count)
        for one, other in zip(gradients(layers), found, strict=True):
            assert (one is None and other is None) or torch.equal(2 * one, other)  # type: ignore[operator, arg-type]


def test_outside_of_its_pass_it_leaves_gradients_alone(events: list[str]) -> None:
    accelerator: Any = Twin()
    layers = network()
    overlap = Overlap(Processes(accelerator), list(layers.parameters()))
    for _ in range(2):
        with overlap.during("alike"):
            go_backward(layers)
    events.clear()
    go_backward(layers)
    assert events == []
    with pytest.raises(AssertionError, match="two backward passes"), overlap.during("alike"):
        go_backward(layers)
        go_backward(layers)
