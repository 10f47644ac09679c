"""The rows of experiments/structured, and how a classifier is measured as a ranker there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mtdnn.task_types  # noqa: F401  registers them
from experiments.structured import rows
from experiments.structured.run import in_every_format, ranked
from mtdnn.config.tasks import load_task_defs
from mtdnn.rows.places import read_rows
from mtdnn.rows.source import RowColumns
from mtdnn.task_types.base import TASK_TYPES

PAIRS = [
    ("q0-0", "0", "Where is the mill?", "It rains."),
    ("q0-1", "1", "Where is the mill?", "The mill stands by the river."),
    ("q1-0", "1", "Who keeps bees?", "Ida keeps bees."),
    ("q1-1", "1", "Who keeps bees?", "Bees are kept by Ida."),
    ("q2-0", "1", "Is it late?", "Yes."),
    ("q3-0", "0", "Why?", "No."),
    ("q3-1", "0", "Why?", "So."),
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in PAIRS), encoding="utf-8")
    return path


def test_choices_are_questions_with_one_right_sentence_among_several(pairs: Path, tmp_path: Path) -> None:
    rows.write_choices(pairs, tmp_path / "out" / "train.tsv")
    written = (tmp_path / "out" / "train.tsv").read_text(encoding="utf-8")
    assert written == "q0-0\t1\tWhere is the mill?\tIt rains.\tThe mill stands by the river.\n"


def test_questions_are_split_where_the_first_test_article_begins(tmp_path: Path) -> None:
    source = tmp_path / "all.tsv"
    contexts = ["An oak.", "A mill.", rows.FIRST_TEST_ARTICLE + ") is a town.", "Its bridges."]
    source.write_text("".join(f"{n}\t[]\t{context}\tWhat?\n" for n, context in enumerate(contexts)), encoding="utf-8")
    rows.write_questions(source, tmp_path / "squad2")
    ids = [[line[0] for line in (tmp_path / "squad2" / f"{split}.tsv").open()] for split in ("train", "dev")]
    assert ids == [["0", "1"], ["2", "3"]]
    source.write_text("0\t[]\tAn oak.\tWhat?\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no context begins with"):
        rows.write_questions(source, tmp_path / "squad2")


def test_a_classifier_ranks_the_sentences_of_a_question(pairs: Path, tmp_path: Path) -> None:
    shares = {"q0-0": 0.9, "q0-1": 0.4, "q1-0": 0.2, "q1-1": 0.3, "q2-0": 0.1, "q3-0": 0.5, "q3-1": 0.6}
    labels = {row[0]: row[1] for row in PAIRS}
    records = [{"id": name, "label": labels[name], "scores": {"0": 1 - p, "1": p}} for name, p in shares.items()]
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    found = ranked(predictions, pairs)  # the right one second; both right; alone; no right one, which does not count
    assert found == pytest.approx({"map": (0.5 + 1 + 1) / 3, "mrr": (0.5 + 1 + 1) / 3, "accuracy_at_1": 2 / 3})


@pytest.mark.parametrize("name", ["rte", "wikiqa", "wikiqa_choice", "conll2003", "squad2", "lm"])
def test_every_format_holds_the_same_rows(name: str, tmp_path: Path) -> None:
    task = load_task_defs("experiments/structured/tasks.yml")[name]
    task_type = TASK_TYPES.get(task.task_type)(task)
    sample = TASK_TYPES.get("classification" if task_type.group_by else task.task_type).sample_rows
    source = tmp_path / ("dev.txt" if name == "lm" else "dev.tsv")
    source.write_text("".join((row.split("\t")[1] if name == "lm" else row) + "\n" for row in sample), encoding="utf-8")
    columns = RowColumns(task_type.columns, task_type.repeats_last and task_type.group_by is None)
    found = [
        [list(row.values.values())[1:] for row in read_rows(path, columns)]
        for path in in_every_format(source, task_type, tmp_path / "formats")
    ]
    assert len(found) == 4 and len(found[0]) == 3
    assert all(each == found[0] for each in found[1:])


def test_the_definitions_fit_their_types() -> None:
    from mtdnn.data.jobs import block_faults

    tasks = load_task_defs("experiments/structured/tasks.yml")
    assert [line for task in tasks.values() for line in block_faults(task)] == []
    elsewhere = {"multilabel", "coreference", "generation"}  # each has rows, and generation an encoder, of its own
    assert {task.task_type for task in tasks.values()} == set(TASK_TYPES.names()) - elsewhere
