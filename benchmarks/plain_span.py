"""The yardstick for answers: SQuAD 2.0 fine-tuned with plain transformers code, independent of `mtdnn`.

The recipe of transformers' own example `run_qa.py`: question and context in overlapping windows,
`AutoModelForQuestionAnswering`, the first token as the target of windows without the answer, the best span of 20 first
and 20 last tokens against the least null score of the row's windows. Unlike there, batches are padded to their longest
row, and the loop is that of `benchmarks.plain_loop`.

    python -m benchmarks.plain_span --encoder FOLDER --data DIR --epochs 2 --batch-size 16 --lr 5e-5 --seed 0

prints one JSON line: dev metrics, and examples (windows) per second and seconds of the loop alone: batches are padded
in it, the model was loaded and all rows tokenized before, evaluation comes after.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
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
    train_loader,
    train_steps,
)

TASK = "squad2"
NULL = 0  # [CLS]: the position that stands for "no answer in this window"
NUM_BEST = 20  # first tokens and last tokens that are tried
MAX_ANSWER_TOKENS = 30
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Row:
    """One canonical row; `answers` are (first character, text), none where the question has no answer."""

    answers: list[tuple[int, str]]
    context: str
    question: str


@dataclass(frozen=True)
class Window:
    """What the model reads of a row at once; `offsets` are the characters of each token, None outside the context."""

    row: int
    offsets: list[tuple[int, int] | None]
    features: dict[str, list[int]]


@dataclass(frozen=True)
class Answer:
    """The best text that is not empty, and by how much the null score exceeds its score."""

    text: str
    null_odds: float


class SpanModel(nn.Module):
    """The library's model under the interface of `train_steps`: `labels` [B, 2] hold first and last position."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        return self.model.device

    def forward(self, labels: Tensor, **inputs: Tensor) -> Any:
        return self.model(**inputs, start_positions=labels[:, 0], end_positions=labels[:, 1])


def read_rows(path: Path) -> list[Row]:
    """The rows of a canonical TSV file: id, JSON list of [first character, answer], context, question."""
    rows = []
    for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        _, answers, context, question = line.split("\t")
        rows.append(Row([(start, text) for start, text in json.loads(answers)], context, question))
    return rows


def windows(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int
) -> Iterator[Window]:
    """Question and context of each row; a long context is cut into parts that share `stride` tokens."""
    for first in range(0, len(rows), ROWS_AT_ONCE):
        chunk = rows[first : first + ROWS_AT_ONCE]
        encoded = tokenizer(
            [row.question.lstrip() for row in chunk],
            [row.context for row in chunk],
            truncation="only_second",
            max_length=min(max_length, tokenizer.model_max_length),
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        all_offsets, row_of_window = encoded.pop("offset_mapping"), encoded.pop("overflow_to_sample_mapping")
        for window, row in enumerate(row_of_window):
            parts = zip(all_offsets[window], encoded.sequence_ids(window), strict=True)
            offsets = [characters if part == 1 else None for characters, part in parts]
            inputs = {key: encoded[key][window] for key in encoded}
            yield Window(first + row, offsets, {**inputs, "labels": positions(offsets, chunk[row].answers)})


def positions(offsets: Sequence[tuple[int, int] | None], answers: Sequence[tuple[int, str]]) -> list[int]:
    """First and last token of the first answer; NULL twice where the window does not hold all of it."""
    inside = [(token, *characters) for token, characters in enumerate(offsets) if characters]
    if not answers or not inside:
        return [NULL, NULL]
    start, end = answers[0][0], answers[0][0] + len(answers[0][1])
    if inside[0][1] > start or inside[-1][2] < end:
        return [NULL, NULL]
    first = max(token for token, begin, _ in inside if begin <= start)
    last = min(token for token, _, behind in inside if behind >= end)
    return [first, last]


def train_plain(
    *,
    encoder: str,
    data: str | Path,
    epochs: int = 2,
    batch_size: int = 16,
    lr: float = 5e-5,
    max_length: int = 384,
    stride: int = 128,
    seed: int = 0,
    bf16: bool = False,
    max_rows: int | None = None,
    max_steps: int | None = None,
    threads: int | None = None,
) -> PlainResult:
    """Fine-tune on `<data>/squad2/train.tsv` and measure on its dev split, on the GPU where there is one.

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
    train_rows, dev_rows = (read_rows(Path(data) / TASK / f"{split}.tsv") for split in ("train", "dev"))
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = SpanModel(AutoModelForQuestionAnswering.from_pretrained(encoder, dtype=torch.float32)).to(device)
    lengths = {"max_length": max_length, "stride": stride}
    train_set = [window.features for window in windows(train_rows[:max_rows], tokenizer, **lengths)]
    dev_set = list(windows(dev_rows, tokenizer, **lengths))
    loader = train_loader(train_set, tokenizer, batch_size=batch_size, seed=seed, group_by_length=False)
    counted = train_steps(model, loader, epochs=epochs, lr=lr, bf16=bf16, max_steps=max_steps, **SETTINGS)
    logits = predict(model, [window.features for window in dev_set], tokenizer, bf16=bf16)
    metrics = measure(best_answers(dev_rows, dev_set, logits), [[text for _, text in row.answers] for row in dev_rows])
    return PlainResult(task=TASK, seed=seed, metrics=metrics, **counted)


@torch.inference_mode()
def predict(
    model: SpanModel, rows: Sequence[dict[str, list[int]]], tokenizer: PreTrainedTokenizerBase, *, bf16: bool
) -> list[np.ndarray]:
    """[2, tokens] logits of each window in float32, to be the first and the last token; the longest come first."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]["input_ids"]))
    found: list[np.ndarray] = []
    collate = DataCollatorWithPadding(tokenizer)
    for batch in DataLoader(as_dataset([rows[row] for row in order]), EVAL_BATCH_SIZE, collate_fn=collate):
        with autocast(model.device, bf16):
            output = model(**batch.to(model.device))
        found += [*torch.stack([output.start_logits, output.end_logits], dim=1).float().cpu().numpy()]
    logits = dict(zip(order, found, strict=True))
    return [logits[row][:, : len(rows[row]["input_ids"])] for row in range(len(rows))]


def best_answers(rows: Sequence[Row], read: Sequence[Window], logits: Sequence[np.ndarray]) -> list[Answer]:
    """The best answer of each row, over all its windows; an empty one where no span is possible."""
    null_scores, best = [np.inf] * len(rows), [(-np.inf, "")] * len(rows)
    for window, (starts, ends) in zip(read, logits, strict=True):
        row = window.row
        null_scores[row] = min(null_scores[row], float(starts[NULL] + ends[NULL]))
        for score, start, end in candidates(window.offsets, starts, ends):
            text = rows[row].context[start:end]
            if text and score > best[row][0]:
                best[row] = (score, text)
    return [Answer(text, null - score if text else 0.0) for null, (score, text) in zip(null_scores, best, strict=True)]


def candidates(
    offsets: Sequence[tuple[int, int] | None], starts: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[float, int, int]]:
    """Score, first character and the one behind the last of each span between the best first and last tokens."""
    for first in np.argsort(-starts)[:NUM_BEST].tolist():
        for last in np.argsort(-ends)[:NUM_BEST].tolist():
            begin, end = offsets[first], offsets[last]
            if begin and end and first <= last < first + MAX_ANSWER_TOKENS:
                yield float(starts[first] + ends[last]), begin[0], end[1]


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and needless space, as in SQuAD's script."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(predicted: str, gold: str) -> float:
    """1 where both are the same once normalized, else 0."""
    return float(normalized(predicted) == normalized(gold))


def f1(predicted: str, gold: str) -> float:
    """F1 of the words of both; where one has none, 1 if the other has none either."""
    predicted_words, gold_words = normalized(predicted).split(), normalized(gold).split()
    if not predicted_words or not gold_words:
        return float(predicted_words == gold_words)
    same = (Counter(predicted_words) & Counter(gold_words)).total()
    return 2 * same / (len(predicted_words) + len(gold_words))


def best_of(metric: Callable[[str, str], float], predicted: str, golds: Sequence[str]) -> float:
    """The metric against the gold answer that fits best; without one, against the empty text."""
    return max(metric(predicted, gold) for gold in [gold for gold in golds if normalized(gold)] or [""])


def measure(answers: Sequence[Answer], golds: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 with "no answer" where the null odds are above 0; `best_f1` at the best threshold for them."""
    decided = ["" if answer.null_odds > 0 else answer.text for answer in answers]
    return {
        "exact_match": float(np.mean([best_of(exact, *pair) for pair in zip(decided, golds, strict=True)])),
        "span_f1": float(np.mean([best_of(f1, *pair) for pair in zip(decided, golds, strict=True)])),
        "best_f1": best_f1(answers, golds),
    }


def best_f1(answers: Sequence[Answer], golds: Sequence[Sequence[str]]) -> float:
    """F1 at the threshold that suits these rows best, found as `find_best_thresh` of SQuAD's script does it.

    It begins with "no answer" everywhere and gives the answers one by one, those of the least null odds first.
    """
    total = most = float(sum(not gold for gold in golds))
    for answer, gold in sorted(zip(answers, golds, strict=True), key=lambda pair: pair[0].null_odds):
        total += best_of(f1, answer.text, gold) if gold else -float(bool(answer.text))
        most = max(most, total)
    return most / len(golds)


def main() -> None:
    """Parse the flags, run once, print one JSON line."""
    files = "squad2/train.tsv and squad2/dev.tsv"
    parser = loop_parser(__doc__, files=files, epochs=2, max_length=384, unit="window")
    parser.add_argument("--stride", type=int, default=128, help="tokens of the context that neighbouring windows share")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    print(json.dumps(asdict(train_plain(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
