"""The loop: batches → updated weights, with everything a resumed run needs to go on exactly."""

from __future__ import annotations

import logging
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtdnn.batch import Batch
from mtdnn.errors import MtdnnError
from mtdnn.model import MultiTaskModel
from mtdnn.training.evaluation import Results
from mtdnn.training.objective import Objective
from mtdnn.training.recorder import Recorder

logger = logging.getLogger(__name__)

Every = int | Literal["epoch", "never"]


class NonFiniteLoss(MtdnnError):
    """The loss of a step, or its gradient, is not finite; the optimizer has not moved by it."""


class Interrupted(Exception):
    """The run was asked to stop by a signal and left a checkpoint to go on from.

    Attributes:
        signal_number: 2 for Ctrl-C, 15 for SIGTERM.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        self.signal_number, self.step = signal_number, step
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}; --resume continues")


class Steps(Protocol):
    """The steps of an epoch, each a batch of one task in the parts it is computed in."""

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...

    def from_step(self, step: int) -> Iterator[Sequence[Batch]]: ...


@dataclass
class Progress:
    """Where a run stands, as plain values.

    Attributes:
        step: optimizer steps done.
        epoch, epoch_step: the next step is number `epoch_step` of epoch `epoch`, both from 0.
        best_score, best_step: of the best evaluation so far.
        patience_score: of the last evaluation that rose by more than `min_delta`.
        without_rise: evaluations since that one.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    patience_score: float = -math.inf
    without_rise: int = 0


OnStep = Callable[[Progress, Mapping[str, Mapping[str, float]]], None]


@dataclass
class Meter:
    """Sums of named values per task since the last line of the log, kept on the device.

    Attributes:
        sums, counts: task → name → sum of its values, and in how many of the task's steps it had one.
        steps: task → its steps.
    """

    sums: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    steps: Counter[str] = field(default_factory=Counter)

    def add(self, task: str, values: Mapping[str, Tensor]) -> None:
        """Add one step's named values of a task."""
        sums = self.sums.setdefault(task, {})
        for name, value in values.items():
            sums[name] = sums[name] + value if name in sums else value.clone()
        self.counts.setdefault(task, Counter()).update(values.keys())
        self.steps[task] += 1

    def take(self) -> dict[str, dict[str, float]]:
        """Of each task the mean of each value over the steps that had it, and its number of steps; then all starts
        anew. Waits for the device."""
        means = {
            task: {
                **{name: float(total) / self.counts[task][name] for name, total in sums.items()},
                "steps": self.steps[task],
            }
            for task, sums in self.sums.items()
        }
        self.sums, self.counts, self.steps = {}, {}, Counter()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU."""
        sums = {task: {name: value.cpu() for name, value in sums.items()} for task, sums in self.sums.items()}
        counts = {task: dict(of_task) for task, of_task in self.counts.items()}
        return {"sums": sums, "counts": counts, "steps": dict(self.steps)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what `state_dict` gave."""
        self.sums = {
            task: {name: value.to(device) for name, value in sums.items()} for task, sums in state["sums"].items()
        }
        self.counts = {task: Counter(counts) for task, counts in state["counts"].items()}
        self.steps = Counter(state["steps"])


@dataclass(frozen=True)
class Plan:
    """When things happen.

    Attributes:
        total_steps: of the run.
        evaluate_every, checkpoint_every: steps, "epoch" or "never".
        log_every: steps.
        log_gradients: also log, once per task and line, the gradient norm of each term of the loss; costs a pass.
        patience: evaluations without a rise of more than `min_delta` that end the run; None never does.
    """

    total_steps: int
    evaluate_every: Every = "epoch"
    checkpoint_every: Every = "epoch"
    log_every: int = 10
    log_gradients: bool = False
    patience: int | None = None
    min_delta: float = 0.0


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
        rows = [0 if part.stands_in else len(part) for part in parts]
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


class LossWatch:
    """The losses of one step, copied to the host while the device goes on with the backward pass.

    Reading a loss right away would make the host wait for the device in every step. The copy is asked for before the
    backward pass and read after it was queued, so the device never runs dry.

    Attributes:
        named: sums of the named values of the step's parts.
        moves: how often the optimizer has moved in this step.
    """

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self.moves = 0
        self._copies: list[Tensor] = []
        self._events: list[torch.cuda.Event] = []

    def see(self, loss: Tensor) -> None:
        """Copy a loss to the host, without waiting for it."""
        if loss.device.type != "cuda":
            self._copies.append(loss.detach())
            return
        copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copy.copy_(loss.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._copies.append(copy)
        self._events.append(event)

    def add(self, named: Mapping[str, Tensor]) -> None:
        """Add the named values of one part, which are weighted to sum to the step's."""
        for name, value in named.items():
            self.named[name] = self.named[name] + value if name in self.named else value

    def refuse_non_finite(self, parts: Sequence[Batch], step: int) -> None:
        """Raise NonFiniteLoss, naming task, step and rows, when any loss seen is infinite or not a number."""
        for event in self._events:
            event.synchronize()
        self._refuse(sum(float(copy) for copy in self._copies), "the loss", parts, step)

    def refuse_non_finite_gradient(self, norm: Mapping[str, Tensor], parts: Sequence[Batch], step: int) -> None:
        """Raise NonFiniteLoss when the norm of the gradient is, where it can be read without waiting for a device."""
        for value in norm.values():
            if value.device.type == "cpu":
                self._refuse(float(value), "the norm of the gradient", parts, step)

    def _refuse(self, value: float, name: str, parts: Sequence[Batch], step: int) -> None:
        if math.isfinite(value):
            return
        ids = [row_id for part in parts for row_id in part.row_ids]
        shown = ", ".join(ids[:20]) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
        times = "once" if self.moves == 1 else f"{self.moves} times"
        moved = f"have moved {times} within this step" if self.moves else "have not moved"
        raise NonFiniteLoss(
            f"step {step + 1}: task '{parts[0].task}': {name} is {value}; rows {shown}. The weights {moved}; "
            "lower the learning rate or the regularizer's weight, or look at these rows."
        )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives the number of a SIGTERM or SIGINT; a second Ctrl-C interrupts at once.

    Outside the main thread (a notebook's worker) signals cannot be caught, and the list stays empty.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        logger.warning("%s: stopping after this step", signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
