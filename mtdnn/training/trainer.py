"""The loop: batches → updated weights, with everything a resumed run needs to go on exactly."""

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
    """The steps of an epoch, each a batch of one task in the parts it is computed in."""

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...

    def from_step(self, step: int) -> Iterator[Sequence[Batch]]: ...


OnStep = Callable[[Progress, Mapping[str, Mapping[str, float]]], None]


class Trainer:
    """Moves the weights of a model by an objective over batches.

    Args:
        evaluate: the dev results of the model as it is, and the score that selects the best, None without labels: the
            last weights are the best then, and patience does not run out.
        save: writes a checkpoint of the given kind: "best" and "last" hold weights, "step" all that a resume needs.
        clip_norm: largest norm of the gradient over all weights; None does not clip.
        on_step: called after each step with the progress and, when a line was logged, the tasks' mean losses.
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
            NonFiniteLoss: naming task, step and rows; of a gradient where it is clipped and lies on the host, since
                another device would have to be waited for.
            Interrupted: on SIGTERM or Ctrl-C, with a checkpoint to resume from.
        """
        self.model.train()
        with stop_signals() as asked:
            while not self.finished:
                self.loader.set_epoch(self.progress.epoch)
                for parts in self.loader.from_step(self.progress.epoch_step):
                    self.train_step(parts)
                    self._keep_house()
                    signal_number = self._agreed(asked)
                    if signal_number and not self.finished:
                        self.save("step", self)
                        raise Interrupted(signal_number, self.progress.step)
                    if self.finished:
                        break
        if self.progress.best_step == 0:
            self.save("best", self)
        self.save("last", self)
        return self.progress

    def _agreed(self, asked: Sequence[int]) -> int:
        """The number of the signal that any process has been asked to stop by; 0 for none.

        A launcher's signal reaches the processes one after another: unless all stop after the same step, those that go
        on wait for the others for ever.
        """
        own = asked[0] if asked else 0
        if self.accelerator.num_processes == 1:
            return own
        return int(self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).max())

    @property
    def finished(self) -> bool:
        """Whether all steps are done or patience has run out."""
        tired = self.plan.patience is not None and self.progress.without_rise >= self.plan.patience
        return self.progress.step >= self.plan.total_steps or tired

    def train_step(self, parts: Sequence[Batch]) -> None:
        """One update from one batch, computed in parts that are weighted so that their sum is the whole batch's."""
        step, watch = self.progress.step, LossWatch()
        gradients = self._measured_gradients(parts)
        for index, (batch, row_share, label_share) in enumerate(self._shares(parts)):
            batch = batch.to(self.accelerator.device)
            for part in self.objective.parts(
                batch, step=step, part=index, row_share=row_share, label_share=label_share
            ):
                watch.see(part.loss)
                part.loss.backward()
                watch.add(part.named)
                if part.then_update:
                    self._move(watch, parts)
        norm = self._move(watch, parts)
        self.scheduler.step()
        self.objective.after_step()
        self.meter.add(parts[0].task, {**self._over_ranks(watch.named), **norm, **gradients})
        self._advance()

    def _move(self, watch: LossWatch, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Let the optimizer move by the gradient gathered so far, which is then used up; the norm it had."""
        self._sum_over_ranks()
        watch.refuse_non_finite(parts, self.progress.step)
        norm = self._clip()
        watch.refuse_non_finite_gradient(norm, parts, self.progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        watch.moves += 1
        return norm

    def _measured_gradients(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """At a task's first step since the last line of the log, the norms of its terms' gradients, over the first part
        of its batch."""
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

    def _over_ranks(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of which every process has its share, summed: those of the whole batch."""
        if self.accelerator.num_processes == 1:
            return dict(named)
        total = self.accelerator.reduce(torch.stack(list(named.values())), reduction="sum")
        return dict(zip(named, total.unbind(), strict=True))

    def _clip(self) -> dict[str, Tensor]:
        """Clip the gradient; its norm before, under the name it is logged by."""
        if self.clip_norm is None:
            return {}
        return {"gradient_norm": torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm).detach()}

    def _advance(self) -> None:
        self.progress.step += 1
        self.progress.epoch_step += 1
        if self.progress.epoch_step == len(self.loader):
            self.progress.epoch, self.progress.epoch_step = self.progress.epoch + 1, 0

    def _keep_house(self) -> None:
        """Log, evaluate and save what is due after the step just done."""
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
        """All that a resumed run needs besides the weights; tensors and plain values."""
        return {
            "progress": asdict(self.progress),
            "meter": self.meter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "objective": self.objective.state_dict(),
            "default_generator": torch.get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        # Checkpoints before patience had a score of its own: there only a rise of more than min_delta was a best.
        self.progress = Progress(**{"patience_score": state["progress"]["best_score"], **state["progress"]})
        self.meter.load_state_dict(state["meter"], self.accelerator.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.objective.load_state_dict(state["objective"])
        torch.set_rng_state(state["default_generator"])
