"""One update: a batch of each of its tasks → weights moved, and what the log and the balancer get of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtdnn.balancing.base import Balancer
from mtdnn.batch import Batch
from mtdnn.execution.processes import Processes
from mtdnn.execution.sharding import Parts
from mtdnn.execution.table import TableGradient
from mtdnn.model import MultiTaskModel
from mtdnn.training.affinity import affinities
from mtdnn.training.combination import Combination, Conflicts, Move, totals
from mtdnn.training.objective import LossPart, Objective
from mtdnn.training.optim import ParameterGroup
from mtdnn.training.plan import Plan
from mtdnn.training.recorder import Recorder
from mtdnn.training.turn import Turn, by_pass


class Share(NamedTuple):
    """A part of a task's batch, with its share of the rows and of the labels of the batch, over all processes."""

    batch: Batch
    of_rows: float
    of_labels: float


@dataclass(frozen=True)
class Updated:
    """What an update has measured, over all processes.

    Attributes:
        values: task → named values for the log.
        losses: task → L_i, for the balancer; only of tasks that it asked for.
        again: task → label loss with the new weights, for a balancer that `measures_again`.
    """

    values: dict[str, dict[str, Tensor]]
    losses: dict[str, Tensor]
    again: dict[str, Tensor]


class Updater:
    """Moves the weights of a model by the gradients of the tasks of an update.

    Args:
        model: encoder and heads.
        objective: the losses of each task's batch.
        optimizer: over the model's weights, and those that the balancer learns.
        balancer: combines the tasks.
        processes: those of the run.
        device: of this process.
        parts: the weights that the optimizer was given.
        plan: says which updates measure how the tasks agree.
        recorder: gets what these measure; None: nothing is written.
        seed: of what the balancer draws.
        clip_norm: largest norm of the gradient over all weights; None = no clipping.
    Attributes:
        step: optimizer steps before the update at hand.
        table_gradient: the kept gradient of the word embeddings; None where there is none, as on a GPU, with several
            processes, or with an optimizer of the user's own.
    """

    def __init__(
        self,
        *,
        model: MultiTaskModel,
        objective: Objective,
        optimizer: Optimizer,
        balancer: Balancer,
        processes: Processes,
        device: torch.device,
        parts: Parts,
        plan: Plan,
        recorder: Recorder | None = None,
        seed: int = 1,
        clip_norm: float | None = 1.0,
    ) -> None:
        self.model, self.objective, self.optimizer, self.balancer = model, objective, optimizer, balancer
        self.processes, self.device, self.parts, self.recorder = processes, device, parts, recorder
        self.log_conflicts, self.log_affinity, self.clip_norm = plan.log_conflicts, plan.log_affinity, clip_norm
        self.step, self.loss_scale = 0, objective.loss_scale
        several = None if processes.count == 1 else processes
        self.reduce = None if several is None else several.sums
        self.combination = Combination(model, balancer, seed=seed, reduce=self.reduce, processes=several)
        words = model.encoder.word_embeddings
        self.table_gradient = TableGradient.of(words, optimizer) if several is None else None
        self._parameters = [each for group in groups_of_model(optimizer, balancer) for each in group["params"]]

    def update(self, turns: Sequence[Turn], *, step: int) -> Updated:
        """Move the weights by the batches of these tasks.

        Args:
            turns: the tasks of the update.
            step: optimizer steps before it.
        """
        self.step, norm = step, dict[str, Tensor]()
        self._share_passes(turns)
        for turn in turns:
            shares = self._shares(turn.parts)
            turn.coming = [self._losses_of_part(turn, index, share) for index, share in enumerate(shares)]
            if self.balancer.measures_again and not self.objective.keeps_label_loss(turn.task):
                turn.plain_loss = self._label_loss(turn)
        while waiting := [turn for turn in turns if not turn.ended]:
            norm = self._move_by(waiting, turns)
        return Updated(
            again={turn.task: self._label_loss(turn) for turn in turns if self.balancer.measures_again},
            values={turn.task: {**totals(turn.watch.named, self.reduce), **norm, **turn.weight} for turn in turns},
            losses={turn.task: turn.loss for turn in turns if turn.loss is not None},
        )

    def _share_passes(self, update: Sequence[Turn]) -> None:
        """Let tasks on the same rows take their hidden states from one pass of the encoder, part by part.

        Not where each task has its own adapter, where weights move within the step, where further passes of a task need
        the same dropout masks but have fewer sequences, or where the tasks' gradients are needed apart and the batch is
        split to save memory: passes would have to be kept for all parts.
        """
        in_parts = any(len(turn.parts) > 1 for turn in update)
        if self.model.has_adapters_by_task or (in_parts and self._needs_apart(len(update))):
            return
        groups: dict[int, list[Turn]] = {}
        turns_of_units = [turn for turn in update if turn.parts[0].shared is not None]
        for turn, shares in zip(turns_of_units, self._by_all(map(self._can_share, turns_of_units)), strict=True):
            if shares:
                groups.setdefault(id(turn.parts[0].shared), []).append(turn)
        for turns in groups.values():
            inputs = [part.shared for part in turns[0].parts if part.shared is not None]
            passes = [self.objective.shared_pass(each, step=self.step, part=n) for n, each in enumerate(inputs)]
            for turn in turns if len(turns) > 1 else ():
                turn.passes = passes

    def _by_all(self, own: Iterable[bool]) -> list[bool]:
        """Whether each holds in all processes, so that all send their tasks backward in the same order."""
        holds = list(own)
        if self.reduce is None or not holds:
            return holds
        return [count == self.processes.count for count in self.processes.sums_on_host(holds)]

    def _can_share(self, turn: Turn) -> bool:
        """Whether a task can take its hidden states from a pass for other tasks, too, with this process's rows."""
        if self.objective.moves_within_step(turn.task):
            return False
        whole = all(each.shared is not None and len(each.mask) == each.shared.num_sequences for each in turn.parts)
        return whole or not (self.balancer.measures_again or self.objective.has_regularizer(turn.task))

    def _needs_apart(self, num_tasks: int) -> bool:
        """Whether the gradient of each task of this step is needed on its own."""
        measured = self._measures(self.log_conflicts) or self._measures(self.log_affinity)
        return num_tasks > 1 and (measured or self.balancer.needs_apart())

    def _losses_of_part(self, turn: Turn, index: int, share: Share) -> Iterator[LossPart]:
        """The losses of a part of a task's batch, each to be sent backward before the next is asked for."""
        yield from self.objective.parts(
            share.batch.to(self.device),
            step=self.step,
            part=index,
            row_share=share.of_rows,
            label_share=share.of_labels,
            shared=turn.passes[index] if turn.passes else None,
        )

    def _move_by(self, waiting: Sequence[Turn], update: Sequence[Turn]) -> dict[str, Tensor]:
        """Send the tasks backward, up to where one asks for a move, and let the optimizer move; the gradient's norm."""
        first = not any(turn.watch.moves for turn in update)  # a step is measured once, with its weights before it
        conflicts, affinity = (first and self._measures(every) for every in (self.log_conflicts, self.log_affinity))
        measured = (conflicts or affinity) and len(waiting) > 1
        move = self.combination.begin([turn.task for turn in waiting], keep=measured)
        with self.combination.summing(move) if self._has_one_backward(move, waiting) else nullcontext():
            for turns in by_pass(waiting):
                self._go_backward(move, turns)
        for turn in waiting:
            turn.watch.require_finite(turn.parts, self.step)
        if affinity and measured:
            self._record_affinity(move, waiting)
        products = self.combination.finish(move, self.step)
        if conflicts and products is not None and self.recorder is not None:
            self.recorder.conflicts(self.step + 1, Conflicts.of(list(move.kept), products))
        return self._move(move, waiting, update)

    def _has_one_backward(self, move: Move, waiting: Sequence[Turn]) -> bool:
        """Whether a movement has a single backward pass, so that no gradient changes after its sum has begun."""
        apart = move.keep or self.balancer.needs_apart()
        single = len(waiting) == 1 and len(waiting[0].parts) == 1 and not waiting[0].passes
        return single and not apart and self.objective.keeps_label_loss(waiting[0].task)

    def _go_backward(self, move: Move, turns: Sequence[Turn]) -> None:
        """Send tasks that share a pass backward: part by part or, where each gradient is needed apart, one by one."""
        if move.keep or self.balancer.needs_apart():
            for number, turn in enumerate(turns, 1):
                with self.combination.going_backward(move, turn.task, partial(self._weighting_loss, turn)) as factor:
                    turn.go_backward(self._scaled(factor))
                    if turn.shared is not None:
                        turn.shared.flush(last=number == len(turns))
            return
        factors = [self._scaled(move.factors.get(turn.task)) for turn in turns]
        if turns[0].shared is None:
            turns[0].go_backward(factors[0])
            return
        for each in turns[0].passes:
            for turn, factor in zip(turns, factors, strict=True):
                turn.go_backward_part(factor)
            if each is not None:
                each.flush(last=True)

    def _scaled(self, factor: Tensor | None) -> Tensor | None:
        """A factor of losses times the loss scale; None for 1."""
        if self.loss_scale is None:
            return factor
        return self.loss_scale.factor if factor is None else factor * self.loss_scale.factor

    def _move(self, move: Move, waiting: Sequence[Turn], update: Sequence[Turn]) -> dict[str, Tensor]:
        """Let the optimizer move by the combined gradient, which is then used up; the norm it had."""
        self.parts.take_gradients()
        overflow = None if self.loss_scale is None else self.loss_scale.unscale(self.optimizer)
        norm = self._clip()
        if overflow is None:
            parts = [part for turn in update for part in turn.parts]
            several = self.reduce is not None
            waiting[0].watch.require_finite_gradient(norm, parts, self.step, summed=several)
        else:
            norm = {name: torch.where(overflow > 0, 0.0, value) for name, value in norm.items()}  # of no update
        losses = move.losses or self._losses_of(waiting)
        self.balancer.before_move(losses, move.norms)
        self._update()
        for turn in update:
            turn.watch.moves += 1
        for turn in waiting:
            if turn.task in losses:
                turn.keep_first_loss(losses[turn.task])
            if turn.task in move.weights:
                turn.weight = {"balance.weight": move.weights[turn.task]}
        return norm

    def _update(self) -> None:
        """The optimizer's update, and no gradients after it."""
        if self.loss_scale is None:
            self.optimizer.step()
        else:
            self.loss_scale.step(self.optimizer)
        if self.table_gradient is not None:
            self.table_gradient.release()
        self.optimizer.zero_grad(set_to_none=True)

    def _record_affinity(self, move: Move, waiting: Sequence[Turn]) -> None:
        """Log what a step on each task would do to the losses of the others."""
        found = affinities(
            self.combination.shared,
            move.kept,
            lambda: {turn.task: self._label_loss(turn) for turn in waiting},
            self.optimizer,
        )
        if self.recorder is not None:
            self.recorder.affinity(self.step + 1, found)

    def _weighting_loss(self, turn: Turn) -> Tensor:
        """The label loss of a task that has gone backward, over all ranks."""
        if turn.plain_loss is not None:
            return turn.plain_loss
        return totals({"task": turn.watch.named["task"]}, self.reduce)["task"]

    def _label_loss(self, turn: Turn) -> Tensor:
        """The label loss of a task's batch with the weights as they are and the step's dropout masks, over all ranks.

        Costs a forward pass.
        """
        step, total = self.step, torch.zeros((), device=self.device)
        for index, share in enumerate(self._shares(turn.parts)):
            batch = share.batch.to(self.device)
            total = total + share.of_labels * self.objective.label_loss(batch, step=step, part=index)
        return totals({"task": total}, self.reduce)["task"]

    def _shares(self, parts: Sequence[Batch]) -> list[Share]:
        """Each part with its share of the rows and of the labels of the task's batch, over all ranks."""
        task_type = self.model.task_types[parts[0].task]
        rows = [0 if part.is_placeholder else len(part) for part in parts]
        labels = [task_type.label_count(part) for part in parts]
        all_rows, all_labels = sum(rows), sum(labels)
        all_rows, all_labels = self.processes.sums_on_host([all_rows, all_labels])
        return [
            Share(part, row_count / max(all_rows, 1), label_count / max(all_labels, 1))
            for part, row_count, label_count in zip(parts, rows, labels, strict=True)
        ]

    def _losses_of(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """Task → L_i of the movement, over all ranks; {} for a balancer that has no use for it."""
        if not self.balancer.needs_losses:
            return {}
        return totals({turn.task: turn.watch.take_total() for turn in turns}, self.reduce)

    def _measures(self, every: int) -> bool:
        """Whether the step at hand is one of each `every`-th."""
        return every > 0 and (self.step + 1) % every == 0

    def _clip(self) -> dict[str, Tensor]:
        """Clip the gradient; returns its norm before clipping, under its name in the log."""
        if self.clip_norm is None:
            return {}
        clip = self.parts.clip if self.table_gradient is None else self.table_gradient.clip
        return {"gradient_norm": clip(self._parameters, self.clip_norm).detach()}


def groups_of_model(optimizer: Optimizer, balancer: Balancer) -> list[ParameterGroup]:
    """The optimizer's groups of the model's weights, without that of what the balancer learns."""
    learned = {id(each) for each in balancer.parameters()}
    return [group for group in optimizer.param_groups if not learned.intersection(map(id, group["params"]))]
