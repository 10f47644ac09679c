"""What a step of several tasks costs: with each way to balance them, and with tasks that share their rows.

    python -m benchmarks.balancing --encoder FOLDER --data DIR [--steps 2] [--repeats 10] [--threads 1]

`DIR` holds canonical rows of RTE, MRPC and STS-B. All ways take turns at a few steps on the same batches in one
process. The floor of a method is a step of `fixed`, which has the same forward and backward passes, and what the method
does besides: combining the gradients, or measuring the losses again. For shared rows, the texts of RTE get three
labels, made up: their tasks train together on the same rows, together on copies of them, and one alone. Ratios are of
processor time, turn by turn. Memory is the peak of a step, in a fresh process for each way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.processes import forget_peak, in_fresh_process, peak_resident, resident
from benchmarks.rounds import interleaved, median_and_spread, ratios
from benchmarks.train_throughput import TASKS, endless
from mtdnn.columns import table
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup
from mtdnn.training.trainer import Trainer

OWN = ["rte", "mrpc", "stsb"]
METHODS = ["fixed", "uncertainty", "dwa", "gradnorm", "famo", "pcgrad", "cagrad", "upgrad", "imtl"]
ALIKE: dict[str, dict[str, Any]] = {
    "verdict": {"task_type": "classification", "labels": ["no", "yes"]},
    "score": {"task_type": "regression"},
    "kinds": {"task_type": "multilabel", "labels": ["long", "short"]},
}
SHARED = {
    "one": ["verdict"],
    "three on the same rows": list(ALIKE),
    "three on copies": [f"{name}_own" for name in ALIKE],
}
UNTIMED = 3
"""Steps before the first turn."""


@dataclass(frozen=True)
class Cost:
    """What a step took on average, in seconds of the processor; `besides` is what was not a pass that `fixed` has."""

    processor: float
    besides: float = 0.0


@contextmanager
def run_of_steps(given: Mapping[str, object], steps: int) -> Iterator[Callable[[], Cost]]:
    """A function that takes some steps of a run; each call continues the last one's.

    Args:
        given: keys of the run.
        steps: of a call.
    """
    setup = Setup.of(load_run_config(None, dict(given)))
    trainer, batches = setup.trainer(RunFolder("unused")), endless(setup)
    trainer.model.train()
    besides = Besides(trainer)

    def take(count: int = steps) -> Cost:
        besides.seconds, start = 0.0, time.process_time()
        for _ in range(count):
            trainer.train_step(next(batches))
        return Cost((time.process_time() - start) / count, besides.seconds / count)

    take(UNTIMED)
    yield take


class Besides:
    """Adds up the seconds of the processor in which a trainer combines gradients or measures losses again."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds = 0.0
        trainer.updater.combination.finish = self._timed(trainer.updater.combination.finish)  # type: ignore[method-assign]
        trainer.updater._label_loss = self._timed(trainer.updater._label_loss)  # type: ignore[method-assign]

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.process_time() - start

        return timed


def peak_of_a_step(given: Mapping[str, object]) -> int:
    """The most bytes of this process during a step above those before it, after some steps."""
    torch.set_num_threads(1)
    with run_of_steps(given, 1) as take:
        forget_peak()
        before = resident()
        take()
        return peak_resident() - before


def write_shared_rows(data: Path, out: Path) -> None:
    """The texts of RTE's train split with three labels, made up, for `SHARED`."""
    lines = [line.split("\t") for line in (data / "rte" / "train.tsv").read_text(encoding="utf-8").splitlines()]
    rows = []
    for number, (row_id, label, *texts) in enumerate(lines):
        own = {"verdict": "yes" if label == "entailment" else "no", "score": number % 5, "kinds": "long"}
        rows.append(json.dumps({"id": row_id, "premise": texts[0], "hypothesis": texts[1], **own}))
    for file in ("texts", *(f"copy_{name}" for name in ALIKE)):
        (out / file).mkdir(parents=True)
        (out / file / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def shared_definitions() -> dict[str, dict[str, Any]]:
    """Tasks that share the rows of `write_shared_rows`, and the same with a copy for each."""
    common = {"inputs": ["premise", "hypothesis"], "splits": {"train": "train"}}
    found = {}
    for name, block in ALIKE.items():
        found[name] = {**common, **block, "rows": {"file": "texts", "columns": {"label": name}}}
        found[f"{name}_own"] = {**common, **block, "rows": {"file": f"copy_{name}", "columns": {"label": name}}}
    return found


def runs_of(folder: Path, encoder: str, data: Path, batch_size: int) -> dict[str, dict[str, Any]]:
    """Way → keys of its run, on rows prepared in the folder."""
    prepare({name: load_task_defs(TASKS)[name] for name in OWN}, data=data, encoder=encoder, out=folder / "own")
    write_shared_rows(data, folder / "rows")
    definitions = shared_definitions()
    prepare(definitions, data=folder / "rows", encoder=encoder, out=folder / "shared")
    (folder / "shared.yml").write_text(json.dumps(definitions))
    common = {"encoder": encoder, "output": "unused", "batch_size": batch_size, "evaluate_every": "never", "epochs": 9}
    own = {**common, "tasks": TASKS, "data": str(folder / "own"), "train": OWN, "tasks_per_step": "all"}
    of_rows = {**common, "tasks": str(folder / "shared.yml"), "data": str(folder / "shared"), "tasks_per_step": "all"}
    of_methods = {name: {**own, "balance": name} for name in METHODS}
    return {**of_methods, **{name: {**of_rows, "train": tasks} for name, tasks in SHARED.items()}}


def methods_table(rounds: Mapping[str, Sequence[Cost]], memory: Mapping[str, int]) -> str:
    """One line per method: the ratio to `fixed`, to the method's floor, and the memory above that of `fixed`."""
    lines = [["balance", "step, s", "ratio to fixed", "besides, of a step", "ratio to the floor", "MiB above fixed"]]
    base = [each.processor for each in rounds["fixed"]]
    for name in METHODS:
        own = [each.processor for each in rounds[name]]
        besides = [each.besides for each in rounds[name]]
        known = [each.besides for each in rounds["fixed"]]
        floor = [plain + more - less for plain, more, less in zip(base, besides, known, strict=True)]
        share = statistics.median(more / each for more, each in zip(besides, own, strict=True))
        words = [f"{statistics.median(own):.3f}", median_and_spread(ratios(own, base)), f"{100 * share:.1f} %"]
        extra = (memory[name] - memory["fixed"]) / 2**20
        lines.append([name, *words, median_and_spread(ratios(own, floor)), f"{extra:+.0f}"])
    return table(lines)


def shared_table(rounds: Mapping[str, Sequence[Cost]]) -> str:
    """One line per way to train tasks on the same texts, with the ratio to one of them alone."""
    base = [each.processor for each in rounds["one"]]
    lines = [["tasks", "step, s", "ratio to one"]]
    for name in SHARED:
        own = [each.processor for each in rounds[name]]
        lines.append([name, f"{statistics.median(own):.3f}", median_and_spread(ratios(own, base))])
    return table(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--repeats", type=int, default=10, help="turns of each way")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="mtdnn-balancing-") as folder, ExitStack() as stack:
        runs = runs_of(Path(folder), given.encoder, given.data, given.batch_size)
        memory = {name: in_fresh_process("balancing", "peak_of_a_step", runs[name]) for name in METHODS}
        ways = {name: stack.enter_context(run_of_steps(run, given.steps)) for name, run in runs.items()}
        rounds = interleaved(ways, given.repeats, warm_up=False)
    print(methods_table(rounds, memory))
    print(f"\n{shared_table(rounds)}")
    print(f"\nbatches of {given.batch_size}; {given.threads} threads; {given.repeats} turns of {given.steps} steps")


if __name__ == "__main__":
    main()
