"""The order of training: the task of each step, and its rows. One class per strategy.

A step is one batch of one task or, with `tasks_per_step`, one of each of several. Each task goes through its rows pass
by pass, in a new shuffled order each pass; a strategy only chooses the tasks. The plan of an epoch depends only on
(seed, epoch, sizes), so that a resumed run continues exactly, and every process of a distributed run has the same tasks
at the same step.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from mtdnn.config.options import NoOptions, Options
from mtdnn.data.row_stream import RowStream
from mtdnn.data.updates import Updates, grouped, single
from mtdnn.errors import ConfigError, fault
from mtdnn.registry import Registry
from mtdnn.seeding import numpy_generator


class Step(NamedTuple):
    """One batch of one task: a whole update, or its part of one.

    Args:
        task: name of the task.
        rows: int64 numbers of its training rows.
    """

    task: str
    rows: np.ndarray


class Sampler(ABC):
    """The steps of each epoch of a run; a strategy implements `turns`.

    Class attributes:
        Options: the strategy's options, a pydantic model.
    Args:
        sizes: training rows of each task, in the order of the run's `train`.
        batch_sizes: rows in a batch of each task.
        seed: the run's seed.
        num_epochs, max_steps: length of the run, for strategies that change during it; steps take precedence.
        lengths: tokens of each row of each task, for the next two.
        max_tokens, group_by_length: see `RowStream`.
        tasks_per_step: the most tasks that a step has a batch of; "all" = the number of tasks.
        options: the strategy's options.
    Raises:
        ConfigError: an option is unknown or invalid, or the strategy cannot be used with these tasks or this length.
    """

    Options: ClassVar[type[Options]] = NoOptions
    whole_passes = True
    """Whether an epoch is one pass over every task; otherwise each task continues where the previous epoch ended."""
    one_task_a_step: ClassVar[bool] = False
    """Whether the strategy excludes steps of several tasks."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        batch_sizes: Mapping[str, int],
        *,
        seed: int,
        num_epochs: float | None = None,
        max_steps: int | None = None,
        lengths: Mapping[str, np.ndarray] | None = None,
        max_tokens: int | None = None,
        group_by_length: int | None = None,
        tasks_per_step: int | Literal["all"] = 1,
        **options: Any,
    ) -> None:
        if not sizes:
            raise ConfigError(fault("", "train", "no task to train on", "Name one with a train split."))
        self.tasks_per_step = len(sizes) if tasks_per_step == "all" else tasks_per_step
        if self.tasks_per_step > 1 and self.one_task_a_step:
            found = f"{self.tasks_per_step} tasks, but this mixing trains one task after another"
            raise ConfigError(fault("", "tasks_per_step", found, "Give 1, or choose another mixing."))
        self._updates: dict[int, Updates] = {}
        self.sizes, self.tasks, self.seed = dict(sizes), tuple(sizes), seed
        self.num_epochs, self.max_steps = num_epochs, max_steps
        self.epoch = 0
        stream = partial(RowStream, seed=seed, max_tokens=max_tokens, group_by_length=group_by_length)
        self.streams = [
            stream(task, size, batch_sizes[task], lengths=None if lengths is None else lengths[task])
            for task, size in sizes.items()
        ]
        self.options: Any = self.Options(**options)
        self.prepare()

    def prepare(self) -> None:
        """Compute, before the first epoch, what depends on options, tasks and the length of the run.

        Raises:
            ConfigError: they cannot be combined.
        """
        return

    @abstractmethod
    def turns(self, epoch: int) -> np.ndarray:
        """[batches of the epoch]: for each batch the number of its task."""

    def num_batches(self, epoch: int) -> int:
        """The exact number of batches of that epoch."""
        return sum(self._pass_sizes(epoch))

    def num_steps(self, epoch: int) -> int:
        """The exact number of steps of that epoch."""
        return self.num_batches(epoch) if self.tasks_per_step == 1 else len(self.updates(epoch).sizes)

    def updates(self, epoch: int) -> Updates:
        """The turns of that epoch, and how many of them each step takes."""
        if self.tasks_per_step == 1:
            return single(self.turns(epoch))
        if epoch not in self._updates:
            earlier = [known for known in self._updates if known != epoch - 1]
            for known in earlier:
                del self._updates[known]
            self._updates[epoch] = grouped(self.turns(epoch), self.tasks_per_step)
        return self._updates[epoch]

    def batches_per_task(self, epoch: int) -> dict[str, int]:
        """Task → its number of batches in that epoch."""
        counts = np.bincount(self.turns(epoch), minlength=len(self.tasks))
        return dict(zip(self.tasks, counts.tolist(), strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, for `len()` and iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps(self.epoch)

    def __iter__(self) -> Iterator[Step]:
        return self.steps_from(0)

    def steps_from(self, step: int) -> Iterator[Step]:
        """The batches of the current epoch from step number `step` on, one after another."""
        return (batch for update in self.updates_from(step) for batch in update)

    def updates_from(self, step: int) -> Iterator[tuple[Step, ...]]:
        """The steps of the current epoch from number `step` on, equal to those of a full iteration.

        Each is a tuple of batches of different tasks. Starting takes about as long as planning the whole epoch,
        whatever the step.
        """
        (turns, sizes), epoch = self.updates(self.epoch), self.epoch
        if not 0 <= step <= len(sizes):
            raise ValueError(f"step {step} of epoch {epoch}, which has {len(sizes)} steps")
        passed = int(sizes[:step].sum())
        done = np.bincount(turns[:passed], minlength=len(self.tasks))
        if not self.whole_passes:
            done += sum(np.bincount(self.turns(before), minlength=len(self.tasks)) for before in range(epoch))
        first_pass = epoch if self.whole_passes else 0
        batches = [
            stream.batches_from(count, first_pass=first_pass)
            for stream, count in zip(self.streams, done.tolist(), strict=True)
        ]
        coming = iter(turns[passed:].tolist())
        for size in sizes[step:].tolist():
            yield tuple(Step(self.tasks[number], next(batches[number])) for number in islice(coming, size))

    def _pass_sizes(self, epoch: int) -> list[int]:
        """[tasks]: batches in one pass over each task; with `max_tokens` the number varies slightly between passes."""
        return [stream.num_batches(epoch) for stream in self.streams]

    def _generator(self, epoch: int) -> np.random.Generator:
        return numpy_generator(self.seed, "turns", epoch)


SAMPLERS: Registry[type[Sampler]] = Registry(
    "mixing",
    base=lambda: Sampler,
    takes=("sizes", "batch_sizes"),
    keywords=("seed", "num_epochs", "max_steps", "lengths", "max_tokens", "group_by_length", "tasks_per_step"),
)
"""The names for `mixing:` in a run."""


def even_turns(counts: Sequence[int]) -> np.ndarray:
    """[sum of counts]: task numbers, each as often as its count, spread as evenly as possible.

    After k of M turns each task has had its share k·count/M, rounded up or down: batch j of a task is allowed from turn
    ⌊j·M/count⌋ on, and must come before turn ⌈(j+1)·M/count⌉; of the allowed batches the most urgent is taken.

    Source: Baruah, Cohen, Plaxton, Varvel 1996, "Proportionate progress" (windows; earliest deadline first meets them).
    """
    total = sum(counts)
    number = np.concatenate([np.arange(count) for count in counts])
    owner = np.repeat(np.arange(len(counts)), counts)
    count = np.repeat(np.asarray(counts, dtype=np.int64), counts)
    first, last = number * total // count, -(-(number + 1) * total // count)
    by_first = np.argsort(first, kind="stable")
    coming = list(zip(first[by_first].tolist(), last[by_first].tolist(), owner[by_first].tolist(), strict=True))[::-1]
    turns = np.empty(total, dtype=np.int64)
    ready: list[tuple[int, int]] = []
    for turn in range(total):
        while coming and coming[-1][0] <= turn:
            heapq.heappush(ready, coming.pop()[1:])
        turns[turn] = heapq.heappop(ready)[1]
    return turns


class RoundRobinOptions(Options):
    """Options of `round_robin`."""

    turns: Literal["proportional", "equal"] = Field(
        "proportional", description="proportional: all batches of each task; equal: one batch of each task in turn."
    )
    exhausted: Literal["drop", "restart", "stop"] | None = Field(
        None,
        description="With equal turns, a task without batches left: drop = is left out; restart = starts again, until "
        "the longest task is finished; stop = ends the epoch (all continue in the next). Default: drop.",
    )

    @field_validator("exhausted")
    @classmethod
    def _of_equal_turns(cls, word: str | None, info: ValidationInfo) -> str | None:
        if word is not None and info.data.get("turns") == "proportional":
            raise ValueError("has no effect with turns: proportional; set turns: equal, or remove it")
        return word


@SAMPLERS.register("round_robin")
class RoundRobin(Sampler):
    """Tasks take turns; by default every row comes exactly once per epoch, and a task's batches are evenly spread."""

    Options = RoundRobinOptions

    def prepare(self) -> None:
        self.equal, self.exhausted = self.options.turns == "equal", self.options.exhausted or "drop"
        self.whole_passes = self.exhausted == "drop"

    def turns(self, epoch: int) -> np.ndarray:
        counts = self._pass_sizes(epoch)
        if not self.equal:
            return even_turns(counts)
        if self.exhausted != "drop":
            rounds = max(counts) if self.exhausted == "restart" else min(counts)
            return np.tile(np.arange(len(counts)), rounds)
        owner = np.repeat(np.arange(len(counts)), counts)
        return owner[np.argsort(np.concatenate([np.arange(count) for count in counts]), kind="stable")]

    def num_batches(self, epoch: int) -> int:
        counts = self._pass_sizes(epoch)
        if self.exhausted == "drop":
            return sum(counts)
        return len(counts) * (max(counts) if self.exhausted == "restart" else min(counts))


@SAMPLERS.register("proportional")
class Proportional(Sampler):
    """All batches of all tasks in shuffled order; every row exactly once per epoch.

    Source: Liu et al. 2019 (MT-DNN), arXiv 1901.11504, Algorithm 1.
    """

    def turns(self, epoch: int) -> np.ndarray:
        owner = np.repeat(np.arange(len(self.tasks)), self._pass_sizes(epoch))
        return self._generator(epoch).permutation(owner)


@SAMPLERS.register("sequential")
class Sequential(Sampler):
    """One task after another, in the order of `train`; every row exactly once per epoch."""

    one_task_a_step = True

    def turns(self, epoch: int) -> np.ndarray:
        return np.repeat(np.arange(len(self.tasks)), self._pass_sizes(epoch))


class Weighted(Sampler):
    """Draws a task for each batch; an epoch has as many batches as one pass over all tasks."""

    whole_passes = False

    @abstractmethod
    def probabilities(self, epoch: int) -> np.ndarray:
        """[tasks]: the probability of each task, summing to 1."""

    def turns(self, epoch: int) -> np.ndarray:
        generator = self._generator(epoch)
        return generator.choice(len(self.tasks), size=self.num_batches(epoch), p=self.probabilities(epoch))

    def _powers_of_sizes(self, exponent: float) -> np.ndarray:
        """[tasks]: rows to the power of the exponent, scaled to sum to 1."""
        logs = exponent * np.log(np.array([self.sizes[task] for task in self.tasks], dtype=np.float64))
        powers = np.exp(logs - logs.max())
        scaled: np.ndarray = powers / powers.sum()
        return scaled


@SAMPLERS.register("uniform")
class Uniform(Weighted):
    """Every task has the same probability at each step."""

    def probabilities(self, epoch: int) -> np.ndarray:
        return self._powers_of_sizes(0.0)


class TemperatureOptions(Options):
    """Options of `temperature`."""

    tau: float = Field(2.0, gt=0, description="τ. 1: by size; larger: more even.")


@SAMPLERS.register("temperature")
class Temperature(Weighted):
    """A task of n rows has probability ∝ n^(1/τ) at each step.

    Source: Arivazhagan et al. 2019, arXiv 1907.05019.
    """

    Options = TemperatureOptions

    def probabilities(self, epoch: int) -> np.ndarray:
        return self._powers_of_sizes(1 / self.options.tau)


class AnnealedOptions(Options):
    """Options of `annealed`."""

    start: float = Field(1.0, ge=0, le=1, description="α of the first epoch.")
    end: float = Field(0.2, ge=0, le=1, description="α of the last epoch.")


@SAMPLERS.register("annealed")
class Annealed(Weighted):
    """A task of n rows has probability ∝ n^α, where α changes linearly from epoch to epoch.

    Source: Stickland & Murray 2019 (PALs), arXiv 1902.02671: α = 1 − 0.8·(e−1)/(E−1).
    """

    Options = AnnealedOptions

    def prepare(self) -> None:
        epochs = self.num_epochs if self.max_steps is None else self.max_steps / self._steps_of_an_epoch()
        if epochs is None:
            raise ConfigError(fault("", "mixing", "annealed needs the length of the run", "Give `epochs`."))
        self.last_epoch = max(int(np.ceil(epochs)) - 1, 1)

    def _steps_of_an_epoch(self) -> float:
        """The mean of the first and the last epoch: steps of several tasks are more where one task is drawn often."""
        if self.tasks_per_step == 1:
            return self.num_batches(0)
        self.last_epoch = 1
        steps = (self.num_steps(0) + self.num_steps(1)) / 2
        self._updates.clear()  # planned for a run of two epochs
        return steps

    def probabilities(self, epoch: int) -> np.ndarray:
        share, start, end = min(epoch / self.last_epoch, 1.0), self.options.start, self.options.end
        return self._powers_of_sizes(start + (end - start) * share)


class MainRatioOptions(Options):
    """Options of `main_ratio`."""

    ratio: float = Field(1.0, gt=0, description="Batches of all other tasks per batch of the first task; 1: as many.")


@SAMPLERS.register("main_ratio")
class MainRatio(Sampler):
    """All batches of the first task and `ratio` times as many of the others, in shuffled order.

    The others are drawn again each epoch, in proportion to their number of batches; each continues where it was in the
    previous epoch, so that all its rows are used in turn.

    Source: Xu et al. 2019, arXiv 1809.06963 (mixture ratio), and the mt-dnn toolkit's `--ratio`.
    """

    Options = MainRatioOptions
    whole_passes = False

    def prepare(self) -> None:
        if len(self.tasks) < 2:
            fix = "Train another task in addition, or choose another mixing."
            raise ConfigError(fault("", "mixing", f"main_ratio has no task to add to '{self.tasks[0]}'", fix))

    def turns(self, epoch: int) -> np.ndarray:
        generator = self._generator(epoch)
        main, *others = self._pass_sizes(epoch)
        passes, rest = divmod(self._extra(main), sum(others))
        extra = passes * np.array(others) + generator.multivariate_hypergeometric(others, rest)
        return generator.permutation(np.repeat(np.arange(len(self.tasks)), [main, *extra.tolist()]))

    def num_batches(self, epoch: int) -> int:
        main = self._pass_sizes(epoch)[0]
        return main + self._extra(main)

    def _extra(self, main: int) -> int:
        return max(1, round(self.options.ratio * main))
