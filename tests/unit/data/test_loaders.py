"""Batches for training and evaluation: every row once, any step, any number of processes."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtdnn.batch import Batch, SharedInputs
from mtdnn.data.loaders import EvalLoader, TrainLoader, ahead, pinned_parts
from mtdnn.data.prepro import prepare
from mtdnn.data.samplers import SAMPLERS
from mtdnn.data.store import open_store
from mtdnn.task_types.base import TASK_TYPES
from tests.reference.pretended_gpu import GPU, pretended_gpu

LIKES = 23


@pytest.fixture
def ready(project, encoder):
    project.rows("like/train", [f"l{number}\t{number}\tA{' kite' * (number % 7)}." for number in range(LIKES)])
    prepare(project.tasks, data=project.data, encoder=encoder, out=project.out, num_workers=1)
    return project


def types_of(project):
    return {name: TASK_TYPES.get(task.task_type)(task) for name, task in project.tasks.items()}


def train_loader(project, **settings):
    stores = {name: open_store(project.out, task, "train") for name, task in project.tasks.items()}
    sizes = {name: len(store) for name, store in stores.items()}
    sampler = SAMPLERS.get("round_robin")(sizes, {"nli": 2, "like": 4}, seed=3)
    return TrainLoader(stores, types_of(project), sampler, pad_token_id=0, seed=3, **settings)


def ids_of(steps):
    return [(parts[0].task, [part.row_ids for part in parts]) for parts in steps]


def test_an_epoch_has_every_row_of_every_task_once(ready):
    loader = train_loader(ready)
    orders = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        steps = ids_of(loader)
        assert len(steps) == len(loader) == 2 + 6
        rows = [row for task, parts in steps if task == "like" for part in parts for row in part]
        assert sorted(rows) == sorted(f"l{number}" for number in range(LIKES))
        orders.append(rows)
    assert orders[0] != orders[1]


def test_pinned_batches_are_the_same_and_need_no_wait_on_their_way_to_a_gpu(ready):
    plain = list(train_loader(ready, accumulate=2))
    with pretended_gpu() as gpu:
        pinned = list(train_loader(ready, pin=True, prefetch=0, accumulate=2))
        for parts in pinned:
            assert all(gpu.is_pinned(part.mask) and gpu.is_pinned(part.labels) for part in parts)
        moved = [part.to(GPU) for parts in pinned for part in parts]  # raises where the host would wait
    assert {batch.labels.device for batch in moved} == {GPU}
    for expected, parts in zip(plain, pinned, strict=True):
        assert [part.row_ids for part in parts] == [part.row_ids for part in expected]
        for mine, theirs in zip(parts, expected, strict=True):
            assert torch.equal(mine.inputs["input_ids"], theirs.inputs["input_ids"])


def test_pinned_parts_that_share_their_sequences_still_do():
    shared = SharedInputs({"mask": torch.ones(2, 3, dtype=torch.bool)}, torch.tensor([0, 1]))
    of_tasks = [Batch(name, dict(shared.inputs), None, ["a", "b"], shared=shared) for name in "xy"]
    with pretended_gpu() as gpu:
        first, second, alone = pinned_parts([*of_tasks, replace(of_tasks[0], shared=None)])
        assert gpu.is_pinned(first.shared.inputs["mask"]) and gpu.is_pinned(first.shared.first)
    assert first.shared is second.shared and first.shared is not shared and alone.shared is None


def test_any_step_can_be_started_from(ready):
    loader = train_loader(ready)
    loader.set_epoch(1)
    whole = ids_of(loader)
    for step in range(len(loader) + 1):
        assert ids_of(loader.from_step(step)) == whole[step:]


def test_a_batch_comes_in_as_many_parts_as_asked_and_rows_allow(ready):
    steps = ids_of(train_loader(ready, accumulate=3))
    assert ids_of(train_loader(ready)) == [(task, [[row for part in parts for row in part]]) for task, parts in steps]
    assert {len(parts) for task, parts in steps if task == "like"} == {3}
    assert {len(parts) for task, parts in steps if task == "nli"} == {1, 2}


def test_processes_share_each_step_without_dropping_or_doubling_a_row(ready):
    whole = ids_of(train_loader(ready))
    shares = [ids_of(train_loader(ready, rank=rank, num_processes=2)) for rank in range(2)]
    for step, (task, (rows,)) in enumerate(whole):
        parts = [shares[rank][step] for rank in range(2)]
        assert {name for name, _ in parts} == {task}
        if len(rows) > 1:
            assert sorted(row for _, (own,) in parts for row in own) == sorted(rows)


def test_a_process_without_a_row_repeats_one_without_its_label(ready):
    last = [[parts[0] for parts in train_loader(ready, rank=rank, num_processes=8)] for rank in range(8)]
    for of_step in zip(*last, strict=True):
        labels = torch.cat([batch.labels.float() for batch in of_step])
        counted = sum(types_of(ready)[batch.task].label_count(batch) for batch in of_step)
        assert counted == (labels.isfinite() & (labels != -100)).sum()
        distinct = {row for batch in of_step for row in batch.row_ids}
        assert counted == len(distinct) == sum(not batch.is_placeholder for batch in of_step)


def test_all_processes_have_as_many_parts_of_a_step_and_every_row_counts_once(ready):
    whole = ids_of(train_loader(ready))
    shares = [list(train_loader(ready, rank=rank, num_processes=3, accumulate=3)) for rank in range(3)]
    for step, (_, (rows,)) in enumerate(whole):
        parts = [shares[rank][step] for rank in range(3)]
        assert len({len(own) for own in parts}) == 1
        counted = [batch for own in parts for batch in own if not batch.is_placeholder]
        assert sorted(row for batch in counted for row in batch.row_ids) == sorted(rows)


def test_batches_made_ahead_are_the_same(ready):
    assert ids_of(train_loader(ready, prefetch=2)) == ids_of(train_loader(ready))


def test_the_thread_that_works_ahead_passes_errors_on_and_ends_with_its_user():
    def broken():
        yield 1
        raise OSError("gone")

    items = ahead(broken(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)
    made = []
    endless = ahead((made.append(number) or number for number in range(10**9)), 2)
    next(endless)
    endless.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "batches" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(made) <= 5


def test_evaluation_sees_every_row_once_the_longest_first(ready):
    store = open_store(ready.out, ready.tasks["like"], "train")
    loader = EvalLoader(store, types_of(ready)["like"], 5, 0)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    rows = np.concatenate([rows for rows, _ in batches])
    assert sorted(rows) == list(range(LIKES))
    assert [f"l{row}" for row in rows] == [row_id for _, batch in batches for row_id in batch.row_ids]
    lengths = [int(length) for _, batch in batches for length in batch.mask.sum(1)]
    assert lengths == sorted(lengths, reverse=True)
    assert [label for _, batch in batches for label in batch.labels.tolist()] == rows.tolist()
