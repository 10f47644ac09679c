"""The contract of a regularizer: a `ForwardPass` in, terms of the loss out.

Dimensions: B rows, N sequences (N = B unless a row holds several), T tokens, E size of the word embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mtdnn.config.options import Options
from mtdnn.errors import Fault, Place, fault
from mtdnn.registry import Registry
from mtdnn.regularizers.forward_pass import ForwardPass, Precision
from mtdnn.task_types.base import LogitsOf, TaskType

logger = logging.getLogger(__name__)

REGULARIZERS: Registry[type[Regularizer]] = Registry(
    "regularizer", base=lambda: Regularizer, own=("name", "penalty or losses")
)


@dataclass(frozen=True)
class LossTerms:
    """Terms of the loss for one backward pass.

    Attributes:
        loss: the part that is a mean over labels, a scalar.
        penalty: the part that is a mean over rows, times its weight, a scalar; None without one.
        measured: the penalty without its weight, for the log.
        then_update: the optimizer updates the weights right after this backward pass, within the step.
        log_share: factor of the loss in the log, where a step computes the same loss several times.
    """

    loss: Tensor
    penalty: Tensor | None = None
    measured: Tensor | None = None
    then_update: bool = False
    log_share: float = 1.0


@dataclass(frozen=True)
class RunPrecision:
    """The floating-point precision of a run.

    Attributes:
        name: bf16, fp16, tf32, float32, float64.
        spacing: distance from 1 to the next number.
        of_logits: whether the task's logits have this precision too; otherwise they are float32 or finer.
    """

    name: str
    spacing: float
    of_logits: bool = False

    @classmethod
    def of(cls, dtype: torch.dtype) -> RunPrecision:
        """The precision of a dtype."""
        names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        return cls(names.get(dtype, str(dtype).removeprefix("torch.")), torch.finfo(dtype).eps)


class RegularizerOptions(Options):
    """Options every regularizer has."""

    weight: float = Field(1.0, ge=0, description="λ, factor of the penalty; 0 turns it off.")
    every: int = Field(1, ge=1, description="Apply at every k-th step of the task, with weight k·λ; 1 = every step.")


class Regularizer:
    """A term added to a task's loss, or a replacement of it.

    A method that adds to the loss defines `penalty`; one with several backward passes, or one that replaces the loss,
    defines `losses`. Each task has its own object.

    Class attributes:
        name: the registered name, also used in the log.
        Options: its options, checked by pydantic.
        logits_of: the kinds of logits it works with (`TaskType.logits_of`); None = all.
        moves_within_step: whether the optimizer updates the weights between its backward passes; then `accumulate` must
            be 1.
    Attributes:
        log: called with each line that `prepare` logs; a run logs the same line of several tasks once.
    """

    name: ClassVar[str]
    Options: ClassVar[type[RegularizerOptions]] = RegularizerOptions
    logits_of: ClassVar[tuple[LogitsOf, ...] | None] = None
    moves_within_step: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        self.options: Any = self.Options(**options)
        self.steps_seen = 0
        self.precision: Precision = "run"
        self.log: Callable[[str], object] = logger.info

    @property
    def needs_embedding_block(self) -> bool:
        """Whether it goes through the encoder's embedding block by itself, which not every encoder has."""
        return False

    @classmethod
    def type_faults(cls, task_type: type[TaskType], where: Place | str, key: str) -> list[Fault]:
        """Errors if it cannot be used for a task type; empty when it can.

        Args:
            task_type: the task type.
            where, key: place and key of the block that names it, e.g. "run.yml:9", "regularizer".
        """
        return cls.logits_faults(task_type.logits_of, task_type.__name__, where, key)

    @classmethod
    def logits_faults(cls, logits_of: LogitsOf, owner: str, where: Place | str, key: str) -> list[Fault]:
        """Errors if it cannot be used for such logits; empty when it can.

        Args:
            logits_of: what the logits are for.
            owner: whose they are, for the message.
            where, key: as for `type_faults`.
        """
        if cls.logits_of is None or logits_of in cls.logits_of:
            return []
        found = f"{cls.name} is for logits of {', '.join(cls.logits_of)}; those of {owner} are of {logits_of}"
        return [fault(where, key, found, "Use another regularizer, or `none`, for this task.")]

    @property
    def weight(self) -> float:
        """λ; 0 = off."""
        return float(self.options.weight)

    @property
    def is_due(self) -> bool:
        """Whether it applies at the current step."""
        return self.weight > 0 and self.steps_seen % self.options.every == 0

    @property
    def cost(self) -> float:
        """Cost of a step: forward pass 1, backward 2, backward to the input only 1; a plain step costs 3."""
        raise NotImplementedError

    def prepare(self, *, embedding_rms: float, embedding_size: int, precision: RunPrecision) -> None:
        """Set, before the first step, what depends on the encoder and on the run's precision.

        Args:
            embedding_rms: root mean square of the word embeddings.
            embedding_size: E.
            precision: the precision of the run.
        """

    @property
    def needs_resolution(self) -> bool:
        """Whether `precision_faults` can find an error, so that the encoder must be loaded."""
        return False

    def precision_faults(
        self, where: Place | str, key: str, *, embedding_rms: float, embedding_size: int, precision: RunPrecision
    ) -> list[Fault]:
        """The errors that `prepare` would raise, with their place, for `check`.

        Args:
            where: file and line of the block.
            key: the key, for the message.
            embedding_rms: root mean square of the word embeddings.
            embedding_size: E.
            precision: the precision of the run.
        """
        return []

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        """A scalar ≥ 0, the mean over the rows of the batch, without its weight."""
        raise NotImplementedError

    def losses(self, forward_pass: ForwardPass) -> Iterator[LossTerms]:
        """The terms of the task's loss; a backward pass follows each before the next is computed."""
        loss = forward_pass.loss(forward_pass.logits)
        penalty = self.penalty(forward_pass)
        yield LossTerms(loss, self.weight * self.options.every * penalty, penalty)

    @property
    def keeps_label_loss(self) -> bool:
        """Whether `losses` yields one loss, with that of the rows as they are: not so if a subclass has its own."""
        return type(self).losses is Regularizer.losses

    def after_step(self, model: nn.Module) -> None:
        """Count a step of this task; called after the optimizer's update. One that overrides it calls it.

        Args:
            model: with its new weights.
        """
        self.steps_seen += 1

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars of the last step it applied to, on the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"steps_seen": self.steps_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.steps_seen = state["steps_seen"]
