"""Encoders of any BERT shape with random weights, and tasks with generated rows: benchmarks that need no data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.prepro import made_up_words, pair_task, save_tokenizer, write_rows

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
    "mini": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
"""`mini` is that of MiniLM-L6, `base` that of BERT-base."""


def save_encoder(folder: Path, shape: str, words: list[str], **config: Any) -> Path:
    """A BERT of a shape, with its tokenizer; `config` overrides what BERT-base-uncased has."""
    from transformers import BertConfig, BertModel

    save_tokenizer(folder, words)
    torch.manual_seed(0)
    BertModel(BertConfig(**SHAPES[shape], **config)).save_pretrained(folder)
    return folder


def write_tasks(folder: Path, rows: Mapping[str, int], words: list[str]) -> Path:
    """Definitions of pair tasks, and so many generated training rows of each; the file of the definitions."""
    for task, size in rows.items():
        write_rows(folder / task / "train.tsv", size, words)
    definitions = folder / "tasks.yml"
    definitions.write_text("".join(pair_task(task, "train") for task in rows), encoding="utf-8")
    return definitions


def prepare_tasks(folder: Path, encoder: Path, rows: Mapping[str, int], *, workers: int | None = None) -> Path:
    """`write_tasks` and `mtdnn prepro` of them; the folder of the prepared rows."""
    from mtdnn.config.tasks import load_task_defs
    from mtdnn.data.prepro import prepare

    definitions = write_tasks(folder, rows, made_up_words(20_000))
    prepared = folder / "prepared"
    prepare(load_task_defs(definitions), data=folder, encoder=encoder, out=prepared, num_workers=workers)
    return prepared
