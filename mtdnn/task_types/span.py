"""Extractive question answering as in SQuAD 1.1 and 2.0: the answer is a span of the text, or there is none.

Dimensions: B rows, N windows (sequences), T tokens, A candidate answers of a window.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from mtdnn.batch import IGNORED, Batch
from mtdnn.config.json_source import json_value
from mtdnn.config.options import Options
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import NOWHERE, DataError, Fault
from mtdnn.metrics.answers import best, overlap
from mtdnn.metrics.base import Record
from mtdnn.metrics.stored import kept
from mtdnn.metrics.thresholds import cuts
from mtdnn.rows.example import UNLABELLED, Example, RowError
from mtdnn.task_types.base import TASK_TYPES, TaskType, TokenizeBatch
from mtdnn.tokens.ragged import Column, Ragged, Records
from mtdnn.tokens.windows import Window, as_batch, sequence_columns, windows

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mtdnn.networks import divergences, means
else:
    torch = deferred("torch")
    divergences = deferred("mtdnn.networks.divergences")
    means = deferred("mtdnn.networks.means")

NULL = 0  # the first token, whose logits are for "no answer in this window"
OUTSIDE = -1  # in place of the characters of a token outside the context
ORIGINAL = re.compile(r"(-?\d+):::(-?\d+):::([01]):::(.*)", re.DOTALL)  # github.com/namisan/mt-dnn, squad_prepro.py


class SpanOptions(Options):
    """Keys specific to span."""

    stride: int = Field(128, ge=0, description="Tokens of the context that neighbouring windows share; 0: none.")
    max_question_tokens: int = Field(64, ge=1, description="Longer questions are cut.")
    max_answer_tokens: int = Field(30, ge=1, description="Longer answers are not predicted.")
    num_best: int = Field(5, ge=1, description="Answers in a prediction record, the best first.")
    unanswerable: bool = Field(True, description="Whether a question may have no answer; false for SQuAD 1.1.")


@TASK_TYPES.register("span")
class Span(TaskType):
    """Finds the answer to the second text (question) in the first one (context).

    The label is a JSON list of [first character, answer]; an empty list means that there is no answer. The original
    toolkit's `first character:::the one after the last:::1 without an answer, else 0:::answer` is read as well. A
    context that does not fit together with its question is split into overlapping windows; the label of a window
    without the whole answer is "no answer". Only tokens of the context and the null position can be predicted. The
    prediction is "no answer" if the smallest null score of the windows exceeds the best answer's score by more than a
    threshold, which is chosen for F1 on the dev split and stored in the head.

    Source: Devlin et al. 2019, arXiv 1810.04805, sections 4.2 and 4.3.
    """

    Options = SpanOptions
    num_inputs = (2,)
    hub_task = "question-answering"
    default_metrics = ("span_f1", "exact_match")
    default_loss = "cross_entropy"
    losses = ("cross_entropy",)
    metrics = default_metrics
    heads = ("span",)
    logits_of = "parts"
    label_dtype = "int64"
    store_format = 5  # earlier, an answer was not found at the end of a text if no token covers its last character
    sample_block = {"task_type": "span", "inputs": ["context", "question"]}
    sample_rows = (
        '1\t[[13, "Ola Vik"]]\tThe baker is Ola Vik of Tromso.\tWho is the baker?',
        '2\t[[0, "Two"], [0, "Two boats"]]\tTwo boats lie in the harbour.\tHow many boats are there?',
        "3\t[]\tThe lamp is off.\tWho broke the lamp?",
    )
    options: SpanOptions

    # Format: rows → columns of the prepared store, without PyTorch.

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task)
        if task.labels:
            found.append(task.fault("labels", "a span task has no labels", "Remove the key."))
        if task.loss is not None and task.loss.options.get("label_smoothing"):
            reason = "a share of the label would fall on tokens outside the context, which are no answers"
            found.append(task.fault("loss.label_smoothing", reason, "Remove it."))
        if task.max_length < 16:
            fix = "Give 16 or more; 384 is usual."
            found.append(
                task.fault("max_length", f"{task.max_length} leaves too little room for question and context", fix)
            )
        return found

    def read(self, values: Mapping[str, Any]) -> Example:
        """Context, question and answers of a row.

        Raises:
            RowError: a text is empty, or an answer is not in the context at the given character.
        """
        example = super().read({**values, "label": ""})
        label = values.get("label", "")
        if isinstance(label, str) and label.strip() in UNLABELLED:
            return example
        answers = self.parse_label(label)
        for start, answer in answers:
            _refuse_absent(example.texts[0], start, answer)
        return replace(example, label=answers)

    def parse_label(self, text: Any) -> list[tuple[int, str]]:
        try:
            original = ORIGINAL.fullmatch(text) if isinstance(text, str) else None
            value = _original_answers(*original.groups()) if original else text
            value = json_value(value, NOWHERE) if isinstance(value, str) else value
            if isinstance(value, Mapping):  # the format of data sets on the hub
                value = list(zip(value["answer_start"], value["text"], strict=True))
            answers = [(int(start), str(answer)) for start, answer in value]
        except (DataError, ValueError, TypeError, KeyError, OverflowError) as error:
            found = f"{text!r} is not a list of answers"
            raise RowError("label", found, 'Give JSON such as [[17, "an answer"]], or [] for none.') from error
        if not answers and not self.options.unanswerable:
            raise RowError("label", "no answer", "Give one, or set unanswerable: true.")
        return answers

    def stored_label(self, label: Any) -> str:
        return "" if label is None else json.dumps([answer for _, answer in label], ensure_ascii=False)

    def label_name(self, stored: str) -> list[str] | None:
        return json.loads(stored) if stored else None

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Number of rows with an answer, without one, and without a label."""
        first = np.array([stored.row(row).max() for row in range(len(stored))], dtype=np.int64)
        unlabelled, without = int((first == IGNORED).sum()), int((first == NULL).sum())
        return Counter({"answer": len(first) - unlabelled - without, "no answer": without, None: unlabelled})

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        """The windows of each row; `first` and `behind`, the characters of each token; label: two positions per window.

        `truncated` marks rows whose answer is in no window.
        """
        tokenizer = self.bound_tokenizer()
        questions = self._cut_questions([example.texts[1].strip() for example in examples])
        rows = windows(
            tokenizer,
            [example.texts[0] for example in examples],
            before=questions,
            max_length=self.task.max_length,
            overlap=self.options.stride,
        )
        columns = sequence_columns(tokenizer, rows)
        offsets = [np.where(each.inside[:, None], each.offsets, OUTSIDE) for row in rows for each in row]
        characters = np.concatenate([np.zeros((0, 2), np.int64), *offsets]).astype(np.int32)
        labels = [_positions(row, example.label) for row, example in zip(rows, examples, strict=True)]
        lost = [bool(each.label) and max(label) == NULL for each, label in zip(examples, labels, strict=True)]
        return {
            "id": [each.id for each in examples],
            "label": Ragged.from_rows(labels, np.int64),
            **columns,
            "truncated": np.array(lost, dtype=bool),
            "first": Ragged(np.ascontiguousarray(characters[:, 0]), columns["input_ids"].offsets),
            "behind": Ragged(np.ascontiguousarray(characters[:, 1]), columns["input_ids"].offsets),
            "context": [each.texts[0] for each in examples],
            "answers": [self.stored_label(each.label) for each in examples],
        }

    def _cut_questions(self, questions: Sequence[str]) -> list[str]:
        most = min(self.options.max_question_tokens, self.task.max_length // 2)
        encoded = self.bound_tokenizer()(
            list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [
            question if len(offsets) <= most else question[: offsets[most - 1][1]]
            for question, offsets in zip(questions, encoded["offset_mapping"], strict=True)
        ]

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        """2: logits of a token for being the first and the last of the answer."""
        return 2

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """The batch with labels [N, 2], first and last position; `first`, `behind` [N, T]; contexts and answers.

        Args:
            batch: the rows, as the collator made them.
            records: columns of the batch's rows.
            seed: not used.
        """
        lengths = records["sequence_lengths"]
        return replace(
            batch,
            labels=torch.from_numpy(np.array(records["label"].values, dtype=np.int64)).view(-1, 2),
            extras={
                **batch.extras,
                "first": as_batch(records["first"], lengths, batch.mask, OUTSIDE),
                "behind": as_batch(records["behind"], lengths, batch.mask, OUTSIDE),
            },
            row_values={
                **batch.row_values,
                "context": records["context"],
                "answers": [self.label_name(stored) for stored in records["answers"]],
            },
        )

    def logits(self, head: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
        """[N, 2, T]: logits of each token for being the first and the last of the answer; −inf outside the context.

        Args:
            head: this task's head.
            hidden: [N, T, H] the encoder's hidden states.
            batch: the rows, as the collator made them.
        """
        possible = batch.extras["first"] != OUTSIDE
        possible[:, NULL] = True
        scores: Tensor = head(hidden, batch).transpose(1, 2)
        return scores.masked_fill(~possible.unsqueeze(1), -torch.inf)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean over windows of the mean cross entropy of first and last position, as in BERT."""
        return self.loss_function(logits, batch.labels)

    def label_count(self, batch: Batch) -> int:
        return 0 if batch.labels is None else int((batch.labels[:, 0] != IGNORED).sum())

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """[B]: the mean over a row's windows of the sum over first and last position.

        Args:
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            batch: the rows, as the collator made them.
            symmetric: both directions; False: KL(q‖p) alone.
        """
        mean_of_both = divergences.divergence_per_example(logits_p, logits_q, symmetric=symmetric)
        return means.mean_by_row(2 * mean_of_both, batch.row_of_sequence, len(batch))

    # Predictor: logits → records, and what reports need of them.

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`prediction` is the answer's text, "" for none; `answers` the best answers; `label` the accepted texts.

        `scores.null_odds` is the null score minus the best answer's score, in logits.
        """
        first, behind = batch.extras["first"].cpu(), batch.extras["behind"].cpu()
        null, found = self._window_answers(logits.float().cpu(), first, behind)
        per_row: list[list[tuple[float, int, int]]] = [[] for _ in range(len(batch))]
        null_scores = [np.inf] * len(batch)
        for window, row in enumerate(batch.row_of_sequence.tolist()):
            per_row[row] += found[window]
            null_scores[row] = min(null_scores[row], null[window])
        contexts = batch.row_values["context"]
        answers = [None] * len(batch) if batch.labels is None else batch.row_values["answers"]
        rows = zip(batch.row_ids, per_row, null_scores, contexts, answers, strict=True)
        return [self._record(*row) for row in rows]

    def _window_answers(
        self, logits: Tensor, first: Tensor, behind: Tensor
    ) -> tuple[list[float], list[list[tuple[float, int, int]]]]:
        """Null score of each window, and its best answers: (score, first character, the one after the last)."""
        null = logits[:, :, NULL].sum(dim=1)
        spans = logits.clone()
        spans[:, :, NULL] = -torch.inf
        count = min(20, spans.shape[2])
        top = spans.topk(count, dim=2)
        (start_scores, end_scores), (starts, ends) = top.values.unbind(1), top.indices.unbind(1)
        length = ends.unsqueeze(1) - starts.unsqueeze(2) + 1
        scores = start_scores.unsqueeze(2) + end_scores.unsqueeze(1)
        scores = scores.masked_fill((length < 1) | (length > self.options.max_answer_tokens), -torch.inf).flatten(1)
        best_scores, places = scores.topk(min(2 * self.options.num_best, scores.shape[1]), dim=1)
        from_characters = first.gather(1, starts.gather(1, places // count)).tolist()
        to_characters = behind.gather(1, ends.gather(1, places % count)).tolist()
        answers = [
            [each for each in zip(*window, strict=True) if each[0] > -np.inf]
            for window in zip(best_scores.tolist(), from_characters, to_characters, strict=True)
        ]
        return null.tolist(), answers

    def _record(
        self, row_id: str, found: list[tuple[float, int, int]], null: float, context: str, label: list[str] | None
    ) -> dict[str, Any]:
        answers: dict[str, float] = {}
        for score, start, end in sorted(found, reverse=True):
            answers.setdefault(context[start:end].strip(), score)
        first = [(text, score) for text, score in answers.items() if text][: self.options.num_best]
        odds = float(np.float32(null - first[0][1])) if first else 0.0
        scores = np.array([*(score for _, score in first), null])
        weights = np.exp(scores - scores.max())
        shares = (weights / weights.sum()).tolist()
        record = {
            "id": row_id,
            "prediction": "",
            "label": label,
            "scores": {"null_odds": odds},
            "answers": [{"text": text, "probability": share} for (text, _), share in zip(first, shares, strict=False)],
        }
        record["prediction"] = self._decided(record, 0.0)
        return record

    def _decided(self, record: Mapping[str, Any], threshold: float) -> str:
        if not record["answers"] or (self.options.unanswerable and record["scores"]["null_odds"] > threshold):
            return ""
        text: str = record["answers"][0]["text"]
        return text

    def settle(self, records: Sequence[Record], head: nn.Module, *, tune: bool) -> Sequence[Record]:
        """The records, with "no answer" where the null score exceeds the best answer's by more than the threshold.

        Args:
            records: the records of a whole split.
            head: this task's head.
            tune: choose the threshold again from these records.
        """
        if tune and self.options.unanswerable and any(record["label"] is not None for record in records):
            head.get_buffer("null_threshold").fill_(null_threshold(records))
        threshold = float(head.get_buffer("null_threshold"))
        return kept({**record, "prediction": self._decided(record, threshold)} for record in records)


def null_threshold(records: Sequence[Mapping[str, Any]]) -> float:
    """The threshold on `null_odds` that gives the labelled records the highest mean F1.

    An answer is predicted if the odds are not above the threshold. Of equally good thresholds the one with the fewest
    answers is chosen, as in SQuAD's script.
    """
    answered = [record for record in records if record["label"] is not None and record["answers"]]
    if not answered:
        return 0.0
    best_cut = max(cuts((-record["scores"]["null_odds"], _gain(record)) for record in answered), key=attrgetter("gain"))
    lowest = min(record["scores"]["null_odds"] for record in answered)
    return float(-best_cut.lowest if best_cut.gain > 0 else lowest - 1.0)


def _gain(record: Mapping[str, Any]) -> float:
    """The F1 of a record's best answer less that of none."""
    given, refused = (best(overlap, text, record["label"]) for text in (record["answers"][0]["text"], ""))
    return given - refused


def _original_answers(start: str, behind: str, is_impossible: str, answer: str) -> list[tuple[int, str]]:
    """The answer of a row of the original toolkit, where an impossible one has the character −1 and an empty text."""
    if is_impossible == "1":
        return []
    if int(behind) - int(start) != len(answer):
        found = f"characters {start} to {behind} are {int(behind) - int(start)}, '{answer}' has {len(answer)}"
        raise RowError("label", found, "The end is the character after the answer.")
    return [(int(start), answer)]


def _refuse_absent(context: str, start: int, answer: str) -> None:
    """Raise RowError if the answer is not in the context at that character."""
    if not answer.strip():
        raise RowError("label", "an empty answer", "Give its text, or [] if there is none.")
    if start >= 0 and context[start : start + len(answer)] == answer:
        return
    elsewhere = context.find(answer)
    there = f"It is at {elsewhere}." if elsewhere >= 0 else "It is not in the context."
    raise RowError("label", f"'{answer}' is not at character {start} of the context", there)


def _positions(row: Sequence[Window], answers: Sequence[tuple[int, str]] | None) -> list[int]:
    """For each window of a row the first and last token of the first answer: NULL if the answer is not complete there,
    IGNORED if the row is unlabelled.

    An answer is complete without the characters at its ends that no token covers: white space, and marks over letters
    and control characters that a tokenizer leaves out.
    """
    if answers is None:
        return [IGNORED, IGNORED] * len(row)
    if not answers:
        return [NULL, NULL] * len(row)
    start, end = answers[0][0], answers[0][0] + len(answers[0][1])
    offsets = np.concatenate([window.offsets[window.inside] for window in row])
    own = offsets[(offsets[:, 1] > start) & (offsets[:, 0] < end) & (offsets[:, 1] > offsets[:, 0])]
    start, end = max(start, own[:, 0].min(initial=end)), min(end, own[:, 1].max(initial=start))
    return [place for window in row for place in _positions_in(window, start, end)]


def _positions_in(window: Window, start: int, end: int) -> tuple[int, int]:
    """First and last token of the characters from `start` to `end`; NULL if the window does not have all of them."""
    tokens = np.flatnonzero(window.inside & (window.offsets[:, 1] > window.offsets[:, 0]))
    begins, behind = window.offsets[tokens, 0], window.offsets[tokens, 1]
    if not len(tokens) or begins[0] > start or behind[-1] < end:
        return NULL, NULL
    first, last = np.searchsorted(behind, start, "right"), np.searchsorted(begins, end, "left") - 1
    return (int(tokens[first]), int(tokens[last])) if first <= last else (NULL, NULL)
