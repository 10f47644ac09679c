"""Every shipped task definition loads, uses only words the code knows, and names what its converter writes."""

from pathlib import Path

import pytest

import mtdnn.task_types  # noqa: F401, registers the task types
from mtdnn.config.tasks import TaskDef, load_task_defs
from mtdnn.task_types.base import TASK_TYPES

FOLDER = Path(__file__).parents[2] / "task_defs"
FILES = sorted(FOLDER.glob("*.yml"))
NAMES = {
    "glue.yml": ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"],
    "snli.yml": ["snli"],
    "scitail.yml": ["scitail"],
    "anli.yml": ["anli"],
    "cs224n.yml": ["sst5", "cfimdb", "quora", "sts"],
    "conll2003.yml": ["conll2003"],
    "squad.yml": ["squad1", "squad2"],
    "wikiqa.yml": ["wikiqa"],
    "lm.yml": ["lm"],
    "superglue.yml": ["boolq", "cb", "copa", "multirc", "record", "superglue_rte", "wic", "wsc", "axb", "axg"],
    "pronouns.yml": ["wnli_pronoun", "wsc_pronoun", "dpr", "wsc273", "pdp"],
    "demo.yml": ["demo_sentiment", "demo_nli", "demo_similarity", "demo_target"],
}


def tasks_of(path: Path) -> list[TaskDef]:
    return list(load_task_defs(path).values())


@pytest.mark.parametrize("file", NAMES)
def test_each_benchmark_has_its_tasks(file):
    assert list(load_task_defs(FOLDER / file)) == NAMES[file]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_task_types_find_no_fault(path):
    for task in tasks_of(path):
        assert TASK_TYPES.get(task.task_type).faults(task) == []


def test_no_task_name_is_shipped_twice():
    names = [task.name for path in FILES for task in tasks_of(path)]
    assert len(names) == len(set(names))


def test_dropout_is_that_of_the_paper():
    dropout = {task.name: task.dropout for task in tasks_of(FOLDER / "glue.yml")}
    assert dropout.pop("mnli") == 0.3 and dropout.pop("cola") == 0.05
    assert set(dropout.values()) == {0.1}


def test_the_diagnostic_set_is_only_for_testing():
    ax = load_task_defs(FOLDER / "glue.yml")["ax"]
    assert ax.splits == {"test": ("test",)} and ax.metrics[0] == "mcc"


def test_demo_definitions_match_the_demo_corpora():
    from data_prep.demo import SIZES

    for task in tasks_of(FOLDER / "demo.yml"):
        assert set(task.split_names) == set(SIZES[task.name])
        assert task.max_rows is None or task.max_rows < SIZES[task.name]["train"]
