"""The yardstick: one task fine-tuned with plain transformers code, independent of `mtdnn`.

What a careful user of the library would write: `AutoModelForSequenceClassification`, padded batches in shuffled order,
AdamW without weight decay on biases and LayerNorm, linear schedule with warm-up, gradients clipped at norm 1.

    python -m benchmarks.plain_loop --encoder FOLDER --data DIR --task rte --epochs 5 --batch-size 16 --lr 5e-5 --seed 0

prints one JSON line: dev metrics, and examples per second and seconds of the loop alone: batches are padded in it, the
model was loaded and all rows tokenized before, evaluation comes after.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

EVAL_BATCH_SIZE = 64
SETTINGS: dict[str, Any] = {"warmup": 0.1, "weight_decay": 0.01, "clip_norm": 1.0}  # of every yardstick


@dataclass(frozen=True)
class PlainResult:
    """What one run of the yardstick gave.

    Args:
        metrics: over the whole dev split after the last step; fractions and correlations.
        examples, tokens: trained on, counted once per epoch; tokens without padding.
        seconds: of the loop, padding included; without loading, tokenizing and evaluation.
        padding: share of the positions of the training batches that hold no token.
    """

    task: str
    seed: int
    metrics: dict[str, float]
    steps: int
    examples: int
    tokens: int
    seconds: float
    examples_per_second: float
    padding: float


@dataclass(frozen=True)
class Row:
    """One canonical row: its label as written, and one or two texts."""

    label: str
    texts: tuple[str, ...]


def read_rows(path: Path) -> list[Row]:
    """The rows of a canonical TSV file: id, label, text and perhaps a second text."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        _, label, *texts = line.split("\t")
        rows.append(Row(label, tuple(texts)))
    return rows


def is_regression(rows: list[Row]) -> bool:
    """Whether the labels are numbers written with a decimal point, as in STS-B; `0` and `1` are names of classes."""
    try:
        return all(math.isfinite(float(row.label)) for row in rows) and any("." in row.label for row in rows)
    except ValueError:
        return False


def encode(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, labels: list[str] | None, max_length: int
) -> list[dict[str, Any]]:
    """Token ids and label of each row; `labels` None is regression."""
    columns = [list(column) for column in zip(*(row.texts for row in rows), strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    targets = [float(row.label) if labels is None else labels.index(row.label) for row in rows]
    return [{**{key: encoded[key][i] for key in encoded}, "labels": target} for i, target in enumerate(targets)]


def train_plain(
    *,
    encoder: str,
    data: str | Path,
    task: str,
    epochs: int = 3,
    batch_size: int = 16,
    lr: float = 5e-5,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    clip_norm: float = 1.0,
    max_length: int = 256,
    seed: int = 0,
    bf16: bool = False,
    group_by_length: bool = False,
    dev_split: str = "dev",
    max_rows: int | None = None,
    max_steps: int | None = None,
) -> PlainResult:
    """Fine-tune on `<data>/<task>/train.tsv` and measure on its dev split, on the GPU where there is one.

    Args:
        encoder: hub name or folder.
        max_rows: of the train split, the first ones; None = all.
        max_steps: stop early; the schedule is that of the whole run.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_rows, dev_rows = (read_rows(Path(data) / task / f"{split}.tsv") for split in ("train", dev_split))
    train_rows = train_rows[:max_rows]
    labels = None if is_regression(train_rows) else sorted({row.label for row in train_rows})
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=len(labels or [""]), dtype=torch.float32
    ).to(device)
    train_set, dev_set = (encode(rows, tokenizer, labels, max_length) for rows in (train_rows, dev_rows))
    loader = train_loader(train_set, tokenizer, batch_size=batch_size, seed=seed, group_by_length=group_by_length)
    counted = train_steps(
        model,
        loader,
        epochs=epochs,
        lr=lr,
        warmup=warmup,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        bf16=bf16,
        max_steps=max_steps,
    )
    metrics = measure(predict(model, dev_set, tokenizer, bf16=bf16), [row["labels"] for row in dev_set], labels)
    return PlainResult(task=task, seed=seed, metrics=metrics, **counted)


def as_dataset(rows: Sequence[Any]) -> Dataset[Any]:
    """The rows: a DataLoader takes every sequence, its annotation only PyTorch's own class."""
    return cast("Dataset[Any]", rows)


def train_loader(
    rows: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    seed: int,
    group_by_length: bool,
) -> DataLoader:
    """Padded batches in a new order each epoch; grouped, rows of like length share a batch, as the Trainer does it."""
    generator = torch.Generator().manual_seed(seed)
    options = {"collate_fn": DataCollatorWithPadding(tokenizer), "pin_memory": torch.cuda.is_available()}
    if not group_by_length:
        return DataLoader(as_dataset(rows), batch_size, shuffle=True, generator=generator, **options)
    sampler = LengthGroupedSampler(batch_size, lengths=[len(row["input_ids"]) for row in rows], generator=generator)
    return DataLoader(as_dataset(rows), batch_size, sampler=sampler, **options)


def train_steps(
    model: PreTrainedModel,
    loader: DataLoader,
    *,
    epochs: int,
    lr: float,
    warmup: float,
    weight_decay: float,
    clip_norm: float,
    bf16: bool,
    max_steps: int | None,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, Any]:
    """The loop; counts and times it.

    Args:
        optimizer: of earlier steps, with its state. Default: a new AdamW.
    """
    total = epochs * len(loader)
    optimizer = optimizer or torch.optim.AdamW(decayed_and_not(model, weight_decay), lr=lr, fused=True)
    scheduler = get_linear_schedule_with_warmup(optimizer, math.ceil(warmup * total), total)
    steps = examples = tokens = positions = 0
    model.train()
    started = time.perf_counter()
    for _ in range(epochs):
        for batch in loader:
            if steps == max_steps:
                break
            steps, examples = steps + 1, examples + len(batch["labels"])
            tokens, positions = tokens + int(batch["attention_mask"].sum()), positions + batch["input_ids"].numel()
            with autocast(model.device, bf16):
                loss = model(**batch.to(model.device, non_blocking=True)).loss
            loss.backward()
            clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    wait_for(model.device)
    seconds = time.perf_counter() - started
    return {
        "steps": steps,
        "examples": examples,
        "tokens": tokens,
        "seconds": seconds,
        "examples_per_second": examples / seconds,
        "padding": 1 - tokens / positions,
    }


def loop_parser(description: str, *, files: str, epochs: int, max_length: int, unit: str) -> argparse.ArgumentParser:
    """The flags of a yardstick of one task.

    Args:
        files: of the data folder, in words.
        epochs, max_length: defaults; a length is in tokens of a `unit`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--data", required=True, help=f"folder of {files}")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=max_length, help=f"tokens of a {unit}")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--max-rows", type=int, help="of the train split")
    parser.add_argument("--max-steps", type=int, help="stop early")
    return parser


def decayed_and_not(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices with weight decay, biases and LayerNorm weights without."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


@torch.inference_mode()
def predict(
    model: PreTrainedModel,
    rows: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    bf16: bool,
    batch_size: int = EVAL_BATCH_SIZE,
    sort_by_length: bool = False,
) -> np.ndarray:
    """[rows, C] logits in float32, in evaluation mode; sorted, the longest rows are computed first."""
    model.eval()
    order = np.arange(len(rows))
    if sort_by_length:
        order = np.argsort([-len(row["input_ids"]) for row in rows], kind="stable")
    found = []
    chosen = [rows[row] for row in order.tolist()]
    for batch in DataLoader(as_dataset(chosen), batch_size, collate_fn=DataCollatorWithPadding(tokenizer)):
        with autocast(model.device, bf16):
            found.append(model(**batch.to(model.device)).logits.float().cpu().numpy())
    return np.concatenate(found)[np.argsort(order)]


def measure(logits: np.ndarray, targets: list[Any], labels: list[str] | None) -> dict[str, float]:
    """Pearson and Spearman for numbers; accuracy, MCC and, of two classes, F1 of the second for classes."""
    if labels is None:
        predictions = logits[:, 0]
        return {
            "pearson": float(pearsonr(targets, predictions).statistic),
            "spearman": float(spearmanr(targets, predictions).statistic),
        }
    predictions = logits.argmax(axis=1)
    metrics = {
        "accuracy": float(accuracy_score(targets, predictions)),
        "mcc": float(matthews_corrcoef(targets, predictions)),
    }
    return metrics | ({"f1": float(f1_score(targets, predictions))} if len(labels) == 2 else {})


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    """bf16 arithmetic where PyTorch holds it safe; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def wait_for(device: torch.device) -> None:
    """Let what was started on a GPU end, so that its time is counted."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Parse the flags, run once, print one JSON line."""
    files = "<task>/train.tsv and <task>/dev.tsv"
    parser = loop_parser(__doc__, files=files, epochs=3, max_length=256, unit="row")
    parser.add_argument("--task", required=True)
    parser.add_argument("--group-by-length", action="store_true", help="rows of like length share a batch")
    parser.add_argument("--dev-split", default="dev", help="name of the split that is measured")
    print(json.dumps(asdict(train_plain(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
