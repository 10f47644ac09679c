"""A stranger's folder: rows of two tasks of sentence pairs, and an encoder of one layer made for their words."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from data_prep.demo import train_tokenizer

PAIRS = {
    "rte": (("entailment", "It rained all night.", "It rained."), ("not_entailment", "He sings.", "She swims.")),
    "mrpc": (("1", "A goat eats grass.", "Grass is eaten by a goat."), ("0", "He sings.", "It rained all night.")),
}
"""Task → two rows: label, first text, second text."""

COUNTS = {"train": 8, "dev": 4}


def rows_of(task: str, split: str) -> list[tuple[str, str, str, str]]:
    """Id, label and two texts of each row."""
    return [(f"{split}-{number}", *PAIRS[task][number % 2]) for number in range(COUNTS[split])]


def write_data(folder: Path) -> None:
    """`<folder>/<task>/<split>.tsv`."""
    for task in PAIRS:
        (folder / task).mkdir(parents=True)
        for split in COUNTS:
            lines = ("\t".join(row) + "\n" for row in rows_of(task, split))
            (folder / task / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


def write_encoder(folder: Path) -> None:
    """A BERT with hidden states of eight numbers and random weights, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([text for rows in PAIRS.values() for row in rows for text in row[1:]])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
