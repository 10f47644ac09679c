"""The training loop: batches → updated weights, with the state a run needs to resume bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtdnn.balancing.base import Balancer
from mtdnn.balancing.fixed import Fixed
from mtdnn.batch import Batch
from mtdnn.execution.processes import Processes
from mtdnn.execution.sharding import Parts
from mtdnn.execution.table import TableGradient
from mtdnn.model import MultiTaskModel
from mtdnn.training.affinity import affinities
from mtdnn.training.average import MovingAverage
from mtdnn.training.combination import Combination, Conflicts, Move, totals
from mtdnn.training.evaluation import Results
from mtdnn.training.loss_scale import SMALLEST
from mtdnn.training.meter import Meter, NonFiniteLoss
from mtdnn.training.objective import LossPart, Objective
from mtdnn.training.plan import Every, Plan, Progress
from mtdnn.training.recorder import Recorder
from mtdnn.training.signals import Interrupted, stop_signals
from mtdnn.training.turn import Turn, by_pass

logger = logging.getLogger(__name__)


class Steps(Protocol):
    """The steps of an epoch; each is a batch of one task, or of each of several, split into parts."""

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...

    def from_step(self, step: int) -> Iterator[Sequence[Batch]]: ...


class Share(NamedTuple):
    """A part of a task's batch, with its share of the rows and of the labels of the batch, over all processes."""

    batch: Batch
    of_rows: float
    of_labels: float


OnStep = Callable[[Progress, Mapping[str, Mapping[str, float]]], None]


class Trainer:
    """Trains a model on batches with an objective.

    Args:
        evaluate: returns the dev results of the current model, and the score that selects the best; with None (no
            labels) the last weights are the best, and there is no early stopping.
        save: writes a checkpoint of the given kind: "best" and "last" have weights only, "step" all
            that a resumed run needs.
        balancer: combines the tasks of a step; None: the sum of their losses.
        average: of the weights, to be evaluated and stored in their place; None: the weights themselves are.
        parts: the weights that the optimizer was given; None: those of the model.
        seed: of what the balancer draws.
        clip_norm: largest norm of the gradient over all weights; None = no clipping.
        on_step: called after each step with the progress and, if a line was logged, the tasks' mean losses.
    Attributes:
        table_gradient: the kept gradient of the word embeddings; None on a GPU and with several processes.
    """

    def __init__(
        self,
        *,
        model: MultiTaskModel,
        objective: Objective,
        loader: Steps,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        accelerator: Accelerator,
        plan: Plan,
        evaluate: Callable[[], tuple[Results, float | None]],
        save: Callable[[Literal["best", "last", "step"], Trainer], None],
        recorder: Recorder | None = None,
        balancer: Balancer | None = None,
        average: MovingAverage | None = None,
        parts: Parts | None = None,
        seed: int = 1,
        clip_norm: float | None = 1.0,
        on_step: OnStep = lambda progress, means: None,
    ) -> None:
        self.model, self.objective, self.loader = model, objective, loader
        self.optimizer, self.scheduler, self.accelerator = optimizer, scheduler, accelerator
        self.plan, self.evaluate, self.save, self.recorder = plan, evaluate, save, recorder
        self.clip_norm, self.on_step = clip_norm, on_step
        self.progress, self.meter, self.average = Progress(), Meter(), average
        self.balancer = balancer or Fixed({name: each.logits_of for name, each in model.task_types.items()})
        self.processes = Processes(accelerator)
        self.parts, self.loss_scale = parts or Parts(model), objective.loss_scale
        self._reduce = None if self.processes.count == 1 else self.processes.sums
        several = None if self.processes.count == 1 else self.processes
        self.combination = Combination(model, self.balancer, seed=seed, reduce=self._reduce, processes=several)
        learned = {id(each) for each in self.balancer.parameters()}
        groups = [group for group in optimizer.param_groups if not learned.intersection(map(id, group["params"]))]
        self.table_gradient = TableGradient.of(model.encoder.word_embeddings) if self.processes.count == 1 else None
        self._parameters = [each for group in groups for each in group["params"]]
        self._is_of_model = [any(group is each for each in groups) for group in optimizer.param_groups]

    def train(self) -> Progress:
        """Run to the end of the plan, or until early stopping.

        Raises:
            NonFiniteLoss: with task, step and rows; for a gradient only if it is clipped and on the host, since
                reading it from another device would make the host wait.
            Interrupted: on SIGTERM or Ctrl-C, with a checkpoint to resume from.
        """
        self.model.train()
        with stop_signals() as received:
            while not self.finished:
                self.loader.set_epoch(self.progress.epoch)
                for parts in self.loader.from_step(self.progress.epoch_step):
                    self.train_step(parts)
                    self._after_step()
                    signal_number = self._signal_of_any_rank(received)
                    if signal_number and not self.finished:
                        self.save("step", self)
                        raise Interrupted(signal_number, self.progress.step)
                    if self.finished:
                        break
        if self.progress.best_step == 0:
            self.save("best", self)
        self.save("last", self)
        return self.progress

    def _signal_of_any_rank(self, received: Sequence[int]) -> int:
        """The number of a signal that any process has received; 0 for none.

        A launcher's signal reaches the processes one after another; unless all stop after the same step, the others
        wait forever.
        """
        own = received[0] if received else 0
        if self._reduce is None:
            return own
        (total,) = self.processes.sums_on_host([own])
        return max(self.processes.gather(own)) if total else 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done or patience has run out."""
        out_of_patience = self.plan.patience is not None and self.progress.without_rise >= self.plan.patience
        return self.progress.step >= self.plan.total_steps or out_of_patience

    def train_step(self, parts: Sequence[Batch]) -> None:
        """One update from a batch of each of its tasks, computed in parts whose weighted sum is the whole batch."""
        update = Turn.of(parts)
        gradients = {turn.task: self._measured_gradients(turn.parts) for turn in update}
        norm: dict[str, Tensor] = {}
        self._share_passes(update)
        for turn in update:
            shares = self._shares(turn.parts)
            turn.coming = [self._losses_of_part(turn, index, share) for index, share in enumerate(shares)]
            if self.balancer.measures_again and not self.objective.tells_label_loss(turn.task):
                turn.plain_loss = self._label_loss(turn)
        while waiting := [turn for turn in update if not turn.ended]:
            norm = self._move_by(waiting, update)
        self.scheduler.step()
        again = {turn.task: self._label_loss(turn) for turn in update if self.balancer.measures_again}
        self.objective.after_step()
        if self.average is not None:
            self.average.after_step(self.model)
        for turn in update:
            values = {**totals(turn.watch.named, self._reduce), **norm, **turn.weight, **gradients[turn.task]}
            self.meter.add(turn.task, values)
        self._advance()
        losses = {turn.task: turn.loss for turn in update if turn.loss is not None}
        self.balancer.after_step(losses, again, epoch_ended=self.progress.epoch_step == 0)

    def _share_passes(self, update: Sequence[Turn]) -> None:
        """Let tasks on the same rows take their hidden states from one pass of the encoder, part by part.

        Not where each task has its own adapter, where weights move within the step, where further passes of a task need
        the same dropout masks but have fewer sequences, or where the tasks' gradients are needed apart and the batch is
        split to save memory: passes would have to be kept for all parts.
        """
        if self.model.has_adapters_by_task or (len(update[0].parts) > 1 and self._needs_apart(len(update))):
            return
        groups: dict[int, list[Turn]] = {}
        turns_of_units = [turn for turn in update if turn.parts[0].shared is not None]
        for turn, shares in zip(turns_of_units, self._by_all(map(self._can_share, turns_of_units)), strict=True):
            if shares:
                groups.setdefault(id(turn.parts[0].shared), []).append(turn)
        for turns in groups.values():
            inputs = [part.shared for part in turns[0].parts if part.shared is not None]
            passes = [
                self.objective.shared_pass(each, step=self.progress.step, part=n) for n, each in enumerate(inputs)
            ]
            for turn in turns if len(turns) > 1 else ():
                turn.passes = passes

    def _by_all(self, own: Iterable[bool]) -> list[bool]:
        """Whether each holds in all processes, so that all send their tasks backward in the same order."""
        holds = list(own)
        if self._reduce is None or not holds:
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
        measured = self._measures(self.plan.log_conflicts) or self._measures(self.plan.log_affinity)
        return num_tasks > 1 and (measured or self.balancer.needs_apart())

    def _losses_of_part(self, turn: Turn, index: int, share: Share) -> Iterator[LossPart]:
        """The losses of a part of a task's batch, each to be sent backward before the next is asked for."""
        yield from self.objective.parts(
            share.batch.to(self.accelerator.device),
            step=self.progress.step,
            part=index,
            row_share=share.of_rows,
            label_share=share.of_labels,
            shared=turn.passes[index] if turn.passes else None,
        )

    def _move_by(self, waiting: Sequence[Turn], update: Sequence[Turn]) -> dict[str, Tensor]:
        """Send the tasks backward, up to where one asks for a move, and let the optimizer move; the gradient's norm."""
        conflicts, affinity = self._measures(self.plan.log_conflicts), self._measures(self.plan.log_affinity)
        measured = (conflicts or affinity) and len(waiting) > 1
        move = self.combination.begin([turn.task for turn in waiting], keep=measured)
        with self.combination.summing(move) if self._has_one_backward(move, waiting) else nullcontext():
            for turns in by_pass(waiting):
                self._go_backward(move, turns)
        for turn in waiting:
            turn.watch.require_finite(turn.parts, self.progress.step)
        if affinity and measured:
            self._record_affinity(move, waiting)
        products = self.combination.finish(move, self.progress.step)
        if conflicts and products is not None and self.recorder is not None:
            self.recorder.conflicts(self.progress.step + 1, Conflicts.of(move.tasks, products))
        return self._move(move, waiting, update)

    def _has_one_backward(self, move: Move, waiting: Sequence[Turn]) -> bool:
        """Whether a movement has a single backward pass, so that no gradient changes after its sum has begun."""
        apart = move.keep or self.balancer.needs_apart()
        single = len(waiting) == 1 and len(waiting[0].parts) == 1 and not waiting[0].passes
        return single and not apart and self.objective.has_one_backward(waiting[0].task)

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
            waiting[0].watch.require_finite_gradient(norm, parts, self.progress.step)
        else:
            norm = {name: torch.where(overflow > 0, 0.0, value) for name, value in norm.items()}  # of no update
        losses = move.losses or self._losses_of(waiting)
        self.balancer.before_move(losses, move.norms)
        self._update()
        for turn in update:
            turn.watch.moves += 1
        for turn in waiting:
            if turn.task in losses:
                turn.add_loss(losses[turn.task])
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
            self.recorder.affinity(self.progress.step + 1, found)

    def _weighting_loss(self, turn: Turn) -> Tensor:
        """The label loss of a task that has gone backward, over all ranks."""
        if turn.plain_loss is not None:
            return turn.plain_loss
        return totals({"task": turn.watch.named["task"]}, self._reduce)["task"]

    def _label_loss(self, turn: Turn) -> Tensor:
        """The label loss of a task's batch with the weights as they are and the step's dropout masks, over all ranks.

        Costs a forward pass.
        """
        step, total = self.progress.step, torch.zeros((), device=self.accelerator.device)
        for index, share in enumerate(self._shares(turn.parts)):
            batch = share.batch.to(self.accelerator.device)
            total = total + share.of_labels * self.objective.label_loss(batch, step=step, part=index)
        return totals({"task": total}, self._reduce)["task"]

    def _measured_gradients(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """At a task's first step since the last log line, the gradient norms of its terms, over the first part of its
        batch; else empty."""
        if not self.plan.log_gradients or self.meter.steps[parts[0].task]:
            return {}
        batch = parts[0].to(self.accelerator.device)
        norms = self.objective.gradient_norms(batch, step=self.progress.step)
        return {f"gradient.{name}": norm for name, norm in norms.items()}

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
        if type(self.balancer) is Fixed:
            return {}
        return totals({turn.task: turn.watch.take_total() for turn in turns}, self._reduce)

    def _measures(self, every: int) -> bool:
        """Whether the step at hand is one of each `every`-th."""
        return every > 0 and (self.progress.step + 1) % every == 0

    def _clip(self) -> dict[str, Tensor]:
        """Clip the gradient; returns its norm before clipping, under its name in the log."""
        if self.clip_norm is None:
            return {}
        clip = self.parts.clip if self.table_gradient is None else self.table_gradient.clip
        return {"gradient_norm": clip(self._parameters, self.clip_norm).detach()}

    def _advance(self) -> None:
        self.progress.step += 1
        self.progress.epoch_step += 1
        if self.progress.epoch_step == len(self.loader):
            self.progress.epoch, self.progress.epoch_step = self.progress.epoch + 1, 0

    def _after_step(self) -> None:
        """Log, evaluate and save if due after this step."""
        means = self._log() if self._is_due(self.plan.log_every) else {}
        self.on_step(replace(self.progress), means)
        if self._is_due(self.plan.evaluate_every):
            self._evaluate()
        if self._is_due(self.plan.checkpoint_every):
            self.save("step", self)

    def _is_due(self, every: Every) -> bool:
        if every == "never":
            return False
        if self.progress.step >= self.plan.total_steps:
            return True
        return self.progress.epoch_step == 0 if every == "epoch" else self.progress.step % every == 0

    def _log(self) -> dict[str, dict[str, float]]:
        scaling = self._scaling()
        means = self.meter.take()
        for task, values in self.objective.diagnostics().items():
            means.setdefault(task, {}).update(values)
        if self.recorder is not None:
            rates = zip(self.scheduler.get_last_lr(), self._is_of_model, strict=True)
            rate = max(float(each) for each, of_model in rates if of_model)
            values = {"epoch": self.progress.epoch, "lr": rate, **scaling}
            self.recorder.train(self.progress.step, means, values)
        return means

    def _scaling(self) -> dict[str, float]:
        """What the log has of the loss scale.

        Raises:
            NonFiniteLoss: it has fallen so far that no scale would do.
        """
        if self.loss_scale is None:
            return {}
        found = {"loss_scale": self.loss_scale.value, "skipped_updates": self.loss_scale.skipped}
        if found["loss_scale"] < SMALLEST:
            raise NonFiniteLoss(
                f"step {self.progress.step}: gradients are not finite at a loss scale of {found['loss_scale']:.2g}, "
                f"and {found['skipped_updates']} updates were skipped. Use precision: bf16 or float32, or lower the "
                "learning rate or the regularizer's weight."
            )
        return found

    def _evaluate(self) -> None:
        results, score = self.evaluate()
        if self.recorder is not None:
            self.recorder.evaluation(self.progress.step, results, score)
        if score is None:
            return
        if score > self.progress.patience_score + self.plan.min_delta:
            self.progress.patience_score, self.progress.without_rise = score, 0
        else:
            self.progress.without_rise += 1
        if score > self.progress.best_score:
            self.progress.best_score, self.progress.best_step = score, self.progress.step
            self.save("best", self)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs in addition to the weights; tensors and plain values.

        Of a model that is divided all processes must call it; some tensors are parts.
        """
        return {
            "progress": asdict(self.progress),
            "meter": self.meter.state_dict(),
            "optimizer": self.parts.whole_optimizer_state(self.optimizer, kept=self.processes.is_first),
            "scheduler": self.scheduler.state_dict(),
            "objective": self.objective.state_dict(),
            "balancer": self.balancer.state_dict(),
            "default_generator": torch.get_rng_state(),
            **({} if self.average is None else {"average": self.average.state_dict(self.model)}),
            **({} if self.loss_scale is None else {"loss_scale": self.loss_scale.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        # In old checkpoints without patience_score only a rise of more than min_delta was a best.
        self.progress = Progress(**{"patience_score": state["progress"]["best_score"], **state["progress"]})
        self.meter.load_state_dict(state["meter"], self.accelerator.device)
        self.parts.load_optimizer_state(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.objective.load_state_dict(state["objective"])
        if state.get("balancer"):
            self.balancer.load_state_dict(state["balancer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"], self.model)
        if self.loss_scale is not None and "loss_scale" in state:
            self.loss_scale.load_state_dict(state["loss_scale"])
        torch.set_rng_state(state["default_generator"])
