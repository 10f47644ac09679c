"""A number for a text or a pair of texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtdnn.batch import Batch
from mtdnn.config.tasks import TaskDef
from mtdnn.deferred import deferred
from mtdnn.errors import Fault
from mtdnn.metrics.base import Record
from mtdnn.rows.example import RowError, refuse_beyond_32_bits
from mtdnn.rows.summaries import number_counts, number_summary
from mtdnn.task_types.base import TASK_TYPES, TaskType

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mtdnn.networks import divergences
else:
    torch = deferred("torch")
    divergences = deferred("mtdnn.networks.divergences")


@TASK_TYPES.register("regression")
class Regression(TaskType):
    """Predicts a real number; a missing label is stored as NaN."""

    default_metrics = ("pearson", "spearman")
    default_loss = "mse"
    losses = ("mse",)
    metrics = ("pearson", "spearman", "mse", "mae")
    heads = ("pooled", "san")
    logits_of = "number"
    problem_type = "regression"
    hub_task = "text-classification"
    same_rows = "texts"
    shared_sequences = "first"
    soft_labels = True
    missing_label_marks = ("_",)  # −1 is a number
    label_dtype = "float32"
    sample_block = {"task_type": "regression", "inputs": ["first", "second"]}
    sample_rows = (
        "1\t4.5\tA goat eats grass.\tA goat is eating grass.",
        "2\t0\tThe lamp is off.\tHe swam across the lake in an hour.",
        "3\t2.25\tShe paints.\tShe draws.",
    )

    # Format: rows → columns of the prepared store, without PyTorch.

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task)
        if cls.soft_labels and task.distill is not None and task.distill.temperature != 1:
            found.append(task.fault("distill.temperature", "a number has no softmax to soften", "Remove the key."))
        return found

    def parse_label(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise RowError("label", f"'{text}' is not a number", "Give a number such as 2.5.") from error
        if not math.isfinite(value):
            raise RowError("label", f"'{text}' is not a finite number", "Give a number, or leave it empty.")
        refuse_beyond_32_bits(value)
        return value

    def stored_label(self, label: float | None) -> float:
        return math.nan if label is None else label

    def label_name(self, stored: float) -> float | None:
        return None if math.isnan(stored) else float(str(np.float32(stored)))  # 0.59 as in the file, not 0.589999973…

    def label_counts(self, stored: Any) -> Counter[Any]:
        """Counts of the labels rounded to four digits, so that their number is limited for any number of rows."""
        values = stored[~np.isnan(stored)]
        counts = number_counts(values.tolist())
        counts[None] = len(stored) - len(values)
        return counts

    def label_summary(self, counts: Counter[Any]) -> dict[str, Any]:
        """`unlabelled` rows, and minimum, quartiles, maximum and mean of the labels."""
        numbers = Counter({value: count for value, count in counts.items() if value is not None})
        summary: dict[str, Any] = {"unlabelled": counts[None]}
        return {**summary, "values": number_summary(numbers)} if numbers else summary

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        return 1

    def collate_labels(self, records: Mapping[str, np.ndarray]) -> Tensor:
        """[B] float32; NaN for rows without a label."""
        return torch.from_numpy(np.ascontiguousarray(records["label"], dtype=np.float32))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        labels = batch.labels
        return self.loss_function(logits.squeeze(-1), labels, None if labels is None else ~labels.isnan())

    def soft_loss(self, logits: Tensor, soft: Tensor, batch: Batch, *, temperature: float) -> Tensor:
        """The task loss with the teacher's numbers in place of the labels.

        Args:
            logits: the head's output for the batch.
            soft: [B, 1] soft labels, NaN where a row has none.
            batch: the rows, as the collator made them.
            temperature: not used: there is no softmax.
        """
        return self.loss(logits, replace(batch, labels=soft[:, 0]))

    def label_count(self, batch: Batch) -> int:
        return 0 if batch.labels is None else int((~batch.labels.isnan()).sum())

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        return divergences.squared_difference(logits_p, logits_q)

    # Predictor: logits → records, and what reports need of them.

    def soft_label(self, record: Mapping[str, Any]) -> list[float]:
        """The teacher's number."""
        value = record.get("prediction")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise RowError("prediction", f"{value!r} is not a number", "Give a teacher of this task.")
        return [float(value)]

    def soft_record(self, soft: Sequence[float]) -> dict[str, Any]:
        return {"prediction": soft[0], "scores": {}}

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        labels = [math.nan] * len(batch) if batch.labels is None else batch.labels.tolist()
        return [
            {"id": row_id, "prediction": value, "label": self.label_name(label), "scores": {}}
            for row_id, value, label in zip(batch.row_ids, logits.float().squeeze(-1).tolist(), labels, strict=True)
        ]

    def mistake(self, record: Record) -> float | None:
        """The absolute difference from the label."""
        label, prediction = record["label"], record["prediction"]
        comparable = isinstance(label, (int, float)) and isinstance(prediction, (int, float))
        return abs(float(prediction) - label) if comparable and prediction != label else None

    def shown(self, answers: Sequence[Any]) -> str:
        """The mean."""
        return f"{sum(answers) / len(answers):.2f}"
