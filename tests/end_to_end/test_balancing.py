"""Updates of several tasks in whole runs: resumed, by two processes, counted, refused."""

from __future__ import annotations

import builtins
import importlib.util
import json
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mtdnn
from mtdnn.config.run import load_run_config
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup
from mtdnn.runs.train import train
from mtdnn.study.size import run_size
from mtdnn.training.trainer import Trainer
from tests.conftest import Demo
from tests.reference.forks import launched
from tests.reference.interrupted import stopped_and_resumed

TASKS = ["demo_nli", "demo_similarity", "demo_sentiment"]
STATEFUL = ["uncertainty", "dwa", "gradnorm", "famo", "pcgrad"]
"""The methods that keep something or draw; a method's own state is in tests/unit/balancing."""


def values_of(demo: Demo, output: Path, **more: Any) -> dict[str, Any]:
    common = {"train": TASKS, "tasks_per_step": "all", "evaluate_every": "never", "log_every": 2, "max_steps": 4}
    return demo.run_values(output, **{**common, "checkpoint_every": 2, "batch_size": 4, **more})


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


OPTIONS = {"dwa": {"name": "dwa", "every": 2}}


MEASURED = {
    "accumulate": 2, "precision": "bf16", "execution": {"products": "torch"}, "proximal": "momentum",
    "log_conflicts": 2, "log_affinity": 3,
    "regularizer": {"name": "free_lb", "steps": 2}, "gradient_checkpointing": True,
}  # fmt: skip


def trainer_of(demo: Demo, folder: Path, name: str) -> Trainer:
    """A trainer before its first step, of a run with this method."""
    more = {"balance": OPTIONS.get(name, name), "batch_size": 2}
    trainer = Setup.of(load_run_config(None, values_of(demo, folder, **more))).trainer(RunFolder(folder))
    trainer.model.train()
    return trainer


def take_steps(trainer: Trainer, count: int) -> None:
    trainer.loader.set_epoch(0)
    for parts in islice(trainer.loader.from_step(trainer.progress.step), count):
        trainer.train_step(parts)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_trainer_resumes_from_its_stored_state(demo: Demo, tmp_path: Path, name: str) -> None:
    """Weights and the method's state, bit for bit, after two steps, a new trainer, and two more."""
    whole, first, second = (trainer_of(demo, tmp_path, name) for _ in range(3))
    take_steps(whole, 4)
    take_steps(first, 2)
    file = tmp_path / "state.pt"
    torch.save([first.state_dict(), first.model.state_dict()], file)
    state, weights = torch.load(file, weights_only=True)
    second.model.load_state_dict(weights)
    second.load_state_dict(state)
    take_steps(second, 2)
    other = second.model.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in whole.model.state_dict().items())
    assert str(whole.balancer.state_dict()) == str(second.balancer.state_dict())
    assert not all(torch.equal(value, weights[key]) for key, value in other.items())


@pytest.mark.parametrize("name", ["famo", *(pytest.param(each, marks=pytest.mark.slow) for each in STATEFUL
                                            if each != "famo")])  # fmt: skip
def test_a_resumed_run_equals_the_unbroken_one(demo: Demo, tmp_path: Path, name: str) -> None:
    """Weights and log, bit for bit, stopped within an epoch; with what is measured on the way."""
    more = {"balance": OPTIONS.get(name, name), **MEASURED}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(load_run_config(None, values_of(demo, whole, **more)), progress=False)
    stopped_and_resumed(load_run_config(None, values_of(demo, broken, **more)), step=3)
    assert log_of(whole) == log_of(broken)
    one, other = (load_file(run / "last" / "model.safetensors") for run in (whole, broken))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert [line["step"] for line in log_of(whole) if "conflicts" in line] == [2, 4]
    assert [line["step"] for line in log_of(whole) if "affinity" in line] == [3]


@pytest.fixture(scope="module")
def without_dropout(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Keys of a run without dropout, whose masks differ between processes."""
    folder = tmp_path_factory.mktemp("no_dropout")
    tasks, encoder = folder / "tasks.yml", folder / "encoder"
    tasks.write_text(demo.tasks.read_text().replace("task_type:", "dropout: 0.0\n  task_type:"))
    shutil.copytree(demo.encoder, encoder)
    config = json.loads((encoder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(config))
    return {"tasks": str(tasks), "encoder": str(encoder)}


class Meeting:
    """Sums tensors over threads in place of the processes of a run."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=300)
        self.brought: dict[int, list[torch.Tensor]] = {}

    def sums(self, rank: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.brought[rank] = [each.clone() for each in tensors]
        self.barrier.wait()
        total = [
            sum(each[1:], each[0]) for each in zip(*(self.brought[one] for one in sorted(self.brought)), strict=True)
        ]
        self.barrier.wait()
        return total

    def sums_on_host(self, rank: int, numbers: Sequence[int]) -> list[int]:
        """The same of whole numbers."""
        found: list[int] = self.sums(rank, [torch.tensor(list(numbers))])[0].tolist()
        return found


@pytest.mark.parametrize("name", ["upgrad", "famo", "gradnorm"])
def test_the_sum_over_processes_gives_the_update_of_one(
    demo: Demo, without_dropout: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Two steps in two threads in place of processes; float32, sums in another order: 1e-3. Methods that draw nothing:
    threads share a generator. Of several processes none keeps its word embeddings' gradient: a sum holds the others'
    rows, too."""
    config = load_run_config(None, values_of(demo, tmp_path, balance=name, log_conflicts=2, **without_dropout))

    def made() -> Trainer:
        trainer = Setup.of(config).trainer(RunFolder(tmp_path))
        trainer.model.train()
        return trainer

    alone, ranks, meeting = made(), [made(), made()], Meeting(2)
    for rank, trainer in enumerate(ranks):
        assert trainer.updater.table_gradient is not None
        trainer.updater.table_gradient.close()
        trainer.updater.table_gradient = None
        trainer.updater.reduce = trainer.updater.combination.reduce = partial(meeting.sums, rank)
        setattr(trainer.processes, "sums_on_host", partial(meeting.sums_on_host, rank))  # noqa: B010
        trainer.loader.rank, trainer.loader.num_processes = rank, len(ranks)  # type: ignore[attr-defined]
        trainer.objective.rank = rank
    take_steps(alone, 2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda trainer: take_steps(trainer, 2), ranks))
    for one, other in zip(*(each.model.parameters() for each in ranks), strict=True):
        assert torch.equal(one, other)
    found = ranks[0].meter.take()
    for task, values in alone.meter.take().items():
        assert found[task] == pytest.approx(values, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcgrad", "famo"])
def test_two_processes_train_as_one_does(
    demo: Demo, without_dropout: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Sums in another order, four steps of AdamW in float32: 1e-3, as without balancing. No dropout."""
    more = {**without_dropout, "balance": name, "log_conflicts": 2, "log_every": 1}
    train(load_run_config(None, values_of(demo, tmp_path / "one", **more)), progress=False)
    config_file = tmp_path / "run.yml"
    config_file.write_text(load_run_config(None, values_of(demo, tmp_path / "two", **more)).to_yaml())
    status, _, errors = launched(2, "-m", "mtdnn", "train", str(config_file))
    assert status == 0, errors[-2000:]
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for first, second in zip(one, two, strict=True):
        for task, values in first.get("train", {}).items():
            assert second["train"][task] == pytest.approx(values, rel=1e-3, abs=1e-5)
        if "conflicts" in first:
            assert second["conflicts"]["norm"] == pytest.approx(first["conflicts"]["norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("mixing", "tasks_per_step"),
    [("round_robin", 1), ("round_robin", 2), ("proportional", "all"), ("temperature", 2), ("temperature", "all")],
)
def test_check_dry_run_and_training_count_the_same_steps(
    demo: Demo, tmp_path: Path, mixing: str, tasks_per_step: Any
) -> None:
    """The largest task has four batches of 16 of its 60 rows, and so have the others: 12 batches in an epoch."""
    more = {"mixing": mixing, "tasks_per_step": tasks_per_step, "max_steps": None, "epochs": 1.5, "batch_size": 16}
    values = values_of(demo, tmp_path / "run", **more)
    config = load_run_config(None, values)
    run = tmp_path / "run.yml"
    run.write_text(config.to_yaml())
    report = mtdnn.check(demo.tasks, data=demo.data, encoder=str(demo.encoder), run=run, num_workers=1)
    assert report.faults == [] and report.length is not None
    setup = Setup.of(config)
    size = run_size(config, {name: setup.tasks[name] for name in TASKS})
    assert report.length.steps == size.steps == setup.plan.total_steps
    if mixing != "temperature":
        assert size.steps == {1: 18, 2: 9, "all": 6}[tasks_per_step]
    taken = 0
    for epoch in (0, 1):
        setup.loader.set_epoch(epoch)
        taken += min(sum(1 for _ in setup.loader), size.steps - taken)
    assert taken == size.steps


def test_every_row_of_every_task_is_seen_once_an_epoch(demo: Demo, tmp_path: Path) -> None:
    for mixing in ("round_robin", "proportional"):
        setup = Setup.of(
            load_run_config(None, values_of(demo, tmp_path / "run", mixing=mixing, tasks_per_step=2))
        )  # 45 batches
        for epoch in (0, 1):
            setup.loader.set_epoch(epoch)
            steps = list(setup.loader)
            assert sorted(len({part.task for part in parts}) for parts in steps) == [1] + [2] * 22
            for task in TASKS:
                seen = [row for parts in steps for part in parts if part.task == task for row in part.row_ids]
                assert len(seen) == len(set(seen)) == 60


def faults_of(demo: Demo, tmp_path: Path, **more: Any) -> list[str]:
    run = tmp_path / "run.yml"
    run.write_text(load_run_config(None, values_of(demo, tmp_path / "run", **more)).to_yaml())
    return [str(each).split(": ", 1)[1] for each in mtdnn.check(demo.tasks, run=run).faults]


SEVERAL = "Set tasks_per_step to 2 or more, or to all."


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"balance": "pcgrad", "tasks_per_step": 1},
            f"balance: pcgrad compares the tasks of a step, but tasks_per_step is 1. {SEVERAL}",
        ),
        (
            {"log_conflicts": 5, "tasks_per_step": 1},
            f"log_conflicts: compares the tasks of a step, but tasks_per_step is 1. {SEVERAL}",
        ),
        ({"tasks_per_step": 4}, "tasks_per_step: 4 tasks, but the run has 3. Give 1 to 3, or all."),
        (
            {"balance": {"name": "fixed", "weights": {"demo_nly": 2}}},
            "balance.weights: unknown task 'demo_nly'; known: demo_nli, demo_similarity, demo_sentiment. "
            "Did you mean 'demo_nli'?",
        ),
        (
            {"balance": "upgrad", "freeze_encoder": True},
            "balance: upgrad compares gradients of shared weights, but freeze_encoder leaves none to train. "
            "Use fixed, or set freeze_encoder: false.",
        ),
        (
            {"balance": "gradnorm", "adapter": {"name": "lora", "scope": "task"}},
            "balance: gradnorm compares gradients of shared weights, but each task trains an adapter of its own. "
            "Use fixed, or give all tasks one, adapter: {scope: shared}.",
        ),
        ({"balance": {"name": "cagrad", "c": 1.5}}, "balance.c: 1.5: input should be less than 1"),
        (
            {"mixing": "sequential"},
            "tasks_per_step: 3 tasks, but this mixing trains one task after another. Give 1, or choose another mixing.",
        ),
    ],
    ids=[
        "one task",
        "nothing to compare",
        "too many",
        "unknown task",
        "frozen",
        "unshared",
        "out of range",
        "sequential",
    ],
)
def test_bad_values_are_refused_by_check_and_by_train(
    demo: Demo, tmp_path: Path, given: dict[str, Any], line: str
) -> None:
    faults = faults_of(demo, tmp_path, **given)
    (found_line,) = faults
    assert found_line.startswith(line)
    with pytest.raises(mtdnn.ConfigError) as found:
        train(load_run_config(None, values_of(demo, tmp_path / "run", **given)), progress=False)
    assert line in str(found.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_way_to_balance_is_refused_with_the_nearest_name(demo: Demo, tmp_path: Path) -> None:
    (line,) = faults_of(demo, tmp_path, balance="pcgrat")
    assert line.startswith("balance: unknown balance 'pcgrat'; known: ") and "Did you mean 'pcgrad'?" in line


def test_without_torchjd_check_says_how_to_install_it(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "mtdnn.balancing.base.find_spec", lambda name: None if name in ("torchjd", "cvxpy") else found(name)
    )
    line = "balance: cagrad needs torchjd, cvxpy, not installed. Run: pip install 'mtdnn[balance]'."
    assert faults_of(demo, tmp_path, balance="cagrad") == [line]


def test_a_run_that_adds_losses_up_imports_no_torchjd(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def refused(name: str, *rest: Any, **more: Any) -> Any:
        assert name.split(".")[0] not in ("torchjd", "cvxpy", "quadprog"), name
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refused)
    train(load_run_config(None, values_of(demo, tmp_path / "run", balance="famo", max_steps=2)), progress=False)


def test_a_run_of_one_task_is_the_same_whatever_its_balance(demo: Demo, tmp_path: Path) -> None:
    more = {"train": ["demo_nli"], "tasks_per_step": "all", "max_steps": 3}
    for name in ("fixed", "uncertainty", "pcgrad"):
        train(load_run_config(None, values_of(demo, tmp_path / name, **more, balance=name)), progress=False)
    fixed, *others = (load_file(tmp_path / name / "last" / "model.safetensors") for name in
                      ("fixed", "uncertainty", "pcgrad"))  # fmt: skip
    assert all(torch.equal(fixed[key], other[key]) for other in others for key in fixed)
