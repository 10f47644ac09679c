"""One shared encoder and one head per task name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from mtdnn.batch import Batch
from mtdnn.errors import ConfigError, fault
from mtdnn.execution.products import use_fast_products
from mtdnn.execution.sharding import divide
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.heads import Head, StartsAs, family_options
from mtdnn.networks.layers import outermost_layers
from mtdnn.seeding import preserved_default_generators, seed_default_generators
from mtdnn.task_types.base import TaskType

MIXED_TOKENS = 128
"""Tokens of a batch up to which one pass with several adapters is faster than several on a CPU, where larger products
gain nothing: with four adapters in MiniLM-L6's shape 1.7 times as fast for a row, 1.1 times for 4, 0.8 times for 64
(benchmarks/README.md)."""


class MultiTaskModel(nn.Module):
    """MT-DNN (Liu et al. 2019, figure 1): shared layers, task-specific output layers.

    Args:
        encoder: shared by all tasks.
        task_types: task name → the task seen through its type; a head is built for each.
        seed: for the initial weights of the heads; a head's depend on this and its task's name, not on other tasks.
    """

    def __init__(self, encoder: Encoder, task_types: Mapping[str, TaskType], *, seed: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.task_types = dict(task_types)
        self.heads = nn.ModuleDict()
        for name, task_type in task_types.items():
            if task_type.task.head_of is not None:
                continue
            with preserved_default_generators():
                seed_default_generators(seed, "head", name)
                self.heads[name] = task_type.build_head(
                    encoder.hidden_size,
                    family={**family_options(encoder.config), "backbone": encoder.backbone},
                    word_embeddings=encoder.backbone.get_input_embeddings(),
                )
        if encoder.execution.products == "fast":
            use_fast_products(self.heads)
        self._start_from_pooler()

    def _start_from_pooler(self) -> None:
        """Initialise heads with BERT's dense layer from the checkpoint's pretrained pooler, as transformers does."""
        if (pooler := self.encoder.pooler_state()) is not None:
            for head in self.heads_that_start_as("pooler"):
                head.start_from(pooler)

    def heads_that_start_as(self, kind: StartsAs) -> list[Head]:
        """The heads that can start from pretrained weights of a kind; a plain module in place of a head cannot."""
        return [cast(Head, head) for head in self.heads.values() if getattr(head, "starts_as", None) == kind]

    def divide(self, *, device: torch.device, gathered_as: torch.dtype | None = None) -> None:
        """Divide the layers and the word embeddings among the processes of the run; see `execution.sharding`.

        Args:
            device: of this process.
            gathered_as: dtype of gathered layers; None: their own.
        Raises:
            ConfigError: the encoder has no layers that can be gathered one by one.
        """
        backbone = self.encoder.backbone
        stacks = [outermost_layers(each) for each in (backbone, *self.heads_that_start_as("decoder"))]
        if not stacks[0]:
            found = f"{type(backbone).__name__} has no modules that are layers, which are gathered one by one"
            raise ConfigError(fault("", "sharding", found, "Set sharding: none."))
        alone = [self.encoder.word_embeddings]
        divide(self, stacks=stacks, alone=alone, device=device, gathered_as=gathered_as)

    def forward(self, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Logits of the batch's task.

        Args:
            batch: N sequences of T tokens.
            embeddings: [N, T, E], word embeddings in place of those of the batch's tokens.
        """
        return self.task_logits(batch.task, self.hidden(batch, embeddings), batch)

    def hidden(self, batch: Batch, embeddings: Tensor | None = None, *, task: str | None = None) -> Tensor:
        """Hidden states [N, T, H] of the last layer; zero at padding.

        Args:
            batch: N sequences of T tokens.
            embeddings: [N, T, E], word embeddings in place of those of the batch's tokens.
            task: the task whose adapter is used, if each task has one; None: the batch's.
        """
        self.encoder.use_adapter_of(self._owner_of_head(task or batch.task))
        if embeddings is None:
            embeddings = self.encoder.embed(batch.inputs["input_ids"])
        return self.encoder.encode(embeddings, batch.mask, batch.inputs.get("token_type_ids"))

    def task_logits(self, task: str, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits of one task's head, whichever task the batch was made for.

        They are float32 also in a bf16 run, unless the task type opts out: bf16 has three significant digits, so the
        outputs of two passes that differ by a small perturbation would be equal, and there would be no gradient.

        Args:
            task: name of the task whose head is used.
            hidden: [N, T, H], the encoder's hidden states.
            batch: the rows, as the collator made them.
        """
        task_type, head, device = self.task_types[task], self.head_of(task), hidden.device.type
        coarse = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if not (coarse and task_type.float32_logits):
            return task_type.logits(head, hidden, batch)
        with torch.autocast(device, enabled=False):
            return task_type.logits(head, hidden.float(), batch)

    def head_of(self, task: str) -> nn.Module:
        """The head of a task: its own, or that of the task named by `head_of`."""
        return self.heads[self._owner_of_head(task)]

    def _owner_of_head(self, task: str) -> str:
        """The task whose head and adapter a task uses: itself, or the one named by `head_of`."""
        return (self.task_types[task].task.head_of if task in self.task_types else None) or task

    @property
    def has_adapters_by_task(self) -> bool:
        """Whether the hidden states of a row depend on the task."""
        return self.encoder.adapter is not None and self.encoder.adapter.per_task

    def frozen_weights(self) -> set[str]:
        """Names of the encoder's frozen weights below an adapter, which are not stored in checkpoints."""
        return {f"encoder.{name}" for name in self.encoder.frozen_weights()}

    def merged_weights(self, task: str) -> dict[str, Tensor]:
        """The weights of transformers' model that computes a task's hidden states."""
        return self.encoder.merged_weights(self._owner_of_head(task))

    def predict(self, batch: Batch, tasks: Iterable[str]) -> dict[str, list[dict]]:
        """Prediction records of several tasks from one pass of the encoder, or one for each with its own adapter, where
        these cannot be mixed.

        The batch's labels belong to its own task; the records of other tasks have none.
        """
        found: dict[str, list[dict]] = {}
        tasks = list(tasks)
        with torch.inference_mode():
            by_owner = self._hidden_by_owner(batch, tasks)
            for task in tasks:
                owner = self._owner_of_head(task) if self.has_adapters_by_task else ""
                if owner not in by_owner:
                    by_owner = {owner: self.hidden(batch, task=task)}
                hidden = by_owner[owner]
                rows = batch if task == batch.task else replace(batch, task=task, labels=None)
                logits, head = self.task_logits(task, hidden, rows), self.head_of(task)
                found[task] = self.task_types[task].answer(logits, rows, head=head, hidden=hidden)
        return found

    def _hidden_by_owner(self, batch: Batch, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Hidden states by task with an adapter, from one pass for all; empty if that cannot be, or is of no use.

        Args:
            batch: N sequences of T tokens.
            tasks: to be predicted.
        """
        owners = list(dict.fromkeys(map(self._owner_of_head, tasks)))
        large = batch.inputs["input_ids"].device.type == "cpu" and int(batch.mask.sum()) > MIXED_TOKENS
        if len(owners) < 2 or large or not self.encoder.mixes_adapters:
            return {}
        embeddings = self.encoder.embed(batch.inputs["input_ids"])
        hidden = self.encoder.encode_for(owners, embeddings, batch.mask, batch.inputs.get("token_type_ids"))
        return dict(zip(owners, hidden, strict=True))

    def predict_together(self, batches: Sequence[Batch]) -> dict[str, list[dict]]:
        """Prediction records of several tasks on the same rows, each with its own labels, from one pass of the encoder.

        Args:
            batches: of each task, as `collate_shared` made them.
        """
        if self.has_adapters_by_task or batches[0].shared is None:
            return {batch.task: self.predict(batch, [batch.task])[batch.task] for batch in batches}
        shared, device = batches[0].shared, batches[0].inputs["input_ids"].device
        found: dict[str, list[dict]] = {}
        with torch.inference_mode():
            hidden = self.hidden(Batch(batches[0].task, shared.inputs, None, batches[0].row_ids).to(device))
            for batch in batches:
                own = shared.of_batch(hidden, batch)
                logits, head = self.task_logits(batch.task, own, batch), self.head_of(batch.task)
                found[batch.task] = self.task_types[batch.task].answer(logits, batch, head=head, hidden=own)
        return found
