"""Rows in memory become the same store as the same rows in files, are recognised again, and are checked alike."""

import numpy as np
import pandas
import pytest
from datasets import Dataset

from mtdnn.data.arrow import DATA_FILE
from mtdnn.data.manifest import read_manifest
from mtdnn.data.prepro import prepare
from mtdnn.data.store import open_store
from mtdnn.errors import DataError
from mtdnn.rows.places import open_split, rows_of
from mtdnn.rows.source import RowColumns
from mtdnn.runs.row_check import check
from mtdnn.tokens.loading import load_tokenizer
from tests.reference.project import WORDS, save_encoder

COLUMNS = {"nli": ("id", "label", "premise", "hypothesis"), "like": ("id", "label", "text")}


def in_memory(project, make=list):
    """The project's rows, task → split → what `make` makes of a list of dicts."""
    found = {}
    for path in sorted(project.data.glob("*/*.tsv")):
        source, columns = rows_of(path), RowColumns(COLUMNS[path.parent.name])
        rows = [row.values for part in source.parts() for row in source.read(part, columns)]
        found.setdefault(path.parent.name, {})[path.stem] = make(rows)
    return found


def prepared(project, encoder, rows, **settings):
    return prepare(project.tasks, data=rows, encoder=encoder, out=project.out, num_workers=1, **settings)


def plain(columns):
    """Columns of a store as lists."""
    return {name: list(getattr(column, "values", column)) for name, column in columns.items()}


def files_of(folder):
    """When each file was written, without the lock, which filelock 3.20 truncates each time it is taken."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("make", [list, pandas.DataFrame, Dataset.from_list], ids=["list", "DataFrame", "Dataset"])
def test_the_store_is_that_of_the_same_rows_in_files(project, encoder, make, tmp_path):
    prepared(project, encoder, in_memory(project, make))
    prepare(project.tasks, data=project.data, encoder=encoder, out=tmp_path / "of_files", num_workers=1)
    for path in (tmp_path / "of_files").glob("*/*"):
        ours = project.out / path.relative_to(tmp_path / "of_files")
        assert (ours / DATA_FILE).stat().st_size == (path / DATA_FILE).stat().st_size
        mine, theirs = read_manifest(ours), read_manifest(path)
        assert (mine.rows, mine.labels, mine.lengths) == (theirs.rows, theirs.labels, theirs.lengths)
        task = project.tasks[path.parent.name]
        first, second = (open_store(root, task, path.name) for root in (project.out, tmp_path / "of_files"))
        assert first.ids == second.ids
        assert plain(first.take(np.arange(len(first)))) == plain(second.take(np.arange(len(second))))


def test_unchanged_rows_are_kept_whatever_holds_them_and_changed_ones_are_made_anew(project, encoder):
    prepared(project, encoder, in_memory(project))
    before = files_of(project.out)
    prepared(project, encoder, in_memory(project, Dataset.from_list))
    assert files_of(project.out) == before
    rows = in_memory(project)
    rows["like"]["dev"][0]["text"] = "The fast boat."
    prepared(project, encoder, rows)
    changed = {path.parent.name for path, time in files_of(project.out).items() if before.get(path) != time}
    assert changed - {project.out.name} == {"dev"}
    assert {path for path, time in files_of(project.out / "nli").items()} <= before.keys()


def test_several_processes_make_the_same_store(project, encoder, tmp_path):
    rows = [{"label": "yes_", "premise": f"A {WORDS[n % 9]}.", "hypothesis": "The lake."} for n in range(12000)]
    project.define(project.definitions.read_text().split("like:")[0])
    tables = {"nli": {"train": rows, "dev": pandas.DataFrame(rows)}}
    for workers in (1, 2):
        prepare(project.tasks, data=tables, encoder=encoder, out=tmp_path / str(workers), num_workers=workers)
    for split in ("train", "dev"):
        one, two = (tmp_path / workers / "nli" / split / DATA_FILE for workers in ("1", "2"))
        assert one.read_bytes() == two.read_bytes()
    assert open_store(tmp_path / "2", project.tasks["nli"], "train").ids == [str(n) for n in range(1, 12001)]


def test_bad_rows_are_refused_by_prepare_and_check_with_their_places_in_python(project, encoder):
    rows = in_memory(project)
    rows["nli"]["train"][1]["label"] = "maybe"
    rows["nli"]["train"].append({**rows["nli"]["train"][0], "premise": " "})
    rows["nli"]["dev"][1]["id"] = "d1"
    rows["like"] = {"train": rows["like"]["train"]}
    with pytest.raises(DataError) as caught:
        prepared(project, encoder, rows)
    labels = f"{project.definitions}:4"
    assert caught.value.lines == (
        "rows['like']: no rows for split 'dev'; there are: train. Rename one, or name it in the task's `splits`.",
        f"rows['nli']['train']:2: label: 'maybe' is not in nli.labels ({labels}): yes_, no_. "
        "Fix the row, or add the label.",
        "rows['nli']['train']:4: premise: empty text. Give the text, or remove the row.",
        "rows['nli']['dev']:2: id: 'd1' is also the id of rows['nli']['dev']:1. Rename one of them.",
    )
    assert not project.out.exists()
    report = check(project.tasks, data=rows, num_workers=1)
    assert set(map(str, report.faults)) == set(caught.value.lines)


def test_a_task_with_a_source_takes_its_rows_from_memory_where_they_are_there(project):
    task = project.tasks["nli"].model_copy(update={"source": {"path": "nowhere"}})
    rows = in_memory(project)
    assert open_split(task, "train", rows).place == "rows['nli']['train']"


def test_a_store_of_rows_in_memory_that_does_not_fit_names_the_call_that_mends_it(project, encoder, tmp_path):
    prepared(project, encoder, in_memory(project))
    other = load_tokenizer(save_encoder(tmp_path / "other", WORDS[::-1]))
    with pytest.raises(DataError) as caught:
        open_store(project.out, project.tasks["nli"], "train", tokenizer=other)
    assert str(caught.value).endswith("Call mtdnn.prepare with the rows of 'nli' again.")
