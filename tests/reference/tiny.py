"""A random encoder of one or two layers with two tasks, and batches for it; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import BertConfig, BertModel

from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.task_types.base import TASK_TYPES

HIDDEN = 16
VOCABULARY = 40
BLOCKS: dict[str, dict[str, Any]] = {
    "nli": {"task_type": "classification", "labels": ["entailment", "neutral", "contradiction"]},
    "similarity": {"task_type": "regression"},
}


def make_model(
    *,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
    scale: float = 5.0,
    seed: int = 0,
    layers: int = 1,
    **task: Any,
) -> MultiTaskModel:
    """A model with the tasks of `BLOCKS`, in training mode; `task` overrides keys of both blocks.

    Args:
        scale: of all weights but LayerNorm's; 1 is BERT's initialisation, whose outputs hardly depend on the input.
    """
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )
    tasks = {name: task_def_from(name, {**block, "dropout": dropout, **task}) for name, block in BLOCKS.items()}
    types = {name: TASK_TYPES.get(each.task_type)(each) for name, each in tasks.items()}
    model = MultiTaskModel(Encoder(BertModel(config)), types)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.mul_(scale)
    return model.to(dtype).train()


def make_batch(task: str = "nli", *, rows: int = 4, tokens: int = 7, seed: int = 0, padding: int = 0) -> Batch:
    """Rows of different lengths; `padding` adds columns of padding, which changes nothing else."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, tokens + 1, (rows,), generator=generator)
    lengths[0] = tokens
    ids = torch.randint(5, VOCABULARY, (rows, tokens), generator=generator)
    segments = torch.randint(0, 2, (rows, tokens), generator=generator)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    mask = torch.arange(tokens) < lengths[:, None]
    widen = torch.zeros(rows, padding, dtype=torch.long)
    inputs = {
        "input_ids": torch.cat([ids * mask, widen], dim=1),
        "mask": torch.cat([mask, widen.bool()], dim=1),
        "token_type_ids": torch.cat([segments, widen], dim=1),
    }
    row_ids = [f"row-{seed}-{index}" for index in range(rows)]
    return Batch(task=task, inputs=inputs, labels=labels if task == "nli" else labels.double(), row_ids=row_ids)


def slice_batch(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    inputs = {name: tensor[rows] for name, tensor in batch.inputs.items()}
    return Batch(batch.task, inputs, batch.labels[rows], batch.row_ids[rows])


def random_logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal numbers of a shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class SameBatches:
    """Epochs of five steps, each of the same batch."""

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return 5

    def from_step(self, step: int) -> Iterator[Sequence[Batch]]:
        return iter([[make_batch()]] * (len(self) - step))
