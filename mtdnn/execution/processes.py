"""The processes of one run, as torchrun or accelerate starts them, and what they exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from mtdnn.errors import MtdnnError, fault
from mtdnn.execution.machine import num_launched

T = TypeVar("T")

BUCKET_BYTES = 64 * 2**20
"""Size of a sum's buffer: BERT-base has 440 MB of gradients, and so 7 exchanges an update; memory for one at a time."""

Sum = Callable[[Sequence[Tensor]], list[Tensor]]
"""The sums of tensors over the processes of a run."""


class LostProcess(MtdnnError):
    """Another process of the run has ended, so that this one cannot continue."""


@dataclass(frozen=True)
class Started:
    """A sum that has begun.

    Attributes:
        flat: the buffer.
        shapes: of its tensors.
        work: what to wait for.
    """

    flat: Tensor
    shapes: Sequence[torch.Size]
    work: Any


class Processes:
    """The processes of a run.

    Args:
        accelerator: of this process.
        bucket_bytes: the tensors of a sum are exchanged in buffers of at most this size, or of one tensor.
    Attributes:
        exchanges: number of collective operations so far.
    """

    def __init__(self, accelerator: Accelerator, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.accelerator, self.bucket_bytes = accelerator, bucket_bytes
        self.exchanges = 0

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.accelerator.process_index

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.accelerator.is_main_process

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over all processes, on all of them; the tensors themselves for a single process.

        All processes give tensors of the same shapes in the same order. They are exchanged in flat buffers: the time of
        an exchange is mostly that of its start, and a BERT has 200 gradients.

        Args:
            tensors: of any shapes and types.
        Raises:
            LostProcess: another process has ended.
        """
        if self.count == 1:
            return list(tensors)
        summed: list[Tensor | None] = [None] * len(tensors)
        for places in buckets(tensors, self.bucket_bytes):
            flat = torch.cat([tensors[place].reshape(-1) for place in places])
            with self._exchange():
                torch.distributed.all_reduce(flat)
            for place, part in zip(places, _split(flat, [tensors[place].shape for place in places]), strict=True):
                summed[place] = part
        return [each for each in summed if each is not None]

    def start(self, tensors: Sequence[Tensor]) -> Started:
        """Begin the sum of tensors of one type in one buffer; `finish` returns it. The tensors may be freed.

        Args:
            tensors: of any shapes; all processes begin the same sums in the same order.
        Raises:
            LostProcess: another process has ended.
        """
        flat = torch.cat([each.reshape(-1) for each in tensors])
        with self._exchange():
            work = torch.distributed.all_reduce(flat, async_op=True)
        return Started(flat, [each.shape for each in tensors], work)

    def finish(self, started: Started) -> list[Tensor]:
        """The sums that were begun, once they are there.

        Raises:
            LostProcess: another process has ended.
        """
        with self._connected():
            started.work.wait()
        return _split(started.flat, started.shapes)

    def sums_on_host(self, numbers: Sequence[int]) -> list[int]:
        """The sums of whole numbers over all processes, on all of them.

        They are exchanged by the hosts, also of processes with GPUs: to read them from a device the host would have to
        wait until it has computed all that is queued.

        Args:
            numbers: as many on every process.
        Raises:
            LostProcess: another process has ended.
        """
        if self.count == 1:
            return list(numbers)
        summed = torch.tensor(list(numbers), dtype=torch.int64)
        with self._exchange():
            torch.distributed.all_reduce(summed, group=_group_of_hosts(self.accelerator.device.type))
        found: list[int] = summed.tolist()
        return found

    def gather(self, own: T) -> list[T]:
        """The objects of all processes in the order of their numbers, on all of them.

        Args:
            own: the object of this process; it is pickled.
        Raises:
            LostProcess: another process has ended.
        """
        if self.count == 1:
            return [own]
        with self._exchange():
            found: list[T] = gather_object([own])
        return found

    def wait(self) -> None:
        """Return when all processes have come here.

        Raises:
            LostProcess: another process has ended.
        """
        if self.count > 1:
            with self._exchange():
                self.accelerator.wait_for_everyone()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """A collective operation."""
        self.exchanges += 1
        with self._connected():
            yield

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Waits for other processes; PyTorch reports a lost connection as a RuntimeError."""
        try:
            yield
        except RuntimeError as error:
            found = f"another process of the run has ended, so that process {self.rank} of {self.count} cannot continue"
            fix = "Its own message, if there is one, says why. --resume continues from the newest checkpoint."
            raise LostProcess(fault("", "", found, fix)) from error


@cache
def _group_of_hosts(device: str) -> Any:
    """The group that exchanges tensors of the host: the default one of processes without GPUs, else one over gloo.

    All processes have to come here for the first time together.
    """
    return None if device == "cpu" else torch.distributed.new_group(backend="gloo")


def launched_processes() -> Processes | None:
    """The processes that a launcher started together, this one among them; None if this one is alone."""
    return Processes(Accelerator()) if num_launched() > 1 else None


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The tensors in a buffer."""
    return [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]


def buckets(tensors: Sequence[Tensor], limit: int) -> Iterator[list[int]]:
    """The places of tensors that share a buffer: of one type, and together at most `limit` bytes, or alone."""
    of_type: dict[torch.dtype, list[int]] = {}
    size: dict[torch.dtype, int] = {}
    for place, tensor in enumerate(tensors):
        kind, added = tensor.dtype, tensor.numel() * tensor.element_size()
        if kind in of_type and size[kind] + added > limit:
            yield of_type.pop(kind)
        of_type.setdefault(kind, []).append(place)
        size[kind] = added + (size[kind] if len(of_type[kind]) > 1 else 0)
    yield from of_type.values()
