"""One tag for each word of a text: named entities, parts of speech.

Dimensions: B rows, N windows (sequences), T tokens, C tags, W words of all rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from mtdnn.batch import IGNORED, NO_WORD, Batch
from mtdnn.config.options import Options
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import Fault, did_you_mean
from mtdnn.metrics.tags import is_entity_tag
from mtdnn.rows.example import UNLABELLED, Example, RowError, declared, refuse_broken_list
from mtdnn.rows.lists import written_list
from mtdnn.task_types.base import TASK_TYPES, TaskType, TokenizeBatch
from mtdnn.tokens.ragged import Column, Ragged, Records
from mtdnn.tokens.windows import Window, as_batch, sequence_columns, windows

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mtdnn.networks import crf, divergences, means
else:
    torch = deferred("torch")
    crf = deferred("mtdnn.networks.crf")
    divergences = deferred("mtdnn.networks.divergences")
    means = deferred("mtdnn.networks.means")


class SequenceLabelingOptions(Options):
    """Keys specific to sequence_labeling."""

    overlap: int = Field(32, ge=0, description="Tokens that neighbouring windows of a long text share; 0: none.")


@TASK_TYPES.register("sequence_labeling")
class SequenceLabeling(TaskType):
    """Predicts a tag for each word, at the word's first sub-word.

    Words and tags are separated by spaces, or given as lists of texts, in JSON, Python or NumPy. A text of more than
    max_length tokens is split into overlapping windows; each word counts in the window where it is farthest from an
    edge, so that no word is lost or counted twice. The store has the tag of each word in `label`, and in `words` the
    number of the word that counts at each token.

    Logits are [N, T, C], for independent tags, or from a head that `returns_chains` [N, T, C, C], potentials of chains
    of tags (`mtdnn.networks.crf`): one chain for the words that count in a window.
    """

    Options = SequenceLabelingOptions
    num_inputs = (1,)
    hub_task = "token-classification"
    default_metrics = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")
    default_loss = "cross_entropy"
    losses = ("cross_entropy",)
    metrics = default_metrics
    heads = ("token", "crf")
    logits_of = "parts"
    same_rows = "texts"
    shared_sequences = "all"
    label_dtype = "int64"
    store_format = 4  # earlier, words counted at other sub-words than the first if a tokenizer truncates on the left
    sample_block = {
        "task_type": "sequence_labeling",
        "inputs": ["tokens"],
        "labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    }
    sample_rows = (
        "1\tB-PER I-PER O B-LOC O\tAda Birch left Norwich .",
        "2\t['O', 'O', 'B-LOC']\t['Rain', 'over', 'Leith']",
        "3\tO O O\tNobody said anything",
    )
    options: SequenceLabelingOptions

    # Format: rows → columns of the prepared store, without PyTorch.

    def __init__(self, task: TaskDef) -> None:
        super().__init__(task)
        self._default_tag = "O" if "O" in self._index else task.labels[0]
        if not task.metrics and not all(map(is_entity_tag, task.labels)):  # parts of speech
            self.metric_names = ("token_accuracy",)

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task)
        if len(task.labels) < 2:
            found.append(task.fault("labels", f"{len(task.labels)} tags", "List every tag, such as O, B-PER, I-PER."))
        if cls.head_named(task).name == "crf" and task.loss is not None:
            fix = "Remove it: this head has its own loss, the likelihood of whole sentences."
            found.append(task.fault("loss", f"{task.loss.name} with head: crf", fix))
        odd = [tag for tag in task.labels if not is_entity_tag(tag)]
        if odd and any(name.startswith("entity_") for name in task.metrics):
            fix = "Set metrics: [token_accuracy], or name the tags O, B-…, I-…."
            found.append(task.fault("metrics", f"metrics of entities, but '{odd[0]}' is not an entity tag", fix))
        return found

    def read(self, values: Mapping[str, Any]) -> Example:
        """A row's words and tags.

        Raises:
            RowError: there are no words, a tag is unknown, or the numbers of tags and words differ.
        """
        name = self.task.inputs[0]
        words = words_of(_checked_words(values[name], name))
        if not words:
            raise RowError(name, "no words", "Give the words, or remove the row.")
        label = values.get("label", "")
        if isinstance(label, str) and label.strip() in UNLABELLED and label.strip() not in self._index:
            return Example(str(values["id"]), (" ".join(words),), None, {"words": words})
        tags = self.parse_label(_checked_words(label, "label", numbers=True))
        if len(tags) != len(words):
            raise RowError("label", f"{len(tags)} tags for {len(words)} words", "Give one tag for each word.")
        return Example(str(values["id"]), (" ".join(words),), tags, {"words": words})

    def parse_label(self, text: Any) -> list[str]:
        tags = [declared(tag, self._index) for tag in words_of(text)]
        for place, tag in enumerate(tags, 1):
            if tag not in self._index:
                where = f"{self.task.name}.labels ({self.task.where('labels')})"
                found = f"tag {place} of {len(tags)}, '{tag}', is not in {where}.{did_you_mean(tag, self._index)}"
                raise RowError("label", found, "Fix the row, or add the tag.")
        return tags

    def stored_label(self, label: list[str] | None) -> list[int]:
        return [] if label is None else [self._index[tag] for tag in label]

    def label_name(self, stored: int) -> str | None:
        return None if stored == IGNORED else self.task.labels[stored]

    def counted_labels(self, label: list[str]) -> list[str]:
        """The tags of a row."""
        return label

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Tag → number of words with it; None → unlabelled rows."""
        counts = np.bincount(stored.values[stored.values != IGNORED], minlength=len(self.task.labels))
        unlabelled = sum(bool((stored.row(row) == IGNORED).all()) for row in range(len(stored)))
        found: Counter[Any] = Counter(dict(zip(self.task.labels, counts.tolist(), strict=True)))
        found[None] = unlabelled
        return found

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        """The windows of each row; `words` has for each token the number of the word that counts at it, or NO_WORD."""
        tokenizer = self.bound_tokenizer()
        rows = windows(
            tokenizer,
            [example.texts[0] for example in examples],
            max_length=self.task.max_length,
            overlap=self.options.overlap,
        )
        columns = sequence_columns(tokenizer, rows)
        order = slice(None, None, -1 if tokenizer.truncation_side == "left" else 1)  # that of the text, and back
        marked = [_mark(row[order], each.values["words"])[order] for row, each in zip(rows, examples, strict=True)]
        words = [marks for row in marked for marks in row]
        columns["words"] = Ragged(np.concatenate([np.zeros(0, np.int32), *words]), columns["input_ids"].offsets)
        return {"id": [each.id for each in examples], "label": self._stored_tags(examples), **columns}

    def own_columns(self, examples: Sequence[Example], tokens: Mapping[str, Column]) -> dict[str, Column]:
        return {"label": self._stored_tags(examples), "words": tokens["words"]}

    def _stored_tags(self, examples: Sequence[Example]) -> Ragged:
        """The `label` column: a number for each word, IGNORED where a row has no tags."""
        labels = [self.stored_label(each.label) or [IGNORED] * len(each.values["words"]) for each in examples]
        return Ragged.from_rows(labels, np.int64)

    def words_without_token(self, examples: Sequence[Example], columns: Mapping[str, Any]) -> list[str]:
        """Every word without a token; it is never learnt."""
        found = []
        for row, example in enumerate(examples):
            counting = set(columns["words"].row(row).tolist())
            found += [word for number, word in enumerate(example.values["words"]) if number not in counting]
        return found

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        return len(self.task.labels)

    @cached_property
    def _has_chains(self) -> bool:
        """Whether the logits are potentials of chains of tags."""
        return self.head_class.returns_chains

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """The batch with labels [N, T], IGNORED except at tokens where a labelled word counts; `words` [N, T]; `tags`;
        `places` [M] of tokens where a word counts, and `word_counts` [N] of them in each sequence.

        Args:
            batch: the rows, as the collator made them.
            records: columns of the batch's rows.
            seed: not used.
        """
        words = as_batch(records["words"], records["sequence_lengths"], batch.mask, NO_WORD)
        tags: Ragged = records["label"]
        starts = torch.from_numpy(tags.offsets[:-1])
        places = (starts[batch.row_of_sequence].unsqueeze(1) + words).clamp(min=0)
        labels = torch.from_numpy(np.array(tags.values, dtype=np.int64))[places].masked_fill(words == NO_WORD, IGNORED)
        rows = [tags.row(row).tolist() for row in range(len(tags))]
        counts = words != NO_WORD
        found = {"words": words, "places": counts.flatten().nonzero().flatten(), "word_counts": counts.sum(dim=1)}
        return replace(
            batch, labels=labels, extras={**batch.extras, **found}, row_values={**batch.row_values, "tags": rows}
        )

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        loss: Callable[..., Tensor] = self.loss_function
        if self._has_chains:
            loss = partial(crf.mean_negative_log_likelihood, longest=int(batch.extras["word_counts"].max()))
        return loss(logits, batch.labels)

    def label_count(self, batch: Batch) -> int:
        return 0 if batch.labels is None else int((batch.labels != IGNORED).sum())

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """[B]: the mean over a row's words, each at the token where it counts; for chains, of the marginals.

        Words count whether their tags are known or not, as rows in the other types: ℓ_s compares two predictions.

        Args:
            logits_p: [B, …] the predictions compared, not normalised.
            logits_q: [B, …] the reference predictions, not normalised.
            batch: the rows, as the collator made them.
            symmetric: both directions; False: KL(q‖p) alone.
        """
        p, q = (
            crf.log_marginals(x, batch.extras["words"] != NO_WORD, batch.extras["word_counts"])
            if self._has_chains
            else batch.at_places(x)
            for x in (logits_p, logits_q)
        )
        per_word = divergences.divergence_per_example(p, q, symmetric=symmetric)
        return means.mean_by_row(per_word, batch.row_of_place, len(batch))

    # Predictor: logits → records, and what reports need of them.

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`prediction` and `label` are lists of tags, one per word; a word without a token gets the tag "O"."""
        words, rows = batch.extras["words"], batch.row_of_place.tolist()
        if self._has_chains:
            best = crf.best_tags(logits, words != NO_WORD, batch.extras["word_counts"])
        else:
            best = batch.at_places(logits).argmax(-1)
        tags = batch.row_values["tags"]
        predicted = [[self._default_tag] * len(row) for row in tags]
        for row, word, tag in zip(rows, batch.at_places(words).tolist(), best.tolist(), strict=True):
            predicted[row][word] = self.task.labels[tag]
        known = [None] * len(batch) if batch.labels is None else [self._named(row) for row in tags]
        return [
            {"id": row_id, "prediction": guesses, "label": label, "scores": {}}
            for row_id, guesses, label in zip(batch.row_ids, predicted, known, strict=True)
        ]

    def _named(self, labels: list[int]) -> list[str] | None:
        return None if IGNORED in labels else [self.task.labels[label] for label in labels]


def _checked_words(value: Any, key: str, *, numbers: bool = False) -> Any:
    """The value, a list that is written in a text as a list.

    Args:
        value: of a cell.
        key: name of the column.
        numbers: whether a text may be a list of numbers alone; else it is one that happens to be in brackets.
    Raises:
        RowError: a list has items that are neither texts nor numbers, or a text is meant as a list and is none.
    """
    if isinstance(value, str):
        refuse_broken_list(value, key)
    found = _list_in(value, numbers=numbers) if isinstance(value, str) else value
    for place, word in enumerate(found if isinstance(found, (list, tuple)) else (), 1):
        if not isinstance(word, (str, int, float)) or word != word:
            what = f"{'nothing' if word is None else repr(word)} at position {place} of {len(found)}"
            raise RowError(key, what, "Give only texts.")
    return found


def words_of(value: Any) -> list[str]:
    """The words of a cell: a list, a text with a list that has texts, or a text split at spaces."""
    found = _list_in(value, numbers=False) if isinstance(value, str) else value
    if isinstance(found, (list, tuple)):
        return [str(word) for word in found]
    return [word for word in str(found).strip().split(" ") if word]


def _list_in(text: str, *, numbers: bool) -> list[Any] | str:
    """The list that is written in a text, if it has texts or may be of numbers alone; else the text."""
    found = written_list(text.strip())
    is_meant = found and (numbers or any(isinstance(each, str) for each in found))
    return found if found and is_meant else text


def _mark(row: Sequence[Window], words: Sequence[str]) -> list[np.ndarray]:
    """`words` column of a row's windows: each word at its first sub-word, in the window with most context around it.

    Args:
        row: the windows, from the start of the text to its end.
        words: of the text.
    """
    ends = np.cumsum([len(word) + 1 for word in words])  # for each word the character after the space that follows it
    best: dict[int, tuple[float, int, int]] = {}  # word → (characters around it, window, token)
    first: dict[int, int] = {}  # word → its first character that a token covers
    for number, window in enumerate(row):
        tokens = np.flatnonzero(window.inside & (window.offsets[:, 1] > window.offsets[:, 0]))
        if not len(tokens):
            continue
        left = -math.inf if number == 0 else window.offsets[tokens[0], 0]
        right = math.inf if number == len(row) - 1 else window.offsets[tokens[-1], 1]
        # a token belongs to the word of its last character: sentencepiece adds the space before a word to its token
        owners = np.searchsorted(ends, window.offsets[tokens, 1] - 1, "right")
        starts = window.offsets[tokens, 0]
        for token, word, start in zip(tokens.tolist(), owners.tolist(), starts.tolist(), strict=True):
            around = min(start - left, right - start)
            if start == first.setdefault(word, start) and (word not in best or around > best[word][0]):
                best[word] = (around, number, token)
    marks = [np.full(len(window.ids), NO_WORD, dtype=np.int32) for window in row]
    for word, (_, number, token) in best.items():
        marks[number][token] = word
    return marks
