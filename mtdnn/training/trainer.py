"""The training loop: batches → updated weights, with the state a run needs to resume bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtdnn.batch import Batch
from mtdnn.model import MultiTaskModel
from mtdnn.training.evaluation import Results
from mtdnn.training.meter import LossWatch, Meter
from mtdnn.training.objective import Objective
from mtdnn.training.plan import Every, Plan, Progress
from mtdnn.training.recorder import Recorder
from mtdnn.training.signals import Interrupted, stop_signals

logger = logging.getLogger(__name__)


class Steps(Protocol):
    """The steps of an epoch; each is a batch of one task, split into the parts that are computed one by one."""

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...

    def from_step(self, step: int) -> Iterator[Sequence[Batch]]: ...


OnStep = Callable[[Progress, Mapping[str, Mapping[str, float]]], None]


class Trainer:
    """Trains a model on batches with an objective.

    Args:
        evaluate: returns the dev results of the current model, and the score that selects the best; with None (no
            labels) the last weights are the best, and there is no early stopping.
        save: writes a checkpoint of the given kind: "best" and "last" have weights only, "step" all
            that a resumed run needs.
        clip_norm: largest norm of the gradient over all weights; None = no clipping.
        on_step: called after each step with the progress and, if a line was logged, the tasks' mean losses.
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
        clip_norm: float | None = 1.0,
        on_step: OnStep = lambda progress, means: None,
    ) -> None:
        self.model, self.objective, self.loader = model, objective, loader
        self.optimizer, self.scheduler, self.accelerator = optimizer, scheduler, accelerator
        self.plan, self.evaluate, self.save, self.recorder = plan, evaluate, save, recorder
        self.clip_norm, self.on_step = clip_norm, on_step
        self.progress, self.meter = Progress(), Meter()
        self._parameters = [each for group in optimizer.param_groups for each in group["params"]]

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
        if self.accelerator.num_processes == 1:
            return own
        return int(self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).max())

    @property
    def finished(self) -> bool:
        """Whether all steps are done or patience has run out."""
        out_of_patience = self.plan.patience is not None and self.progress.without_rise >= self.plan.patience
        return self.progress.step >= self.plan.total_steps or out_of_patience

    def train_step(self, parts: Sequence[Batch]) -> None:
        """One update from one batch, computed in parts whose weighted gradients sum to that of the whole batch."""
        step, watch = self.progress.step, LossWatch()
        gradients = self._measured_gradients(parts)
        for index, (batch, row_share, label_share) in enumerate(self._shares(parts)):
            batch = batch.to(self.accelerator.device)
            for part in self.objective.parts(
                batch, step=step, part=index, row_share=row_share, label_share=label_share
            ):
                watch.observe(part.loss)
                part.loss.backward()
                watch.add(part.named)
                if part.then_update:
                    self._update(watch, parts)
        norm = self._update(watch, parts)
        self.scheduler.step()
        self.objective.after_step()
        self.meter.add(parts[0].task, {**self._summed_over_ranks(watch.named), **norm, **gradients})
        self._advance()

    def _update(self, watch: LossWatch, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Update the weights with the accumulated gradient, and clear it; returns its norm."""
        self._sum_over_ranks()
        watch.require_finite(parts, self.progress.step)
        norm = self._clip()
        watch.require_finite_gradient(norm, parts, self.progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        watch.moves += 1
        return norm

    def _measured_gradients(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """At a task's first step since the last log line, the gradient norms of its terms, over the first part of its
        batch; else empty."""
        if not self.plan.log_gradients or self.meter.steps[parts[0].task]:
            return {}
        batch = parts[0].to(self.accelerator.device)
        norms = self.objective.gradient_norms(batch, step=self.progress.step)
        return {f"gradient.{name}": norm for name, norm in norms.items()}

    def _shares(self, parts: Sequence[Batch]) -> Iterator[tuple[Batch, float, float]]:
        """Each part with its share of the rows and of the labels of the step, over all ranks."""
        task_type = self.model.task_types[parts[0].task]
        rows = [0 if part.is_placeholder else len(part) for part in parts]
        labels = [task_type.label_count(part) for part in parts]
        all_rows, all_labels = sum(rows), sum(labels)
        if self.accelerator.num_processes > 1:
            totals = torch.tensor([all_rows, all_labels], device=self.accelerator.device)
            all_rows, all_labels = self.accelerator.reduce(totals, reduction="sum").tolist()
        for part, row_count, label_count in zip(parts, rows, labels, strict=True):
            yield part, row_count / max(all_rows, 1), label_count / max(all_labels, 1)

    def _sum_over_ranks(self) -> None:
        """Sum gradients over the processes of a distributed run.

        The model is not wrapped in DistributedDataParallel: a step runs several forward passes, a different head each
        time, and several backward passes for some regularizers, none of which its hooks allow. Shares already divide
        by the totals over all ranks, so that the sum is the gradient of the whole batch.
        """
        if self.accelerator.num_processes == 1:
            return
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="sum")

    def _summed_over_ranks(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the whole batch: the sum of every process's share."""
        if self.accelerator.num_processes == 1:
            return dict(named)
        total = self.accelerator.reduce(torch.stack(list(named.values())), reduction="sum")
        return dict(zip(named, total.unbind(), strict=True))

    def _clip(self) -> dict[str, Tensor]:
        """Clip the gradient; returns its norm before clipping, under its name in the log."""
        if self.clip_norm is None:
            return {}
        return {"gradient_norm": torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm).detach()}

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
        means = self.meter.take()
        for task, values in self.objective.diagnostics().items():
            means.setdefault(task, {}).update(values)
        if self.recorder is not None:
            rate = max(float(each) for each in self.scheduler.get_last_lr())
            self.recorder.train(self.progress.step, means, {"epoch": self.progress.epoch, "lr": rate})
        return means

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
        """All that a resumed run needs in addition to the weights; tensors and plain values."""
        return {
            "progress": asdict(self.progress),
            "meter": self.meter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "objective": self.objective.state_dict(),
            "default_generator": torch.get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        # In old checkpoints without patience_score only a rise of more than min_delta was a best.
        self.progress = Progress(**{"patience_score": state["progress"]["best_score"], **state["progress"]})
        self.meter.load_state_dict(state["meter"], self.accelerator.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.objective.load_state_dict(state["objective"])
        torch.set_rng_state(state["default_generator"])
