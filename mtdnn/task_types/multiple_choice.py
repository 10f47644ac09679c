"""One of the choices given in each row: COPA, SWAG, cloze questions.

Dimensions: as in ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from mtdnn.config.options import Options
from mtdnn.config.tasks import TaskDef
from mtdnn.errors import Fault
from mtdnn.metrics.base import Record
from mtdnn.rows.example import Example, RowError, whole
from mtdnn.task_types.base import TASK_TYPES, wrong_answer
from mtdnn.task_types.ranking import Ranking


class MultipleChoiceOptions(Options):
    """Keys specific to multiple_choice."""

    placeholder: str | None = Field(
        None, description="Word in the text before the choices that each choice replaces (cloze)."
    )
    several: bool = Field(False, description="Whether several choices may be correct; the metrics are those of span.")


@TASK_TYPES.register("multiple_choice")
class MultipleChoice(Ranking):
    """Chooses the correct one of a row's choices by a score for each and a softmax over them.

    A row is `id, number of the correct choice (from 0), text, choice, choice, …`. With three inputs, as in COPA
    (premise, question, choice), the second text of a sequence is the question followed by the choice, or with its
    `placeholder` replaced by the choice. Predictions and labels are the texts of the choices.
    """

    Options = MultipleChoiceOptions
    num_inputs = (2, 3)
    hub_task = "multiple-choice"
    default_metrics = ("accuracy",)
    default_loss = "listwise"
    metrics = ("accuracy", "exact_match", "span_f1")
    sample_block = {"task_type": "multiple_choice", "inputs": ["premise", "question", "choice"]}
    sample_rows = (
        "1\t1\tThe path was icy.\tWhat happened?\tThe sun rose.\tShe slipped.",
        "2\t0\tThe kettle whistled.\tWhat was the cause?\tThe water boiled.\tThe cat slept.\tHe sang.",
        "3\t0\tHe left the door open.\tWhat happened?\tThe dog ran out.\tThe soup was salty.",
    )

    # Format: rows → columns of the prepared store, without PyTorch.

    @classmethod
    def faults(cls, task: TaskDef) -> list[Fault]:
        found = super().faults(task)
        several = task.options.get("several") is True
        if several and (not task.metrics or "accuracy" in task.metrics):
            fix = "Set metrics: [span_f1, exact_match]."
            found.append(task.fault("several", "accuracy is not defined for several correct choices", fix))
        of_several = [name for name in task.metrics if name in ("exact_match", "span_f1")]
        if of_several and not several:
            fix = "Set metrics: [accuracy], or several: true."
            found.append(task.fault("metrics", f"{', '.join(of_several)} without `several`", fix))
        if task.options.get("placeholder") is not None and len(task.inputs) != 3:
            found.append(task.fault("placeholder", f"{len(task.inputs)} text columns", "A cloze task has three."))
        if task.labels:
            found.append(task.fault("labels", "the choices are in the rows", "Remove the key."))
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        return ("id", "label", *self.task.inputs)

    @property
    def group_by(self) -> None:
        return None

    def read(self, values: Mapping[str, Any]) -> Example:
        """The texts of a row, its choices, and which of them are correct.

        Raises:
            RowError: there is no choice, a text is empty or has no placeholder, a number is not that of a choice, or
                several are given where one is expected.
        """
        example = super().read(values)
        if self.options.placeholder is not None and self.options.placeholder not in example.texts[1]:
            found = f"'{self.options.placeholder}' is not in it"
            raise RowError(self.task.inputs[1], found, "Put it where the choice belongs.")
        return example

    def _label(self, value: Any, candidates: Sequence[str]) -> list[float] | None:
        numbers = [whole(part.strip()) for part in str(value).strip("[] ").split(",")]
        if numbers in ([""], ["-"]):
            return None
        right = {int(number) for number in numbers if number.isdecimal() and int(number) < len(candidates)}
        if len(right) < len(numbers):
            found = f"'{value}' is not the number of one of the {len(candidates)} choices"
            raise RowError("label", found, f"Give 0 to {len(candidates) - 1}.")
        if len(right) > 1 and not self.options.several:
            raise RowError("label", f"{len(right)} correct choices; expected one", "Mark one of them.")
        return [float(number in right) for number in range(len(candidates))]

    def _ids(self, values: Mapping[str, Any], candidates: Sequence[str]) -> list[str]:
        return [str(number) for number in range(len(candidates))]

    def names(self, example: Example) -> list[str]:
        return list(example.texts[-example.values["count"] :])

    def pairs(self, example: Example) -> list[tuple[str, ...]]:
        texts = super().pairs(example)
        if len(self.task.inputs) == 2:
            return texts
        place = self.options.placeholder
        return [
            (first, f"{second} {choice}" if place is None else second.replace(place, choice))
            for first, second, choice in texts
        ]

    # Predictor: logits → records, and what reports need of them.

    def record(self, row_id: str, names: list[str], shares: list[float], relevance: list[float]) -> dict[str, Any]:
        """`prediction`: the text of the best choice; `label`: that of the correct one, or a list with `several`.

        Choices with the same text are one, with the sum of their shares.

        Args:
            row_id: id of the row.
            names: names of the choices.
            shares: softmax of the scores.
            relevance: relevance of each choice, 1 or 0.
        """
        totals: dict[str, float] = {}
        for name, share in zip(names, shares, strict=False):
            totals[name] = totals.get(name, 0.0) + share
        ranked = super().record(row_id, list(totals), list(totals.values()), relevance)
        right = [name for name, value in zip(names, relevance, strict=False) if value > 0]
        label = None if not right else right if self.options.several else right[0]
        return {**ranked, "prediction": ranked["prediction"][0], "label": label}

    def mistake(self, record: Record) -> float | None:
        """The probability of the wrong choice; None if several may be correct."""
        return None if self.options.several else wrong_answer(record)
