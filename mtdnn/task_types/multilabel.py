"""Any number of labels for a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from mtdnn.batch import IGNORED, Batch
from mtdnn.config.options import Options
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import Fault
from mtdnn.metrics.base import Record, labelled_records
from mtdnn.metrics.label_sets import f1_by_label
from mtdnn.metrics.stored import kept
from mtdnn.metrics.thresholds import f1_threshold
from mtdnn.rows.example import UNLABELLED, Example, RowError
from mtdnn.rows.lists import written_list
from mtdnn.task_types.base import TASK_TYPES, TaskType, TokenizeBatch, label_faults
from mtdnn.tokens.ragged import Column, Ragged, Records

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mtdnn.networks import divergences, heads, losses
else:
    torch = deferred("torch")
    divergences = deferred("mtdnn.networks.divergences")
    heads = deferred("mtdnn.networks.heads")
    losses = deferred("mtdnn.networks.losses")

EMPTY = "none"
"""The label cell of a row to which no label applies; an empty cell means that the labels are unknown."""


class MultilabelOptions(Options):
    """Keys specific to multilabel."""

    threshold: float = Field(0.5, gt=0, lt=1, description="Smallest probability with which a label is predicted.")
    tune_thresholds: bool = Field(
        False, description="Choose for each label the threshold with the best F1 on the dev split."
    )


@TASK_TYPES.register("multilabel")
class Multilabel(TaskType):
    """Predicts a set of labels, independently of each other.

    Labels in a row are separated by commas, or given as a list; `none` is the empty set. A label is stored as its index
    in the task's list. Each label has its own logit; its probability is the sigmoid.
    """

    Options = MultilabelOptions
    default_metrics = ("f1_micro", "f1_macro", "subset_accuracy", "lrap")
    default_loss = "binary_cross_entropy"
    losses = ("binary_cross_entropy", "binary_focal")
    metrics = (*default_metrics, "hamming_loss")
    heads = ("pooled", "san")
    logits_of = "labels"
    problem_type = "multi_label_classification"
    hub_task = "text-classification"
    same_rows = "texts"
    stratifies = True
    shared_sequences = "first"
    label_dtype = "int64"
    tuned_on_dev = ("tune_thresholds",)
    unstored = ("threshold", "tune_thresholds")
    sample_block = {"task_type": "multilabel", "inputs": ["title", "text"], "labels": ["sport", "politics", "money"]}
    sample_rows = (
        "1\tsport,money\tA transfer\tThe club sold its striker for ten million.",
        "2\tnone\tRain\tIt rained all night.",
        "3\t['politics']\tAt the town hall\tThe mayor resigned.",
    )
    options: MultilabelOptions

    # Format: rows → columns of the prepared store, without PyTorch.

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task) + label_faults(task)
        if not task.labels:
            found.append(task.fault("labels", "no labels", "List every label a row may have."))
        odd = [label for label in task.labels if label == EMPTY or "," in label or label.startswith("[")]
        found += [
            task.fault(
                "labels",
                f"'{label}' looks like a list of labels, or like an empty one",
                "Rename it, here and in the rows.",
            )
            for label in odd
        ]
        return found

    def read(self, values: Mapping[str, Any]) -> Example:
        label = values.get("label")
        if isinstance(label, (list, tuple)):
            read = super().read({**values, "label": ""})
            return replace(read, label=self._checked([str(each).strip() for each in label]))
        return super().read(values)

    def parse_label(self, text: str) -> list[str]:
        if text == EMPTY:
            return []
        names = written_list(text)
        if names is None:
            names = (text[1:-1] if text.startswith("[") and text.endswith("]") else text).split(",")
        return self._checked([str(each).strip() for each in names])

    def _checked(self, names: Sequence[str]) -> list[str]:
        """The labels in the task's order.

        Raises:
            RowError: a label is not declared, or is repeated.
        """
        alone = dict.fromkeys((EMPTY, *UNLABELLED), f"Write {EMPTY} alone for a row without any.")
        found = [self._declared_label(name, *filter(None, [alone.get(name)])) for name in names]
        for name in found:
            if found.count(name) > 1:
                raise RowError("label", f"'{name}' is given {found.count(name)} times", "Give it once.")
        return sorted(found, key=self._index.__getitem__)

    def stored_label(self, label: list[str] | None) -> list[int]:
        return [IGNORED] if label is None else [self._index[name] for name in label]

    def label_name(self, stored: Sequence[int]) -> list[str] | None:
        return None if IGNORED in stored else [self.task.labels[number] for number in stored]

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        labels = [self.stored_label(example.label) for example in examples]
        return {
            "id": [example.id for example in examples],
            "label": Ragged.from_rows(labels, np.int64),
            **tokenize([example.texts for example in examples]),
        }

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Label → number of rows with it, `none` → rows with an empty set, None → unlabelled rows."""
        known = stored.values[stored.values != IGNORED]
        counts = np.bincount(known, minlength=len(self.task.labels))
        found: Counter[Any] = Counter(dict(zip(self.task.labels, counts.tolist(), strict=True)))
        found[EMPTY], found[None] = int((stored.lengths == 0).sum()), int((stored.values == IGNORED).sum())
        return found

    def label_summary(self, counts: Counter[Any]) -> dict[str, Any]:
        """`unlabelled` rows, and `counts` of each label and of empty sets."""
        return {"unlabelled": counts[None], "counts": {name: counts[name] for name in (*self.task.labels, EMPTY)}}

    def counted_labels(self, label: list[str]) -> list[str]:
        """The labels of a row, or `none` for an empty set."""
        return label or [EMPTY]

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        return len(self.task.labels)

    def build_head(self, hidden_size: int, *, family: Mapping[str, Any], word_embeddings: nn.Embedding) -> nn.Module:
        """A head with a buffer `thresholds` [C], so that every checkpoint has them."""
        head = super().build_head(hidden_size, family=family, word_embeddings=word_embeddings)
        heads.add_tuned(head, "thresholds", torch.full((self.num_outputs,), self.options.threshold))
        return head

    def collate_labels(self, records: Records) -> Tensor:
        """[B, C] float32, 1 for the labels of a row, else 0; UNKNOWN for unlabelled rows."""
        stored: Ragged = records["label"]
        labels = torch.zeros(len(stored), self.num_outputs)
        for row in range(len(stored)):
            numbers = stored.row(row).tolist()
            if IGNORED in numbers:
                labels[row] = losses.UNKNOWN
            else:
                labels[row, numbers] = 1.0
        return labels

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        labels = batch.labels
        return self.loss_function(logits, labels, None if labels is None else (labels >= 0).all(dim=-1))

    def label_count(self, batch: Batch) -> int:
        return 0 if batch.labels is None else int((batch.labels >= 0).all(dim=-1).sum())

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        """[B]: the mean over labels of the divergence of two binary predictions, as the loss is a mean over labels.

        Args:
            logits_p: [B, C] the predictions compared.
            logits_q: [B, C] the reference predictions.
            batch: the rows, as the collator made them.
            symmetric: both directions; False: KL(q‖p) alone.
        """
        return divergences.binary_divergence_per_example(logits_p, logits_q, symmetric=symmetric)

    # Predictor: logits → records, and what reports need of them.

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`prediction` and `label` are lists of names in the task's order; `scores` the probability of each label."""
        probabilities = torch.sigmoid(logits.float()).cpu().tolist()
        labels = [None] * len(batch) if batch.labels is None else [_named(row) for row in batch.labels.tolist()]
        first = [self.options.threshold] * self.num_outputs
        return [
            {
                "id": row_id,
                "prediction": self._above(scores, first),
                "label": None if label is None else [self.task.labels[number] for number in label],
                "scores": dict(zip(self.task.labels, scores, strict=True)),
            }
            for row_id, label, scores in zip(batch.row_ids, labels, probabilities, strict=True)
        ]

    def _above(self, scores: Sequence[float], thresholds: Sequence[float]) -> list[str]:
        places = zip(self.task.labels, scores, thresholds, strict=True)
        return [name for name, score, threshold in places if score >= threshold]

    def settle(self, records: Sequence[Record], head: nn.Module, *, tune: bool) -> Sequence[Record]:
        """The records with the labels whose probability is at least the label's threshold.

        Args:
            records: the records of a whole split.
            head: this task's head.
            tune: with `tune_thresholds`, choose the thresholds from these records.
        """
        buffer = head.get_buffer("thresholds")
        if tune and self.options.tune_thresholds and (labelled := labelled_records(records)):
            chosen = [
                f1_threshold([(record["scores"][name], name in record["label"]) for record in labelled])
                for name in self.task.labels
            ]
            buffer.copy_(torch.tensor(chosen))
        thresholds = buffer.double().tolist()
        return kept(
            {**record, "prediction": self._above(list(record["scores"].values()), thresholds)} for record in records
        )

    def exported_settings(self, head: nn.Module) -> dict[str, Any]:
        """`thresholds`: label → smallest probability with which it is predicted."""
        values = head.get_buffer("thresholds").double().tolist()
        return {"thresholds": dict(zip(self.task.labels, values, strict=True))}

    def label_scores(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        """F1 of each label, and the number of rows that have it and for which it is predicted."""
        right, predicted = (Counter(name for each in records for name in each[key]) for key in ("label", "prediction"))
        return {
            name: {"rows": right[name], "predicted": predicted[name], "F1": value}
            for name, value in f1_by_label(records, self.task.labels).items()
        }

    def mistake(self, record: Record) -> float | None:
        """The share of the task's labels that are predicted wrongly."""
        if record["label"] is None or record["prediction"] == record["label"]:
            return None
        return len({*record["label"]} ^ {*record["prediction"]}) / self.num_outputs

    def shown(self, answers: Sequence[Any]) -> str:
        """The most frequent set."""
        return super().shown([", ".join(each) or EMPTY for each in answers])


def _named(row: Sequence[float]) -> list[int] | None:
    """The indices of a row's labels; None if they are unknown."""
    return None if row and row[0] < 0 else [place for place, value in enumerate(row) if value == 1.0]
