"""Tagged sentences as rows of a multilabel task."""

import pytest

from data_prep.entity_kinds import convert, kinds_of
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.jobs import readable_jobs
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("tags", "expected"),
    [("O O", "none"), ("B-PER I-PER O B-LOC", "LOC,PER"), ("B-PER O B-PER", "PER"), ("['B-PER', 'O']", "PER"),
     ("", ""), ("-", "")],
)  # fmt: skip
def test_the_kinds_are_those_of_the_tags(tags, expected):
    assert kinds_of(tags) == expected


def test_the_rows_are_those_of_the_shipped_task(tmp_path):
    (tmp_path / "ner.tsv").write_text("1\tB-PER O B-LOC\tAda in Norwich\n2\tO O\tIt rained\n")
    for split in ("train", "tune", "dev"):
        convert(tmp_path / "ner.tsv", tmp_path / "entity_kinds" / f"{split}.tsv")
    jobs, faults = readable_jobs(load_task_defs(REPOSITORY / "experiments/multilabel/tasks.yml"), tmp_path)
    assert faults == []
    assert [[row.label for part in job.parts() for row in job.examples(part)] for job in jobs] == [
        [["LOC", "PER"], []]
    ] * 3
