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

from mtdnn.balancing.base import Balancer
from mtdnn.balancing.fixed import Fixed
from mtdnn.batch import Batch
from mtdnn.execution.processes import Processes
from mtdnn.execution.sharding import Parts
from mtdnn.model import MultiTaskModel
from mtdnn.training.average import MovingAverage
from mtdnn.training.evaluation import Results
from mtdnn.training.loss_scale import SMALLEST
from mtdnn.training.meter import Meter, NonFiniteLoss
from mtdnn.training.objective import Objective
from mtdnn.training.plan import Every, Plan, Progress
from mtdnn.training.recorder import Recorder
from mtdnn.training.signals import Interrupted, stop_signals
from mtdnn.training.turn import Turn
from mtdnn.training.updater import Updater, groups_of_model

logger = logging.getLogger(__name__)


class Steps(Protocol):
    """The steps of an epoch; each is a batch of one task, or of each of several, split into parts."""

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
        balancer: combines the tasks of a step; None: the sum of their losses.
        average: of the weights, to be evaluated and stored in their place; None: the weights themselves are.
        parts: the weights that the optimizer was given; None: those of the model.
        seed: of what the balancer draws.
        clip_norm: largest norm of the gradient over all weights; None = no clipping.
        on_step: called after each step with the progress and, if a line was logged, the tasks' mean losses.
    Attributes:
        updater: what computes each update.
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
        self.on_step = on_step
        self.progress, self.meter, self.average = Progress(), Meter(), average
        self.balancer = balancer or Fixed({name: each.logits_of for name, each in model.task_types.items()})
        self.processes = Processes(accelerator)
        self.parts, self.loss_scale = parts or Parts(model), objective.loss_scale
        groups = groups_of_model(optimizer, self.balancer)
        self._is_of_model = [any(group is each for each in groups) for group in optimizer.param_groups]
        self.updater = Updater(
            model=model,
            objective=objective,
            optimizer=optimizer,
            balancer=self.balancer,
            processes=self.processes,
            device=accelerator.device,
            parts=self.parts,
            plan=plan,
            recorder=recorder,
            seed=seed,
            clip_norm=clip_norm,
        )

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
        if self.progress.step < self.plan.total_steps:
            logger.info("%s", self._why_early())
        if self.progress.best_step == 0:
            self.save("best", self)
        self.save("last", self)
        return self.progress

    def _why_early(self) -> str:
        """Why training stopped before its last step: the score, its best value, and since when it has not risen."""
        done, plan = self.progress, self.plan
        more = f" by more than {plan.min_delta:g}" if plan.min_delta else ""
        return (
            f"stopped after step {done.step} of {plan.total_steps}: {plan.score_name} has not risen{more} in the last "
            f"{done.without_rise} evaluations; its best value is {done.best_score:.4f}, at step {done.best_step}"
        )

    def _signal_of_any_rank(self, received: Sequence[int]) -> int:
        """The number of a signal that any process has received; 0 for none.

        A launcher's signal reaches the processes one after another; unless all stop after the same step, the others
        wait forever.
        """
        own = received[0] if received else 0
        if self.processes.count == 1:
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
        turns = Turn.of(parts)
        gradients = {turn.task: self._measured_gradients(turn.parts) for turn in turns}
        done = self.updater.update(turns, step=self.progress.step)
        self.scheduler.step()
        self.objective.after_step()
        if self.average is not None:
            self.average.after_step(self.model)
        for task, values in done.values.items():
            self.meter.add(task, {**values, **gradients[task]})
        self._advance()
        self.balancer.after_step(done.losses)
        if self.balancer.measures_again:
            self.balancer.after_measuring(done.losses, done.again)
        if self.progress.epoch_step == 0:
            self.balancer.after_epoch()

    def _measured_gradients(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """At a task's first step since the last log line, the gradient norms of its terms, over the first part of its
        batch; else empty."""
        if not self.plan.log_gradients or self.meter.steps[parts[0].task]:
            return {}
        batch = parts[0].to(self.accelerator.device)
        norms = self.objective.gradient_norms(batch, step=self.progress.step)
        return {f"gradient.{name}": norm for name, norm in norms.items()}

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
