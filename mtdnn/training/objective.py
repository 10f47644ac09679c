"""Task loss + weighted penalties → losses to call backward on, and named values for the log.

L(θ) + λ_s·R_s(θ) + μ·D_Breg(θ, θ̃), Jiang et al. 2020, arXiv 1911.03437, equation 2 with 1; any regularizer may replace
R_s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtdnn.batch import Batch, SharedInputs
from mtdnn.execution.products import has_tf32
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.base import LossTerms, Regularizer, RunPrecision
from mtdnn.regularizers.forward_pass import Autocast, ForwardPass, Precision, dropout_stream
from mtdnn.regularizers.proximal import Proximal
from mtdnn.regularizers.shared_pass import SharedPass
from mtdnn.training.loss_scale import LossScale

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossPart:
    """A loss to call backward on before asking for the next one.

    Attributes:
        loss: scalar; the sum over the parts of a step is the loss of its whole batch.
        named: detached scalars, "task", the regularizer's name, "proximal": unweighted values, whose sum over the parts
            of a step is the batch's.
        then_update: whether the optimizer updates the weights right after this backward pass, within the step.
    """

    loss: Tensor
    named: dict[str, Tensor]
    then_update: bool = False


class Objective:
    """The loss of a run: task losses, regularizers and the proximal term.

    Args:
        model: the shared model; each task's `weight` multiplies its loss.
        regularizers: task name → its regularizer; a missing task has none.
        proximal: the Bregman term of all tasks; None = no such term.
        seed: of dropout masks and noise, which depend on it and on the step alone.
        autocast: context of the run's precision.
        rank: of this process; None = that of torch.distributed.
        loss_scale: of a run in fp16; the caller multiplies the losses by its factor.
    Raises:
        ConfigError: a regularizer cannot work with this encoder or precision.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        regularizers: Mapping[str, Regularizer | None] | None = None,
        proximal: Proximal | None = None,
        *,
        seed: int,
        autocast: Autocast = nullcontext,
        rank: int | None = None,
        loss_scale: LossScale | None = None,
    ) -> None:
        self.loss_scale = loss_scale
        self.model, self.proximal, self.seed, self.autocast = model, proximal, seed, autocast
        self.regularizers = {task: method for task, method in (regularizers or {}).items() if method is not None}
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if distributed else 0
        self._tasks_in_step: set[str] = set()
        self._tasks_since_log: set[str] = set()
        logged: set[str] = set()
        precision = run_precision(model, autocast)
        embedding_rms = model.encoder.embedding_rms() if self.regularizers else math.nan  # it reads the whole table
        for task, method in self.regularizers.items():
            method.log = partial(log_once, logged)
            method.prepare(
                embedding_rms=embedding_rms,
                embedding_size=model.encoder.embedding_size,
                precision=replace(precision, of_logits=not model.task_types[task].float32_logits),
            )

    def parts(
        self,
        batch: Batch,
        *,
        step: int,
        part: int = 0,
        row_share: float = 1.0,
        label_share: float = 1.0,
        shared: SharedPass | None = None,
    ) -> Iterator[LossPart]:
        """Losses of one batch, or of one part of it; call backward on each before asking for the next.

        Args:
            step: optimizer steps done before this one.
            part: index of this part of the step's batch.
            row_share, label_share: this part's share of the step's rows and of its labels.
            batch: the rows, as the collator made them.
            shared: the pass of the encoder that the clean pass shares with other tasks; its `flush` is the caller's.
        """
        self._tasks_in_step.add(batch.task)
        self._tasks_since_log.add(batch.task)
        method = self._method(batch.task)
        forward_pass = self._forward_pass(batch, step, part, "run" if method is None else method.precision, shared)
        proximal = self.proximal if self.proximal is not None and self.proximal.weight > 0 else None
        for terms in self._terms(method, forward_pass):
            if proximal is not None and not forward_pass.has_logits:
                yield self._proximal_part(proximal, forward_pass, row_share)
                proximal = None
            losses = self._part(terms, batch.task, row_share, label_share)
            if proximal is not None:
                losses = _joined(losses, self._proximal_part(proximal, forward_pass, row_share))
                proximal = None
            yield losses

    def keeps_label_loss(self, task: str) -> bool:
        """Whether `parts` yields one loss at this step, and its "task" value is of the rows as they are, unchanged."""
        method = self._method(task)
        return method is None or method.keeps_label_loss

    def label_loss(self, batch: Batch, *, step: int, part: int = 0) -> Tensor:
        """The task's loss of a batch, a scalar without gradient, with the dropout masks of that step and part.

        Args:
            batch: the rows, as the collator made them.
            step: optimizer steps done before the one whose masks are wanted.
            part: which of the parts of the step's batch it is.
        """
        method = self._method(batch.task)
        forward_pass = self._forward_pass(batch, step, part, "run" if method is None else method.precision)
        with torch.no_grad():
            return forward_pass.loss(forward_pass.logits)

    def _method(self, task: str) -> Regularizer | None:
        """The task's regularizer when it applies at this step."""
        method = self.regularizers.get(task)
        return method if method is not None and method.is_due else None

    def shared_pass(self, inputs: SharedInputs, *, step: int, part: int) -> SharedPass:
        """A pass of the encoder for several tasks on the same rows.

        Args:
            inputs: the sequences of the rows.
            step, part: as for `parts`.
        """
        return SharedPass(self.model, inputs, dropout_stream(self.seed, step=step, part=part, rank=self.rank))

    def has_regularizer(self, task: str) -> bool:
        """Whether the task has a regularizer, at this step or another."""
        return task in self.regularizers

    def moves_within_step(self, task: str) -> bool:
        """Whether the optimizer updates the weights between the task's backward passes."""
        method = self.regularizers.get(task)
        return method is not None and method.moves_within_step

    def _forward_pass(
        self, batch: Batch, step: int, part: int, precision: Precision, shared: SharedPass | None = None
    ) -> ForwardPass:
        return ForwardPass(
            self.model,
            batch,
            seed=self.seed,
            step=step,
            part=part,
            rank=self.rank,
            precision=precision,
            autocast=self.autocast,
            shared=shared,
            loss_scale=None if self.loss_scale is None else self.loss_scale.factor,
        )

    def _terms(self, method: Regularizer | None, forward_pass: ForwardPass) -> Iterator[LossTerms]:
        if method is None:
            yield LossTerms(forward_pass.loss(forward_pass.logits))
        else:
            yield from method.losses(forward_pass)

    def _part(self, terms: LossTerms, task: str, row_share: float, label_share: float) -> LossPart:
        """A task's terms with its weight and this part's shares."""
        loss = self.model.task_types[task].task.weight * label_share * terms.loss
        named = {"task": label_share * terms.log_share * terms.loss.detach()}
        if terms.penalty is not None:
            loss = loss + row_share * terms.penalty
        if terms.measured is not None:
            named[self.regularizers[task].name] = row_share * terms.measured.detach()
        return LossPart(loss, named, terms.then_update)

    def _proximal_part(self, proximal: Proximal, forward_pass: ForwardPass, row_share: float) -> LossPart:
        value = row_share * proximal.penalty(forward_pass)
        return LossPart(proximal.weight * value, {proximal.name: value.detach()})

    def after_step(self) -> None:
        """Update teachers and counters; called after the optimizer's update."""
        for task in self._tasks_in_step & self.regularizers.keys():
            self.regularizers[task].after_step(self.model)
        self._tasks_in_step.clear()
        if self.proximal is not None:
            self.proximal.after_step(self.model)

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Per task seen since the last call: its regularizer's diagnostics of its last step, and the teacher's drift.

        Waits for the device.
        """
        values: dict[str, dict[str, float]] = {task: {} for task in sorted(self._tasks_since_log)}
        self._tasks_since_log.clear()
        for task in values.keys() & self.regularizers.keys():
            method = self.regularizers[task]
            values[task] = {f"{method.name}.{name}": float(value) for name, value in method.diagnostics().items()}
        if self.proximal is not None and values:
            drift = float(self.proximal.drift(self.model))
            values = {task: {**named, "proximal.drift": drift} for task, named in values.items()}
        return {task: named for task, named in values.items() if named}

    def gradient_norms(self, batch: Batch, *, step: int) -> dict[str, Tensor]:
        """Norm of the gradient of each weighted term with respect to all weights; `grad` is left unchanged.

        A regularizer with `every: k` is measured at any step, with weight k·λ. For
        methods with several backward passes the term is "task" at their first pass. Costs one more pass, backward for
        every term.
        """
        method = self.regularizers.get(batch.task)
        forward_pass = self._forward_pass(batch, step, 0, "run" if method is None else method.precision)
        terms = next(self._terms(method, forward_pass))
        weighted = {"task": self.model.task_types[batch.task].task.weight * terms.loss}
        if method is not None and terms.penalty is not None:
            weighted[method.name] = terms.penalty
        if self.proximal is not None and self.proximal.weight > 0:
            weighted[self.proximal.name] = self.proximal.weight * self.proximal.penalty(forward_pass)
        return {name: self._gradient_norm(value) for name, value in weighted.items()}

    def _gradient_norm(self, value: Tensor) -> Tensor:
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        norms = [each.float().norm() for each in gradients if each is not None]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else value.new_zeros(())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; tensors and plain values."""
        return {
            "regularizers": {task: method.state_dict() for task, method in self.regularizers.items()},
            "proximal": None if self.proximal is None else self.proximal.state_dict(),
            "tasks_since_log": sorted(self._tasks_since_log),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for task, method in self.regularizers.items():
            method.load_state_dict(state["regularizers"][task])
        if self.proximal is not None:
            self.proximal.load_state_dict(state["proximal"])
        self._tasks_since_log = set(state["tasks_since_log"])


def log_once(logged: set[str], line: str) -> None:
    """Log a line unless it is in the set, and add it."""
    if line not in logged:
        logged.add(line)
        logger.info("%s", line)


def _joined(first: LossPart, second: LossPart) -> LossPart:
    """The sum of both, for one backward pass: they share the clean pass."""
    return LossPart(first.loss + second.loss, {**first.named, **second.named}, first.then_update)


def run_precision(model: MultiTaskModel, autocast: Autocast = nullcontext) -> RunPrecision:
    """The precision of a run's forward passes."""
    weight = next(model.parameters())
    device = weight.device.type
    with autocast():
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if dtype == torch.float32 and device == "cuda" and has_tf32():
        return RunPrecision("tf32", 2.0**-10)
    return RunPrecision.of(dtype)
