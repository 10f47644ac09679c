"""Rows of one task, ready for the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mtdnn.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")

IGNORED = -100  # a label that does not count: an unlabelled row, a sub-word without a tag, a padded candidate
ON_HOST = ("mask", "sequences", "word_counts")  # tensors of a batch that stay on the host: sizes are computed from them
NO_WORD = -1  # in `words`: a token that is not the first sub-word of a word


@dataclass(frozen=True, eq=False)
class SharedInputs:
    """Sequences that are encoded once for several tasks.

    Attributes:
        inputs: of all M sequences, as those of a batch.
        first: [B] long, the first sequence of each row, for tasks that read only these; None where M = B.
    """

    inputs: dict[str, Tensor]
    first: Tensor | None = None

    @property
    def num_sequences(self) -> int:
        """M."""
        return len(self.inputs["mask"])

    def pin_memory(self) -> SharedInputs:
        """The same sequences in memory from which copies to a GPU need not be waited for."""
        inputs = {name: pinned(tensor) for name, tensor in self.inputs.items()}
        return SharedInputs(inputs, None if self.first is None else pinned(self.first))

    def of_batch(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[N, T, H]: those of the hidden states [M, T, H] that belong to the sequences of one task's batch."""
        if self.first is None or len(batch.mask) == len(hidden):
            return hidden
        return hidden[on_device(self.first, hidden.device)]


@dataclass(frozen=True)
class Batch:
    """Rows of one task as tensors.

    Dimensions: B rows, N sequences (N = B unless a row holds several, as ranking's candidates), T tokens.

    Attributes:
        task: name of the task.
        inputs: input_ids [N, T] long; mask [N, T] bool, True = a real token; token_type_ids [N, T] where the encoder
            has segments. The mask stays on the host: lengths are needed there, and reading them from a device would
            synchronise with it. So do all tensors named in ON_HOST.
        labels: shape by task type; None for unlabelled rows.
        row_ids: the B row ids, as in the rows' file.
        extras: further tensors of the task type, first dimension B or N; `sequences` [B] where N may differ from B;
            `segments` [N, T] where token_type_ids do not separate the texts of a pair; `soft` [B, C], soft labels by
            task type, NaN where a row has none; `places` [M], tokens of a type that predicts some of them only, as
            positions in the flattened [N·T].
        row_values: further values of the rows that stay on the host, B of each (texts to cut answers from, names).
        shared: the sequences that this batch and those of other tasks on the same rows are taken from; the tasks of an
            update that have the same object here read the hidden states of one pass of the encoder.
        is_placeholder: the rows belong to another process; this one needs them to take part in a step, and they do not
            count.
    """

    task: str
    inputs: dict[str, Tensor]
    labels: Tensor | None
    row_ids: list[str]
    extras: dict[str, Tensor] = field(default_factory=dict)
    row_values: dict[str, list[Any]] = field(default_factory=dict)
    shared: SharedInputs | None = None
    is_placeholder: bool = False

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def mask(self) -> Tensor:
        """[N, T] bool, True = a real token, not padding; on the host."""
        return self.inputs["mask"]

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are not padding."""
        return int(self.mask.sum())

    @property
    def row_of_sequence(self) -> Tensor:
        """[N] long: for each sequence, the index (0 to B − 1) of its row."""
        rows = torch.arange(len(self))
        if "sequences" in self.extras:
            rows = rows.repeat_interleave(self.extras["sequences"], output_size=len(self.mask))
        return on_device(rows, self.inputs["input_ids"].device)

    def at_places(self, values: Tensor) -> Tensor:
        """[M, …] of [N, T, …]: the values at the tokens that a task type has listed in `extras["places"]`.

        Choosing them by a mask instead would make the host wait for the device, to learn how many they are.
        """
        return values.flatten(0, 1).index_select(0, self.extras["places"])

    @property
    def row_of_place(self) -> Tensor:
        """[M] long: for each of these tokens, the index of its row."""
        tokens = self.inputs["input_ids"].shape[1]
        return self.row_of_sequence.index_select(0, self.extras["places"] // tokens)

    @property
    def second_text(self) -> Tensor:
        """[N, T] bool, True = a token of the second text of a pair, or the special token that closes it.

        On the batch's device, as the segments are.

        Raises:
            ValueError: the batch has no segments.
        """
        segments = self.extras.get("segments", self.inputs.get("token_type_ids"))
        if segments is None:
            raise ValueError(f"a batch of '{self.task}' has no segments to separate the texts of its pairs")
        return (segments == 1) & on_device(self.mask, segments.device)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; what is needed on the host stays there: see `ON_HOST`."""
        return self._with_tensors(lambda name, tensor: tensor if name in ON_HOST else on_device(tensor, device))

    def pin_memory(self) -> Batch:
        """The same batch in memory from which copies to a GPU need not be waited for; `shared` stays as it is."""
        return self._with_tensors(lambda name, tensor: pinned(tensor))

    def _with_tensors(self, changed: Callable[[str, Tensor], Tensor]) -> Batch:
        """The batch with each tensor changed by a function of its name and value."""
        return replace(
            self,
            inputs={name: changed(name, tensor) for name, tensor in self.inputs.items()},
            labels=None if self.labels is None else changed("labels", self.labels),
            extras={name: changed(name, tensor) for name, tensor in self.extras.items()},
        )


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. The host does not wait for a copy to a GPU, which needs pinned memory for that."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def pinned(tensor: Tensor) -> Tensor:
    """A tensor of the host in pinned memory; the tensor itself if it is there."""
    return tensor if tensor.is_pinned() else tensor.pin_memory()
