"""One of several labels for a text or a pair of texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from mtdnn.batch import IGNORED, Batch, on_device
from mtdnn.config.options import Named, Options
from mtdnn.config.tasks import TaskDef
from mtdnn.config.words import words_as_keys
from mtdnn.deferred import deferred
from mtdnn.errors import Fault, unknown
from mtdnn.metrics.base import METRICS, Record, labelled_records
from mtdnn.metrics.labels import TWO_NAMES
from mtdnn.metrics.probabilities import fitted_temperature, with_temperature
from mtdnn.metrics.stored import kept
from mtdnn.rows.example import UNLABELLED, Example, RowError
from mtdnn.task_types.base import TASK_TYPES, Predictor, TaskType, TokenizeBatch, label_faults, wrong_answer
from mtdnn.tokens.ragged import Column, Records

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mtdnn.networks import divergences, heads, losses
else:
    torch = deferred("torch")
    divergences = deferred("mtdnn.networks.divergences")
    heads = deferred("mtdnn.networks.heads")
    losses = deferred("mtdnn.networks.losses")


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ClassificationOptions(Options):
    """Keys specific to classification."""

    class_weights: Annotated[Literal["balanced"] | dict[str, Weight] | None, BeforeValidator(words_as_keys)] = Field(
        None,
        description="Label → factor of its rows' loss. balanced: rows ∕ (labels in train × its own). Default: none.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="The same as this option of the loss `cross_entropy`; 0: none."
    )
    row_weights: bool = Field(
        False, description="Rows have a column `weight` after the label: a factor of their loss; an empty one is 1."
    )
    calibrate: bool = Field(
        False, description="Divide logits by a temperature fitted on the dev split, for predicted probabilities."
    )


@TASK_TYPES.register("classification")
class Classification(TaskType):
    """Single-label classification; a label is stored as its index in the task's list."""

    Options = ClassificationOptions
    default_metrics = ("accuracy",)
    default_loss = "cross_entropy"
    losses = ("cross_entropy", "focal", "ordinal")
    tuned_on_dev = ("calibrate",)
    unstored = ("class_weights", "label_smoothing", "calibrate")
    metrics = (
        "accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "mcc", "question_exact_match",
        "cross_entropy", "ece", "auc", "cross_entropy_at_best_temperature", "average_precision", "balanced_accuracy",
        "kappa", "weighted_kappa", "ece_before_calibration",
    )  # fmt: skip
    heads = ("pooled", "san")
    problem_type = "single_label_classification"
    hub_task = "text-classification"
    same_rows = "texts"
    stratifies = True
    shared_sequences = "first"
    soft_labels = True
    label_dtype = "int64"
    options: ClassificationOptions
    sample_block = {
        "task_type": "classification",
        "inputs": ["premise", "hypothesis"],
        "labels": ["entailment", "neutral"],
    }
    sample_rows = (
        "1\tentailment\tThe red kite flew over the barn.\tA kite flew.",
        "2\tneutral\tTwo boys carry a bucket.\tThe bucket is full of apples.",
        "3\tneutral\tRain.\tIt rained all night.",
    )

    # Format: rows → columns of the prepared store, without PyTorch.

    def __init__(self, task: TaskDef) -> None:
        super().__init__(task)
        given = self.options.class_weights
        self._class_weights = [given.get(label, 1.0) for label in task.labels] if isinstance(given, dict) else None
        if self.options.calibrate:
            self.metric_names = tuple(dict.fromkeys((*self.metric_names, "ece", "ece_before_calibration")))

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task) + label_faults(task)
        if len(task.labels) < 2:
            found.append(task.fault("labels", f"{len(task.labels)} labels", "Classification needs at least two."))
        of_two = [name for name in task.metrics if name in METRICS and METRICS.get(name).demand is TWO_NAMES]
        if of_two and len(task.labels) > 2:
            fix = f"Use f1_macro or f1_micro; {of_two[0]} is computed for the second of two labels."
            found.append(task.fault("metrics", f"{', '.join(of_two)} with {len(task.labels)} labels", fix))
        if "ece_before_calibration" in task.metrics and not task.options.get("calibrate", False):
            found.append(task.fault("metrics", "ece_before_calibration without calibration", "Add calibrate: true."))
        return found + cls._weight_faults(task) + cls._smoothing_faults(task)

    @classmethod
    def _smoothing_faults(cls, task: TaskDef) -> list[Fault]:
        """An error for label_smoothing in addition to a loss that has none, or that has its own."""
        if "label_smoothing" not in task.options or task.loss is None:
            return []
        if task.loss.name != "cross_entropy":
            found = f"'{task.loss.name}' has no such option"
            return [task.fault("label_smoothing", found, "Leave it out, or use loss: cross_entropy.")]
        twice = "label_smoothing" in task.loss.options
        return [task.fault("label_smoothing", "is an option of `loss` as well", "Keep one of them.")] if twice else []

    @classmethod
    def _weight_faults(cls, task: TaskDef) -> list[Fault]:
        """Errors in class_weights: unknown labels, or weights together with the user's own loss, which takes none."""
        weights, of_rows = task.options.get("class_weights"), task.options.get("row_weights", False)
        if of_rows and "weight" in task.inputs:
            return [task.fault("row_weights", "'weight' names an input, too", "Give the input another name.")]
        if weights is None and not of_rows:
            return []
        labels = [str(each) for each in weights if type(each) is not bool] if isinstance(weights, dict) else []
        strange = [label for label in labels if label not in task.labels]
        found = [task.fault(f"class_weights.{label}", unknown("label", label, task.labels)) for label in strange]
        if task.loss is not None and "." in task.loss.name:
            fix = "Give the weights to the loss as its own options."
            key = "row_weights" if weights is None else "class_weights"
            found.append(task.fault(key, f"'{task.loss.name}' is a loss of your own", fix))
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        if not self.options.row_weights:
            return super().columns
        return ("id", "label", "weight", *self.task.inputs)

    def read(self, values: Mapping[str, Any]) -> Example:
        example = super().read(values)
        if not self.options.row_weights:
            return example
        return replace(example, values={**example.values, "weight": weight_in(values.get("weight", ""))})

    def encode(self, examples: Sequence[Example], tokenize: TokenizeBatch) -> dict[str, Column]:
        columns = super().encode(examples, tokenize)
        if self.options.row_weights:
            columns["weight"] = np.array([example.values["weight"] for example in examples], dtype=np.float32)
        return columns

    def predicts_with(self, other: Predictor) -> bool:
        """As for every type; rows with weights have a column that other tasks do not read."""
        return self._has_weights(self) == self._has_weights(other) and super().predicts_with(other)

    @staticmethod
    def _has_weights(task_type: Predictor) -> bool:
        return bool(task_type.task.options.get("row_weights", False))

    def parse_label(self, text: str) -> str:
        return self._declared_label(text)

    def stored_label(self, label: str | None) -> int:
        return IGNORED if label is None else self._index[label]

    def label_name(self, stored: int) -> str | None:
        return None if stored == IGNORED else self.task.labels[stored]

    # Learner: columns of a batch → labels, logits, loss, divergence.

    @property
    def num_outputs(self) -> int:
        return len(self.task.labels)

    @property
    def named_loss(self) -> Named:
        named, smoothing = super().named_loss, self.options.label_smoothing
        return Named(name=named.name, **{**named.options, "label_smoothing": smoothing}) if smoothing else named

    def build_head(self, hidden_size: int, *, family: Mapping[str, str], word_embeddings: nn.Embedding) -> nn.Module:
        """A head; for a task that is calibrated with a buffer `temperature` [], so that every checkpoint has it."""
        head = super().build_head(hidden_size, family=family, word_embeddings=word_embeddings)
        if self.options.calibrate:
            heads.add_tuned(head, "temperature", torch.ones(()))
        return head

    def collate_labels(self, records: Mapping[str, np.ndarray]) -> Tensor:
        """[B] long; IGNORED for rows without a label."""
        return torch.from_numpy(np.ascontiguousarray(records["label"], dtype=np.int64))

    @property
    def reads_label_counts(self) -> bool:
        return self.options.class_weights == "balanced"

    def learn_label_counts(self, counts: Counter[Any]) -> None:
        """Set weights with the same sum over the rows for each label, and a mean of 1; 0 for a label without rows."""
        rows = sum(counts[label] for label in self.task.labels)
        present = sum(counts[label] > 0 for label in self.task.labels)
        self._class_weights = [rows / (present * counts[label]) if counts[label] else 0.0 for label in self.task.labels]

    def complete(self, batch: Batch, records: Records, *, seed: int) -> Batch:
        """The batch with its labels [B] and, where rows have weights, `weights` [B] among its extras.

        Args:
            batch: without labels.
            records: columns of its rows.
            seed: not used.
        """
        batch = super().complete(batch, records, seed=seed)
        if not self.options.row_weights:
            return batch
        weights = torch.from_numpy(np.ascontiguousarray(records["weight"], dtype=np.float32))
        return replace(batch, extras={**batch.extras, "weights": weights})

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        weights = batch.extras.get("weights")
        if self._class_weights is not None and batch.labels is not None:
            of_labels = on_device(torch.tensor(self._class_weights), logits.device)[batch.labels.clamp(min=0)]
            weights = of_labels if weights is None else of_labels * weights
        if weights is None:
            return self.loss_function(logits, batch.labels)
        return self.loss_function(logits, batch.labels, weights=weights)

    def soft_loss(self, logits: Tensor, soft: Tensor, batch: Batch, *, temperature: float) -> Tensor:
        """T² · mean cross entropy of softmax(z/T) with the teacher's q, q_c ∝ p_c^(1/T), in nats.

        T² keeps the size of the gradient as T grows. Source: Hinton et al. 2015, arXiv 1503.02531, section 2; with
        several teachers p is the mean of their probabilities, Liu et al. 2019, arXiv 1904.09482, section 3. Weights of
        rows count here too, those of classes do not, as a soft label is of several.

        Args:
            logits: the head's output for the batch.
            soft: [B, C] soft labels, NaN where a row has none.
            batch: the rows, as the collator made them.
            temperature: T of both softmaxes.
        """
        known = ~soft.isnan().any(dim=-1)
        targets = torch.softmax(soft.masked_fill(~known.unsqueeze(-1), 1.0).log() / temperature, dim=-1)
        return temperature**2 * losses.soft_cross_entropy(
            logits / temperature, targets, known, weights=batch.extras.get("weights")
        )

    def label_count(self, batch: Batch) -> int:
        return 0 if batch.labels is None else int((batch.labels != IGNORED).sum())

    def divergence(self, logits_p: Tensor, logits_q: Tensor, batch: Batch, *, symmetric: bool = True) -> Tensor:
        return divergences.divergence_per_example(logits_p, logits_q, symmetric=symmetric)

    # Predictor: logits → records, and what reports need of them.

    def settle(self, records: Sequence[Record], head: nn.Module, *, tune: bool) -> Sequence[Record]:
        """The records; of a task that is calibrated with the probabilities at its temperature, and `temperature`.

        Args:
            records: the records of a whole split.
            head: this task's head.
            tune: fit the temperature to these records. Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
        """
        if not self.options.calibrate:
            return records
        buffer = _temperature_of(head)
        if tune and (labelled := labelled_records(records)):
            buffer.fill_(fitted_temperature(labelled, self.task.labels))
        temperature = float(buffer)
        return kept({**with_temperature(record, temperature), "temperature": temperature} for record in records)

    def logit_factor(self, head: nn.Module) -> float:
        """1 ∕ T for a task that is calibrated."""
        return 1 / float(_temperature_of(head)) if self.options.calibrate else 1.0

    def soft_label(self, record: Mapping[str, Any]) -> list[float]:
        """The probability of each label, in the order of this task's labels."""
        scores, labels = record.get("scores"), self.task.labels
        if not isinstance(scores, Mapping) or set(scores) != set(labels):
            theirs = ", ".join(scores) if isinstance(scores, Mapping) and scores else "none"
            place = f"{self.task.name}.labels ({self.task.where('labels')})"
            raise RowError("scores", f"labels: {theirs}; {place}: {', '.join(labels)}", "Give a teacher of this task.")
        shares = [scores[label] for label in labels]
        if (
            not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares)
            or abs(sum(shares) - 1) > 1e-3
        ):
            raise RowError("scores", f"{shares} are not probabilities of all labels", "They must add up to 1.")
        return shares

    def soft_record(self, soft: Sequence[float]) -> dict[str, Any]:
        best = max(range(len(soft)), key=soft.__getitem__)
        return {"prediction": self.task.labels[best], "scores": dict(zip(self.task.labels, soft, strict=True))}

    @property
    def confusion_labels(self) -> tuple[str, ...]:
        """The task's labels."""
        return self.task.labels

    def mistake(self, record: Record) -> float | None:
        """The probability of the wrong label."""
        return wrong_answer(record)

    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        probabilities = torch.softmax(logits.float(), dim=-1).cpu()
        labels = [IGNORED] * len(batch) if batch.labels is None else batch.labels.tolist()
        return [
            {
                "id": row_id,
                "prediction": self.task.labels[best],
                "label": self.label_name(label),
                "scores": dict(zip(self.task.labels, scores, strict=True)),
            }
            for row_id, best, label, scores in zip(
                batch.row_ids, probabilities.argmax(-1).tolist(), labels, probabilities.tolist(), strict=True
            )
        ]


def _temperature_of(head: nn.Module) -> Tensor:
    """The temperature [] in a head; 1 in the head of another task, which is not calibrated."""
    found = dict(head.named_buffers()).get("temperature")
    return torch.ones(()) if found is None else found


def weight_in(cell: Any) -> float:
    """The weight in a cell; 1 for an empty one.

    Raises:
        RowError: it is not a finite number ≥ 0.
    """
    text = str(cell).strip()
    if text in UNLABELLED:
        return 1.0
    try:
        value = float(text)
    except ValueError as error:
        raise RowError(
            "weight", f"'{text}' is not a number", "Give a factor of the row's loss, such as 0.5."
        ) from error
    if not (math.isfinite(value) and value >= 0):
        raise RowError("weight", f"'{text}' is not a finite number ≥ 0", "Give a factor such as 0.5.")
    return value
