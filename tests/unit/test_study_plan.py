"""What a plan says of a run is what the run does: rows, steps, examples, cost."""

from pathlib import Path
from typing import Any

import pytest

from mtdnn.assemble import build_sampler, total_steps, train_store
from mtdnn.data.tokenizing import load_tokenizer
from mtdnn.run_config import RunConfig, load_run_config
from mtdnn.study_plan import run_size
from mtdnn.task_def import TaskDef, load_task_defs
from tests.conftest import Demo

PAIR = ("demo_nli", "demo_similarity")


def run_of(demo: Demo, **values: Any) -> tuple[RunConfig, dict[str, TaskDef]]:
    config = load_run_config(None, demo.run_values(Path("run"), **values))
    tasks = load_task_defs(demo.tasks)
    return config, {name: tasks[name] for name in config.train or ()}


def carried_out(demo: Demo, config: RunConfig, tasks: dict[str, TaskDef]) -> tuple[int, int]:
    """Steps and examples of the run, counted batch by batch."""
    tokenizer = load_tokenizer(str(demo.encoder))
    stores = {name: train_store(config, task, tokenizer) for name, task in tasks.items()}
    sampler = build_sampler(config, tasks, stores)
    steps, examples, epoch = total_steps(config, sampler), 0, 0
    left = steps
    while left:
        sampler.set_epoch(epoch)
        sizes = [len(step.rows) for step, _ in zip(sampler, range(left), strict=False)]
        examples, left, epoch = examples + sum(sizes), left - len(sizes), epoch + 1
    return steps, examples


@pytest.mark.parametrize(
    "values",
    [
        {"train": PAIR},
        {"train": PAIR, "epochs": 2.5},
        {"train": PAIR, "max_steps": 7},
        {"train": PAIR, "mixing": {"name": "annealed"}, "max_steps": 20},
        {"train": PAIR, "max_tokens": 200},
        {"train": PAIR, "max_tokens": 200, "group_by_length": 4, "epochs": 3},
        {"train": PAIR[:1], "max_tokens": 150, "subset": {"demo_nli": {"fraction": 0.5, "seed": 3}}},
        {"train": PAIR, "group_by_length": 4},
    ],
    ids=lambda values: " ".join(f"{key} {value}" for key, value in values.items() if key != "train") or "plain",
)
def test_a_plan_has_the_steps_of_the_run_and_nearly_its_examples(demo: Demo, values: dict[str, Any]) -> None:
    config, tasks = run_of(demo, **values)
    size = run_size(config, tasks)
    steps, examples = carried_out(demo, config, tasks)
    assert size.steps == steps
    whole_epochs = config.max_steps is None and config.epochs % 1 == 0
    # of a part of an epoch the mean size of its batches is counted, which are few here
    assert size.examples == (examples if whole_epochs else pytest.approx(examples, rel=0.1))
