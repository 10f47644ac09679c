"""The yardstick for tags: CoNLL-2003 fine-tuned with plain transformers code, independent of `mtdnn`.

What a careful user of the library would write: `AutoModelForTokenClassification`, each word's tag learnt and predicted
at its first sub-word, sentences cut at --max-length; the loop is that of `benchmarks.plain_loop`.

    python -m benchmarks.plain_tagging --encoder FOLDER --data DIR --epochs 3 --batch-size 16 --lr 5e-5 --seed 0

prints one JSON line: entity metrics of the dev split, by seqeval (of the `dev` extra), and examples (sentences) per
second and seconds of the loop alone: batches are padded in it, the model was loaded and all rows tokenized before,
evaluation comes after.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from benchmarks.plain_loop import (
    EVAL_BATCH_SIZE,
    SETTINGS,
    PlainResult,
    as_dataset,
    autocast,
    loop_parser,
    train_steps,
)

TASK = "conll2003"
IGNORED = -100  # the label of tokens that do not count in the loss
OUTSIDE = "O"


@dataclass(frozen=True)
class Sentence:
    """One canonical row: its words and the IOB2 tag of each."""

    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class Encoded:
    """What the model reads of a sentence, and for each token the number of the word that it begins; None: of none."""

    inputs: dict[str, list[int]]
    begun: list[int | None]


def read_sentences(path: Path) -> list[Sentence]:
    """The rows of a canonical TSV file: id, tags, words; tags and words are separated by spaces."""
    sentences = []
    for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        _, tags, words = line.split("\t")
        sentences.append(Sentence(words.split(" "), tags.split(" ")))
    return sentences


def encode(sentences: Sequence[Sentence], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
    """The tokens of each sentence, cut at max_length."""
    words = [sentence.words for sentence in sentences]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    return [
        Encoded(
            {key: encoded[key][row] for key in encoded},
            [None if word == before else word for before, word in pairwise([None, *encoded.word_ids(row)])],
        )
        for row in range(len(words))
    ]


def with_labels(encoded: Encoded, tags: list[str], labels: list[str]) -> dict[str, list[int]]:
    """The inputs, and as labels each word's tag at its first token."""
    targets = [IGNORED if word is None else labels.index(tags[word]) for word in encoded.begun]
    return {**encoded.inputs, "labels": targets}


def train_plain(
    *,
    encoder: str,
    data: str | Path,
    epochs: int = 3,
    batch_size: int = 16,
    lr: float = 5e-5,
    max_length: int = 128,
    seed: int = 0,
    bf16: bool = False,
    max_rows: int | None = None,
    max_steps: int | None = None,
    threads: int | None = None,
) -> PlainResult:
    """Fine-tune on `<data>/conll2003/train.tsv` and measure on its dev split, on the GPU where there is one.

    Args:
        encoder: hub name or folder.
        max_rows: of the train split, the first ones; None = all.
        max_steps: stop early; the schedule is that of the whole run.
        threads: of PyTorch; None = as many as it takes.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_rows, dev_rows = (read_sentences(Path(data) / TASK / f"{split}.tsv") for split in ("train", "dev"))
    train_rows = train_rows[:max_rows]
    labels = sorted({tag for sentence in train_rows for tag in sentence.tags})
    tokenizer = AutoTokenizer.from_pretrained(encoder, add_prefix_space=True)  # RoBERTa's needs it for split words
    model = AutoModelForTokenClassification.from_pretrained(encoder, num_labels=len(labels), dtype=torch.float32)
    model = model.to(device)
    train_set, dev_set = (encode(rows, tokenizer, max_length) for rows in (train_rows, dev_rows))
    labelled = [with_labels(*pair, labels) for pair in zip(train_set, (row.tags for row in train_rows), strict=True)]
    loader = DataLoader(
        as_dataset(labelled),
        batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=DataCollatorForTokenClassification(tokenizer),
    )
    counted = train_steps(model, loader, epochs=epochs, lr=lr, bf16=bf16, max_steps=max_steps, **SETTINGS)
    best = predict(model, dev_set, tokenizer, bf16=bf16)
    predicted = [
        tags_of_words(row, ids, labels, len(sentence.words))
        for row, ids, sentence in zip(dev_set, best, dev_rows, strict=True)
    ]
    metrics = measure([sentence.tags for sentence in dev_rows], predicted)
    return PlainResult(task=TASK, seed=seed, metrics=metrics, **counted)


@torch.inference_mode()
def predict(
    model: PreTrainedModel, rows: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase, *, bf16: bool
) -> list[list[int]]:
    """The best label of each token, padding included, in evaluation mode."""
    model.eval()
    found: list[list[int]] = []
    collate: Any = DataCollatorForTokenClassification(tokenizer)
    for batch in DataLoader(as_dataset([row.inputs for row in rows]), EVAL_BATCH_SIZE, collate_fn=collate):
        with autocast(model.device, bf16):
            found += model(**batch.to(model.device)).logits.float().argmax(dim=2).tolist()
    return found


def tags_of_words(encoded: Encoded, best: list[int], labels: list[str], num_words: int) -> list[str]:
    """A tag for each word: the best at its first token, `O` where it was cut off."""
    tags = [OUTSIDE] * num_words
    for position, word in enumerate(encoded.begun):
        if word is not None:
            tags[word] = labels[best[position]]
    return tags


def measure(tags: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """F1, precision and recall of whole entities, all kinds counted together, as seqeval has them."""
    functions = {"entity_f1": f1_score, "entity_precision": precision_score, "entity_recall": recall_score}
    return {name: float(function(tags, predicted, zero_division=0)) for name, function in functions.items()}


def main() -> None:
    """Parse the flags, run once, print one JSON line."""
    files = "conll2003/train.tsv and conll2003/dev.tsv"
    parser = loop_parser(__doc__, files=files, epochs=3, max_length=128, unit="sentence")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    print(json.dumps(asdict(train_plain(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
