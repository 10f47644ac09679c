"""Logits → prediction records, and what reports, exports and joint predictions need of them.

Dimensions: B rows, N sequences (B, or more where a row holds several), T tokens, H hidden, C outputs of the head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mtdnn.batch import Batch
from mtdnn.metrics.base import Record
from mtdnn.task_types.declaration import Part

if TYPE_CHECKING:
    from torch import Tensor, nn


class Predictor(Part):
    """Logits → prediction records, and what reports, exports and joint predictions need of them.

    Class attributes:
        problem_type: that of transformers' configuration, for an exported task with a pooled head; None without one.
        hub_task: the hub's word for the kind of task, for model cards.
        same_rows: types with the same word here read the same rows, so that their tasks can be predicted together; a
            type reads the same rows as itself.
    """

    problem_type: ClassVar[str | None] = None
    hub_task: ClassVar[str] = "other"
    same_rows: ClassVar[str | None] = None

    @abstractmethod
    def predict(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """One record per row: `id`, `prediction`, `label` (None if it is missing), `scores`; plain JSON values."""

    def answer(self, logits: Tensor, batch: Batch, *, head: nn.Module, hidden: Tensor) -> list[dict[str, Any]]:
        """The records of `predict`; for types whose predictions need more than the logits, such as generated texts.

        Args:
            logits: the head's output for the batch.
            batch: the rows, as the collator made them.
            head: this task's head.
            hidden: [N, T, H] the encoder's hidden states.
        """
        return self.predict(logits, batch)

    def logit_factor(self, head: nn.Module) -> float:
        """Factor of the logits of an exported model, so that it has the predicted probabilities; 1 by default.

        Args:
            head: this task's head.
        """
        return 1.0

    def exported_settings(self, head: nn.Module) -> dict[str, Any]:
        """Further keys for the configuration of an exported model, as plain JSON values; none by default.

        Args:
            head: this task's head.
        """
        return {}

    def settle(self, records: Sequence[Record], head: nn.Module, *, tune: bool) -> Sequence[Record]:
        """The final records of a whole split, to be written and evaluated; unchanged by default.

        Args:
            records: the records of a whole split. Of many, each use reads one again from a file, and `kept` of
                `mtdnn.metrics.stored` keeps changed ones in the same way.
            head: this task's head; what is chosen on the dev split (span: the threshold of "no answer") is stored in
                one of its buffers, and so in every checkpoint.
            tune: choose it again from these records; set for the dev split in training.
        """
        return records

    def soft_label(self, record: Mapping[str, Any]) -> list[float]:
        """[C] numbers of a teacher's prediction record, which can be averaged over several teachers.

        Raises:
            RowError: it is not a record of this task.
        """
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    def soft_record(self, soft: Sequence[float]) -> dict[str, Any]:
        """`prediction` and `scores` of a record with these numbers."""
        raise NotImplementedError(f"{type(self).__name__} has no soft labels")

    @property
    def confusion_labels(self) -> tuple[str, ...]:
        """The labels of a report's confusion matrix, in order; empty if predictions are not single labels."""
        return ()

    def label_scores(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        """Label → name → value of scores for this label, for a report; empty by default.

        Args:
            records: the labelled records of a split.
        """
        return {}

    def predicts_with(self, other: Predictor) -> bool:
        """Whether rows of this task can be used for the other one: the same number of texts, read in the same way."""
        ours, theirs = ((each.same_rows or each.task.task_type, len(each.task.inputs)) for each in (self, other))
        return ours == theirs

    def mistake(self, record: Record) -> float | None:
        """How far a prediction is from its label, in [0, 1] or in units of the label; None if it is correct.

        A report lists the largest values as the worst errors; the default is None, so that there are none.
        """
        return None

    def shown(self, answers: Sequence[Any]) -> str:
        """A label, or several models' predictions for a row, as a text for a table; by default the most frequent."""
        return Counter(map(str, answers)).most_common(1)[0][0]


def wrong_answer(record: Record) -> float | None:
    """The probability of a wrong prediction, 1 without probabilities; None if it is correct or there is no label."""
    if not isinstance(record["label"], str) or record["prediction"] == record["label"]:
        return None
    return float((record.get("scores") or {}).get(record["prediction"], 1.0))
