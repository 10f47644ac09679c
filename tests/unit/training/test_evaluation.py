"""What the best checkpoint is chosen by, what a split's numbers are made of, and how many records are in memory."""

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from mtdnn.metrics import stored
from mtdnn.metrics.base import measured
from mtdnn.metrics.records import write_records
from mtdnn.metrics.stored import RecordsByRow
from mtdnn.training import evaluation
from mtdnn.training.evaluation import main_score, predict_rows, selection_score

RECORDS = [
    {"id": "1", "prediction": "yes", "label": "yes", "scores": {"yes": 0.9, "no": 0.1}},
    {"id": "2", "prediction": "yes", "label": "no", "scores": {"yes": 0.6, "no": 0.4}},
    {"id": "3", "prediction": "no", "label": None, "scores": {"yes": 0.2, "no": 0.8}},
]


def test_rows_without_label_are_not_measured():
    assert measured(RECORDS, ["accuracy"], ["yes", "no"]) == {"accuracy": 0.5, "rows": 2}
    assert measured(RECORDS[2:], ["accuracy"], ["yes", "no"]) == {"rows": 0}


def test_a_task_s_score_is_the_mean_over_its_labelled_splits():
    splits = {"matched": {"accuracy": 0.5, "rows": 4}, "mismatched": {"accuracy": 0.7, "rows": 9}, "more": {"rows": 0}}
    assert main_score(["accuracy", "mcc"], splits) == pytest.approx(0.6)
    assert main_score(["accuracy"], {"more": {"rows": 0}}) is None


def test_errors_and_perplexities_weigh_no_more_than_fractions():
    better = {"nli": {"dev": {"accuracy": 0.9}}, "words": {"dev": {"perplexity": 30.0}}}
    worse = {"nli": {"dev": {"accuracy": 0.5}}, "words": {"dev": {"perplexity": 29.0}}}
    metrics = {"nli": ["accuracy"], "words": ["perplexity"]}
    assert selection_score(better, metrics, "mean") > selection_score(worse, metrics, "mean")
    assert selection_score(better, metrics, "words") < selection_score(worse, metrics, "words")
    assert selection_score(better, metrics, "mean") == pytest.approx((0.9 + 1 / 31) / 2)


def test_tasks_without_labels_do_not_count():
    results = {"nli": {"dev": {"accuracy": 0.9}}, "bare": {"dev": {"rows": 0}}}
    metrics = {"nli": ["accuracy"], "bare": ["accuracy"]}
    assert selection_score(results, metrics, "mean") == 0.9
    assert selection_score(results, metrics, "bare") is None
    assert selection_score({}, {}, "mean") is None


class Counted(dict):
    """A record that counts how many of its kind there are."""

    alive: ClassVar[int] = 0
    most: ClassVar[int] = 0

    def __new__(cls, *values: Any, **named: Any) -> "Counted":
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)
        return super().__new__(cls)

    def __del__(self) -> None:
        Counted.alive -= 1


class Predictor(nn.Module):
    """What `predict_rows` needs of a model; a batch is its row numbers."""

    task_types: ClassVar[dict[str, Any]] = {"task": SimpleNamespace(settle=lambda records, head, tune: records)}
    heads: ClassVar[dict[str, Any]] = {}

    def head_of(self, task: str) -> None:
        return None

    def predict_together(self, batches: list[Any]) -> dict[str, list[Counted]]:
        return {"task": [counted(row) for row in batches[0].rows]}


def counted(row: int) -> Counted:
    return Counted(id=str(row), prediction="ab"[row % 2], label="ab"[row % 3 == 0], scores={"a": 0.5, "b": 0.5})


def batches(rows: list[int]) -> Iterator[tuple[np.ndarray, list[Any]]]:
    for start in range(0, len(rows), 16):
        chosen = SimpleNamespace(rows=rows[start : start + 16])
        chosen.to = lambda device, chosen=chosen: chosen
        yield np.array(chosen.rows), [chosen]


def predicted(num_rows: int) -> Any:
    rows = np.random.default_rng(0).permutation(num_rows).tolist()
    return predict_rows(Predictor(), batches(rows), ["task"], device=torch.device("cpu"), autocast=nullcontext)["task"]


def test_a_bounded_number_of_records_is_in_memory_and_the_results_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ["accuracy", "f1_macro", "mcc", "cross_entropy", "auc", "ece"]
    in_memory = predicted(3000)
    values = measured(in_memory, metrics, ["a", "b"])
    write_records(tmp_path / "in_memory.jsonl", in_memory)
    assert Counted.alive == Counted.most == 3000
    del in_memory
    Counted.most = Counted.alive
    monkeypatch.setattr(stored, "HELD_RECORDS", 100)
    monkeypatch.setattr(stored, "READ_AT_ONCE", 8)
    in_file = predicted(3000)
    assert measured(in_file, metrics, ["a", "b"]) == values
    write_records(tmp_path / "in_file.jsonl", in_file)
    assert (tmp_path / "in_file.jsonl").read_bytes() == (tmp_path / "in_memory.jsonl").read_bytes()
    assert Counted.alive < 40 and Counted.most < 100 + 16 + 33 * 8


class Pair:
    """One of two processes, each a thread, that exchange objects."""

    count = 2

    def __init__(self, rank: int, given: list[Any], meeting: threading.Barrier) -> None:
        self.rank, self.given, self.meeting, self.exchanges = rank, given, meeting, 0

    def gather(self, own: Any) -> list[Any]:
        self.exchanges += 1
        self.given[self.rank] = own
        self.meeting.wait(10)
        found = list(self.given)
        self.meeting.wait(10)
        return found


@pytest.mark.parametrize(("most", "exchanges"), [(1000, 1), (60, 2), (7, 12)])
def test_processes_exchange_their_records_in_parts(most: int, exchanges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EXCHANGED_RECORDS", most)
    monkeypatch.setattr(stored, "HELD_RECORDS", 20)
    given, meeting = [None, None], threading.Barrier(2)
    pair = [Pair(rank, given, meeting) for rank in (0, 1)]
    found: list[Any] = [None, None]

    def work(rank: int, rows: list[int]) -> None:
        own = {"first": RecordsByRow(), "second": RecordsByRow()}
        for task, each in own.items():
            each.add(rows, [{"id": f"{task} {row}"} for row in rows])
        found[rank] = evaluation._of_all(own, pair[rank])

    shares = [[row for row in range(50) if row % 5], [row for row in range(50) if row % 5 == 0]]
    threads = [threading.Thread(target=work, args=(rank, rows)) for rank, rows in enumerate(shares)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for of_process in found:
        for task, each in of_process.items():
            assert list(each.in_order()) == [{"id": f"{task} {row}"} for row in range(50)]
    assert [each.exchanges for each in pair] == [exchanges] * 2
