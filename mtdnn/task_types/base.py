"""The interface of a task type: everything that differs between types of tasks, in three parts.

`format.py`: rows → columns of the store; `learner.py`: columns → logits and losses; `predictor.py`: logits →
predictions. What the file of a type needs of them is imported from here.
"""

from __future__ import annotations

from mtdnn.config.tasks import TaskDef
from mtdnn.errors import Fault
from mtdnn.registry import Registry
from mtdnn.rows.example import RowError
from mtdnn.task_types.declaration import label_faults
from mtdnn.task_types.format import Format, TokenizeBatch
from mtdnn.task_types.learner import Learner, LogitsOf
from mtdnn.task_types.predictor import Predictor, wrong_answer

__all__ = [
    "TASK_TYPES",
    "Format",
    "Learner",
    "LogitsOf",
    "Predictor",
    "RowError",
    "TaskType",
    "TokenizeBatch",
    "label_faults",
    "wrong_answer",
]

TASK_TYPES: Registry[type[TaskType]] = Registry(
    "task type",
    base=lambda: TaskType,
    own=("default_metrics", "default_loss", "losses", "metrics", "label_dtype"),
)


class TaskType(Format, Learner, Predictor):
    """One task with its type: rows → labels → loss → predictions.

    The trainer, the collator, evaluation, reports and regularizers call these methods; none depends on a specific type.
    """

    @classmethod
    def key_faults(cls, task: TaskDef) -> list[Fault]:
        """As for `Declaration`, and errors for keys that only other types have."""
        found = []
        if task.rows is not None and cls.shared_sequences is None:
            able = ", ".join(name for name in TASK_TYPES if TASK_TYPES.get(name).shared_sequences)
            found.append(task.fault("rows", f"{task.task_type} has rows of its own", f"Types that share: {able}."))
        if task.distill is not None and not cls.soft_labels:
            able = ", ".join(name for name in TASK_TYPES if TASK_TYPES.get(name).soft_labels)
            fix = f"Remove it. Types with soft labels: {able}."
            found.append(task.fault("distill", f"{task.task_type} has no soft labels", fix))
        return found + super().key_faults(task)
