"""What processes exchange, and in how many operations; the other of two equal processes is stood in for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtdnn.execution.processes import LostProcess, Processes, _group_of_hosts


class Twin:
    """The accelerator of one of two processes, of which the other does exactly the same."""

    num_processes, process_index, is_main_process = 2, 1, False

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def all_reduce(self, tensor: Tensor) -> None:
        """What `torch.distributed` would do."""
        self.sizes.append(tensor.numel())
        tensor.mul_(2)

    def wait_for_everyone(self) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:33122")


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Any:
    twin = Twin()
    monkeypatch.setattr(torch.distributed, "all_reduce", twin.all_reduce)
    return twin


def test_two_hundred_gradients_are_summed_in_one_exchange_and_stay_as_they_are(accelerator: Any) -> None:
    processes = Processes(accelerator)
    gradients = [torch.full((3, number % 5), float(number)) for number in range(1, 201)]
    summed = processes.sums(gradients)
    assert processes.exchanges == 1
    assert all(torch.equal(after, 2 * before) for before, after in zip(gradients, summed, strict=True))
    (alone,) = processes.sums(gradients[:1])
    assert torch.equal(alone, 2 * gradients[0])


def test_buffers_have_one_type_and_a_largest_size(accelerator: Any) -> None:
    """Ten float32 numbers are 40 bytes: four tensors of three make 48, so that a buffer has three of them."""
    processes = Processes(accelerator, bucket_bytes=40)
    values = [
        torch.ones(3),
        torch.ones(3, dtype=torch.float64),
        torch.ones(3),
        torch.ones(3),
        torch.ones(3),
        torch.ones(50),
    ]
    summed = processes.sums(values)
    assert [each.dtype for each in summed] == [each.dtype for each in values]
    assert all(torch.equal(after, 2 * before) for before, after in zip(values, summed, strict=True))
    assert sorted(accelerator.sizes) == [3, 3, 9, 50] and processes.exchanges == 4


def test_nothing_is_exchanged_for_nothing(accelerator: Any) -> None:
    processes = Processes(accelerator)
    assert processes.sums([]) == [] and processes.exchanges == 0


def test_the_end_of_another_process_is_an_error_with_what_to_do() -> None:
    accelerator: Any = Twin()
    with pytest.raises(LostProcess) as caught:
        Processes(accelerator).wait()
    assert str(caught.value) == (
        "another process of the run has ended, so that process 1 of 2 cannot continue. Its own message, if there is "
        "one, says why. --resume continues from the newest checkpoint."
    )


def test_whole_numbers_are_summed_by_the_hosts_whatever_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU by a group over gloo, made once; the tensors stay on the host."""
    asked: list[Any] = []

    def all_reduce(tensor: Tensor, group: Any) -> None:
        assert tensor.device.type == "cpu"
        asked.append(group)
        tensor.mul_(2)  # the twin has the same

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend: f"new {backend}")
    _group_of_hosts.cache_clear()
    for device, group in (("cpu", None), ("cuda", "new gloo")):
        accelerator: Any = Twin()
        accelerator.device = torch.device(device)
        processes = Processes(accelerator)
        assert processes.sums_on_host([3, True, 2**40]) == [6, 2, 2**41] and processes.exchanges == 1
        assert asked.pop() == group
    _group_of_hosts.cache_clear()
    accelerator.num_processes = 1
    assert Processes(accelerator).sums_on_host([3]) == [3] and not asked
